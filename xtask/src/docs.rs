//! Pages under docs/ that are made from the program, so that they cannot tell another story.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{output, program, top, write};
use crate::stage;

const OPTIONS: &str = "docs/options.md";

/// Rewrites the generated pages.
pub(crate) fn run() -> Result<()> {
    stage::all()?;
    write(&top().join(OPTIONS), &options()?)
}

/// Compares the generated pages with what they would be now.
pub(crate) fn are_current() -> Result<()> {
    stage::all()?;
    let there = std::fs::read_to_string(top().join(OPTIONS)).unwrap_or_default();
    if there != options()? {
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
