//! Lists: as a table, as JSON, or as a person's template says.

use serde_json::{Map, Value};

use crate::template::{Template, TemplateError};

/// DOCKER: columns are at least ten wide and three apart.
const WIDTH: usize = 10;
const GAP: usize = 3;

/// A column: its field and its heading.
pub(crate) type Column = (&'static str, &'static str);

/// A list's form: what its rows have, and what is shown unless something else is asked for.
pub(crate) struct Form<'a> {
    /// Every field a template may name.
    pub(crate) columns: &'a [Column],
    /// The usual format.
    pub(crate) usual: &'a str,
    /// The field that is shown when only ids are asked for.
    pub(crate) quiet: &'a str,
}

impl Form<'_> {
    /// Returns the rows in the format asked for. Each row is an object of texts; an object under `Label` is for
    /// `.Label "key"` and is not a column.
    ///
    /// # Errors
    ///
    /// When the format is no template, or names a field that is not there.
    pub(crate) fn print(
        &self,
        rows: &[Value],
        format: Option<&str>,
        quiet: bool,
    ) -> Result<String, TemplateError> {
        if quiet && format.is_none_or(|format| format.is_empty() || format.starts_with("table")) {
            return lines(rows, &format!("{{{{.{}}}}}", self.quiet));
        }
        match format.unwrap_or_default() {
            "json" => Ok(rows.iter().map(|row| format!("{}\n", without_label(row))).collect()),
            // DOCKER: an empty format is none.
            "" | "table" => self.table(rows, self.usual),
            format => match format.strip_prefix("table ") {
                Some(format) => self.table(rows, format),
                None => lines(rows, format),
            },
        }
    }

    fn table(&self, rows: &[Value], format: &str) -> Result<String, TemplateError> {
        let template = Template::parse(format)?;
        let mut header: Map<String, Value> =
            self.columns.iter().map(|(field, heading)| ((*field).into(), (*heading).into())).collect();
        header.insert("Label".into(), labels_as_headings(format));
        let mut lines = vec![template.render(&Value::Object(header))?];
        for row in rows {
            lines.push(template.render(row)?);
        }
        Ok(aligned(&lines))
    }
}

fn lines(rows: &[Value], format: &str) -> Result<String, TemplateError> {
    let template = Template::parse(format)?;
    rows.iter().map(|row| Ok(template.render(row)? + "\n")).collect()
}

fn without_label(row: &Value) -> Value {
    let mut row = row.clone();
    if let Some(members) = row.as_object_mut() {
        members.remove("Label");
    }
    row
}

/// DOCKER: the heading of `.Label "key"` is the key.
fn labels_as_headings(format: &str) -> Value {
    let keys = format.split(".Label \"").skip(1).filter_map(|rest| rest.split('"').next());
    Value::Object(keys.map(|key| (key.to_owned(), key.into())).collect())
}

/// Pads the cells of each line, which tabs separate; the last one stays as it is.
fn aligned(lines: &[String]) -> String {
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let lengths =
            cells.iter().filter(|line| column + 1 < line.len()).map(|line| line[column].chars().count());
        (lengths.max().unwrap_or_default() + GAP).max(WIDTH)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &cells {
        for (cell, width) in line.iter().zip(&widths).take(line.len() - 1) {
            text.push_str(&format!("{cell:width$}"));
        }
        text.push_str(line.last().copied().unwrap_or_default());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FORM: Form<'_> = Form {
        columns: &[("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")],
        usual: "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        quiet: "ID",
    };

    fn rows() -> Vec<Value> {
        let row = |id: &str, name: &str, driver: &str| json!({"ID": id, "Name": name, "Driver": driver, "Scope": "local", "Label": {"env": "test"}});
        vec![row("7fca4eb8c647", "bridge", "bridge"), row("9f904ee27bf5", "none", "null")]
    }

    fn print(format: Option<&str>, quiet: bool) -> String {
        Form { usual: FORM.usual.strip_prefix("table ").unwrap(), ..FORM }
            .print(&rows(), format, quiet)
            .unwrap()
    }

    #[test]
    fn tables_look_like_dockers() {
        assert_eq!(
            print(None, false),
            "NETWORK ID     NAME      DRIVER    SCOPE\n\
             7fca4eb8c647   bridge    bridge    local\n\
             9f904ee27bf5   none      null      local\n"
        );
        assert_eq!(
            print(Some("table {{.Name}}\\t{{.Label \"env\"}}"), false),
            "NAME      env\nbridge    test\nnone      test\n"
        );
    }

    #[test]
    fn other_forms() {
        assert_eq!(print(None, true), "7fca4eb8c647\n9f904ee27bf5\n");
        assert_eq!(print(Some(""), true), print(None, true));
        assert_eq!(print(Some(""), false), print(None, false));
        assert_eq!(print(Some("{{.Name}}: {{.Driver}}"), true), "bridge: bridge\nnone: null\n");
        assert_eq!(
            print(Some("json"), false).lines().next().unwrap(),
            r#"{"Driver":"bridge","ID":"7fca4eb8c647","Name":"bridge","Scope":"local"}"#
        );
        assert!(FORM.print(&rows(), Some("{{.Nope}}"), false).is_err());
    }
}
