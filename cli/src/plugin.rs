//! `weft plugin ...`

use serde_json::{Value, json};
use weft_manager::drivers::About;
use weft_manager::{self as manager, Manager};

use crate::args;
use crate::report::Report;
use crate::table::Form;

const LIST: Form<'_> = Form {
    columns: &[
        ("Type", "TYPE"),
        ("Driver", "DRIVER"),
        ("Versions", "VERSIONS"),
        ("Path", "PATH"),
        ("Summary", "SUMMARY"),
    ],
    usual: "{{.Type}}\t{{.Driver}}\t{{.Versions}}\t{{.Path}}\t{{.Summary}}",
    quiet: "Type",
};

const OPTIONS: Form<'_> = Form {
    columns: &[
        ("Name", "OPTION"),
        ("Value", "VALUE"),
        ("Default", "DEFAULT"),
        ("Help", "MEANING"),
        ("Aliases", "ALSO KNOWN AS"),
    ],
    usual: "{{.Name}}\t{{.Value}}\t{{.Default}}\t{{.Help}}",
    quiet: "Name",
};

/// Carries a command out.
pub(crate) fn run(manager: &Manager, command: args::Plugin, report: &mut Report) {
    let outcome = match command {
        args::Plugin::Ls { format } => {
            let rows: Vec<Value> = manager.plugins().iter().map(row).collect();
            LIST.print(&rows, format.as_deref(), false)
        }
        args::Plugin::Describe { kind, format } => {
            let Some(about) = report.take(manager.describe(&kind)) else { return };
            match format {
                Some(_) => Ok(format!("{}\n", weft_cni::json::pretty(&about))),
                None => describe(&about),
            }
        }
    };
    match outcome {
        Ok(text) => report.print(&text),
        Err(error) => report.usage(error),
    }
}

fn row(plugin: &manager::Plugin) -> Value {
    let about = plugin.about.as_ref();
    let versions = match &plugin.versions[..] {
        [first, .., last] => format!("{first} - {last}"),
        [only] => only.clone(),
        [] => String::new(),
    };
    json!({
        "Type": plugin.kind,
        "Driver": if about.is_some_and(|about| about.driver.is_some()) { "yes" } else { "no" },
        "Versions": versions,
        "Path": plugin.path.to_string_lossy(),
        "Summary": about.map(|about| about.summary.as_str()).unwrap_or_default(),
    })
}

fn describe(about: &About) -> Result<String, crate::template::TemplateError> {
    let mut text = format!("{}: {}\n", about.kind, about.summary);
    if let Some(refusal) = about.driver.as_ref().and_then(|driver| driver.refusal.as_ref()) {
        text.push_str(&format!("\n{refusal}\n"));
    }
    if about.options.is_empty() {
        return Ok(text);
    }
    let rows: Vec<Value> = about
        .options
        .iter()
        .map(|option| {
            json!({
                "Name": option.name,
                "Value": option.value,
                "Default": option.default,
                "Help": option.help,
                "Aliases": option.aliases.join(","),
            })
        })
        .collect();
    text.push('\n');
    text.push_str(&OPTIONS.print(&rows, None, false)?);
    let aliases: Vec<&Value> = rows.iter().filter(|row| row["Aliases"] != "").collect();
    if !aliases.is_empty() {
        let rows: Vec<Value> = aliases.into_iter().cloned().collect();
        text.push('\n');
        text.push_str(&OPTIONS.print(&rows, Some("table {{.Name}}\t{{.Aliases}}"), false)?);
    }
    Ok(text)
}
