//! `test`: does all its own set-up, then hands over to the runner.
//!
//! The runner's summary stays the last line, so that a person or a script reading the end of the
//! output learns how many tests ran.

use anyhow::{Result, bail};

use crate::shell::{cargo, is_root, output, program, run as execute};
use crate::{setup, stage};

/// Runs the tests; words that are no option of ours go to the runner as filters.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let unit = words.iter().any(|word| word == "--unit");
    let filters: Vec<&String> = words.iter().filter(|word| *word != "--unit").collect();
    if !unit {
        setup::run()?;
        stage::all()?;
    }
    let mut command = runner(unit, filters)?;
    if unit || is_root() { execute(&mut command) } else { execute(&mut as_root_of_its_own(&command)?) }
}

fn runner(unit: bool, filters: Vec<&String>) -> Result<std::process::Command> {
    let nextest = output(cargo().args(["nextest", "--version"])).is_ok();
    let mut command = cargo();
    if nextest {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        command.args(["test", "--workspace", "--no-fail-fast"]);
    }
    if unit {
        command.args(["--lib", "--bins"]);
    } else if !nextest {
        // No documentation tests, as nextest has none: their empty summary would be the last line.
        command.args(["--lib", "--bins", "--tests"]);
    }
    if nextest {
        command.args(filters);
    } else {
        if filters.len() > 1 {
            bail!("test: without cargo-nextest only one filter can be given");
        }
        command.arg("--").args(filters);
    }
    Ok(command)
}

/// Wraps the runner so that it is root in a user namespace of its own.
///
/// The tests need to own network and mount namespaces, which an ordinary user can: in a user
/// namespace.
fn as_root_of_its_own(runner: &std::process::Command) -> Result<std::process::Command> {
    let mut command = program("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "--net"])
        .arg(runner.get_program())
        .args(runner.get_args());
    Ok(command)
}
