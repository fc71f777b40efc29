//! The part of Go's text templates that people type after `--format`.
//!
//! DOCKER: `{{.Name}}`, `{{json .}}`, `{{range .IPAM.Config}}{{.Subnet}}{{end}}` and what is common beside them:
//! pipelines, `if`, `with`, `index`, comparison, variables, trimming. Anything else is an error with a name.

mod eval;
mod function;
mod lex;
mod parse;

use std::fmt;

use serde_json::Value;

use parse::Node;

/// A format that was read.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// What is wrong with a format.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TemplateError(String);

impl fmt::Display for TemplateError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "template parsing error: {}", self.0)
    }
}

impl TemplateError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl Template {
    /// Reads a format. `\t` and `\n` typed as two characters are a tab and a newline.
    ///
    /// # Errors
    ///
    /// Names what is not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))? })
    }

    /// Fills the format in with `data`.
    ///
    /// # Errors
    ///
    /// Names the field or function that is not there.
    pub(crate) fn render(&self, data: &Value) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(format: &str) -> String {
        let data = json!({
            "Name": "n1",
            "Internal": false,
            "Count": 3,
            "IPAM": {"Config": [{"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1"}, {"Subnet": "fd01::/64"}]},
            "Containers": {"b": {"Name": "blue"}, "a": {"Name": "red"}},
            "Labels": {"env": "test", "a.b": "c"},
            "Empty": [],
        });
        match Template::parse(format).and_then(|template| template.render(&data)) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn fields_and_functions() {
        for (format, expected) in [
            ("plain", "plain"),
            ("{{.Name}}", "n1"),
            ("{{ .Name }}\\t{{.Count}}", "n1\t3"),
            ("{{.Internal}}", "false"),
            ("{{json .Name}} {{json .Labels}}", r#""n1" {"a.b":"c","env":"test"}"#),
            (
                "{{json .IPAM.Config}}",
                r#"[{"Gateway":"10.1.0.1","Subnet":"10.1.0.0/24"},{"Subnet":"fd01::/64"}]"#,
            ),
            ("{{.Labels}}", "map[a.b:c env:test]"),
            ("{{.Labels.env}} [{{.Labels.nothing}}]", "test []"),
            ("{{index .Labels \"a.b\"}}", "c"),
            ("{{(index .IPAM.Config 0).Subnet}}", "10.1.0.0/24"),
            ("{{upper .Name}} {{.Name | upper | lower}} {{title \"ab\"}}", "N1 n1 Ab"),
            ("{{len .Containers}} {{len .Name}}", "2 2"),
            ("{{printf \"%s-%d %v %q %%\" .Name .Count .Internal .Name}}", "n1-3 false \"n1\" %"),
            ("{{join (split \"a,b\" \",\") \"+\"}}", "a+b"),
            ("{{truncate \"abcdef\" 3}}|{{pad \"x\" 1 2}}|", "abc| x  |"),
            ("{{print .Name 1}}{{println}}", "n1 1\n"),
            ("{{`raw`}}{{/* nothing */}}", "raw"),
        ] {
            assert_eq!(render(format), expected, "{format}");
        }
    }

    #[test]
    fn blocks() {
        for (format, expected) in [
            ("{{range .IPAM.Config}}{{.Subnet}} {{end}}", "10.1.0.0/24 fd01::/64 "),
            ("{{range .Containers}}{{.Name}},{{end}}", "red,blue,"),
            ("{{range $id, $c := .Containers}}{{$id}}={{$c.Name}};{{end}}", "a=red;b=blue;"),
            (
                "{{range $i, $c := .IPAM.Config}}{{if $i}}, {{end}}{{$c.Subnet}}{{end}}",
                "10.1.0.0/24, fd01::/64",
            ),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .IPAM.Config}}{{$.Name}}{{end}}", "n1n1"),
            ("{{if .Internal}}in{{else}}out{{end}}", "out"),
            ("{{if .Internal}}a{{else if eq .Count 3}}b{{else}}c{{end}}", "b"),
            ("{{if and .Name (not .Internal)}}yes{{end}}", "yes"),
            ("{{if or .Internal .Empty}}yes{{else}}no{{end}}", "no"),
            ("{{if ne .Name \"n2\"}}yes{{end}}", "yes"),
            ("{{if gt .Count 2}}yes{{end}}{{if lt .Count 2}}no{{end}}", "yes"),
            ("{{with .IPAM}}{{len .Config}}{{end}}", "2"),
            ("{{with .Empty}}x{{else}}y{{end}}", "y"),
            ("{{$n := .Name}}{{$n}}", "n1"),
            ("a  {{- .Name -}}  b", "an1b"),
        ] {
            assert_eq!(render(format), expected, "{format}");
        }
    }

    #[test]
    fn what_is_not_understood_has_a_name() {
        for (format, part) in [
            ("{{.Nothing}}", "there is no field Nothing"),
            ("{{.Name.Inner}}", "there is no field Name.Inner"),
            ("{{frobnicate .Name}}", "function \"frobnicate\" is not defined"),
            ("{{.Name", "unclosed action"),
            ("{{range .Empty}}", "unexpected end"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{else}}", "unexpected {{else}}"),
            ("{{}}", "missing value"),
            ("{{\"open}}", "unterminated"),
            ("{{range .Name}}{{end}}", "cannot range over"),
            ("{{$x}}", "undefined variable \"$x\""),
            ("{{index .Empty 5}}", "out of range"),
            ("{{.Name .Count}}", "is not a function"),
            ("{{(.Name}}", "unclosed parenthesis"),
            ("{{printf \"%x\" .Count}}", "printf: %x is not supported"),
            ("{{printf \"%5s\" .Name}}", "printf: %5 is not supported"),
            ("{{printf \"%s\"}}", "printf: there is no value for %s"),
            ("{{printf \"100%\"}}", "printf: % at the end"),
            ("{{upper}}", "wrong number of args for upper"),
        ] {
            let text = render(format);
            assert!(text.starts_with("template parsing error: ") && text.contains(part), "{format}: {text}");
        }
    }
}
