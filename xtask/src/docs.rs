//! Pages under docs/ that are made from the program, so that they cannot tell another story.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::check::directions;
use crate::shell::{output, program, top, write};
use crate::stage;

const OPTIONS: &str = "docs/options.md";
const ARCHITECTURE: &str = "docs/architecture.md";
/// What stands around the part of a page that is generated.
const MARKS: [&str; 2] = ["<!-- made by cargo xtask docs -->\n", "<!-- until here -->\n"];

/// Rewrites the generated pages.
pub(crate) fn run() -> Result<()> {
    write(&top().join(ARCHITECTURE), &with_directions(&read(ARCHITECTURE))?)?;
    stage::all()?;
    write(&top().join(OPTIONS), &options()?)
}

fn read(page: &str) -> String {
    std::fs::read_to_string(top().join(page)).unwrap_or_default()
}

/// Returns the page with the table of who may depend on whom as it is enforced.
fn with_directions(page: &str) -> Result<String> {
    let [first, last] = MARKS;
    let parts = page.split_once(first).and_then(|(before, rest)| Some((before, rest.split_once(last)?.1)));
    let (before, after) = parts.with_context(|| format!("{ARCHITECTURE} has no place for a table"))?;
    Ok(format!("{before}{first}{}{last}{after}", directions::table()))
}

/// Compares the generated pages with what they would be now.
pub(crate) fn are_current() -> Result<()> {
    let architecture = read(ARCHITECTURE);
    if architecture != with_directions(&architecture)? {
        bail!("{ARCHITECTURE} is out of date: cargo xtask docs");
    }
    stage::all()?;
    if read(OPTIONS) != options()? {
        bail!("{OPTIONS} is out of date: cargo xtask docs");
    }
    Ok(())
}

/// Makes the page of every plugin's options from what the plugins say of themselves.
fn options() -> Result<String> {
    let mut page = String::from(
        "# Options of the plugins\n\n\
         Made by `cargo xtask docs` from what each plugin prints for `describe`. `weft plugin describe TYPE` shows the same.\n",
    );
    for kind in stage::types()? {
        let text = output(program(stage::folder().join(&kind)).arg("describe").env_remove("CNI_COMMAND"))?;
        let about: Value =
            serde_json::from_str(&text).with_context(|| format!("{kind} describe printed no JSON"))?;
        let word = |value: &Value| value.as_str().unwrap_or_default().replace('<', "&lt;");
        let _ = write!(page, "\n## {kind}\n\n{}.\n", word(&about["summary"]).trim_end_matches('.'));
        let options = about["options"].as_array().map(Vec::as_slice).unwrap_or_default();
        if options.is_empty() {
            page.push_str("\nNo options.\n");
            continue;
        }
        page.push_str("\n| option | value | default | meaning |\n|---|---|---|---|\n");
        for option in options {
            let names =
                std::iter::once(&option["name"]).chain(option["aliases"].as_array().into_iter().flatten());
            let names: Vec<String> = names.map(|name| format!("`{}`", word(name))).collect();
            let cells =
                [names.join("<br>"), word(&option["value"]), word(&option["default"]), word(&option["help"])];
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(page, "| {} |", cells.join(" | "));
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_put_between_the_marks_and_nothing_else_is_touched() {
        let [first, last] = MARKS;
        let made = with_directions(&format!("before\n{first}| old |\n{last}after\n")).unwrap();
        assert!(made.starts_with(&format!("before\n{first}| who | may use |\n")), "{made}");
        assert!(
            made.contains("| `model` | nothing of ours |\n") && made.ends_with(&format!("|\n{last}after\n"))
        );
        assert!(!made.contains("old"));
        assert_eq!(with_directions(&made).unwrap(), made);
        with_directions("no marks").unwrap_err();
    }
}
