//! `check`: what a change must pass besides its tests.

pub(crate) mod directions;
mod house;
mod links;

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, have, output, program, run as execute, top, tracked};
use crate::{docs, setup, tools};

/// One gate of the check.
type Gate = (&'static str, fn() -> Result<()>);

const GATES: [Gate; 10] = [
    ("format", format),
    ("house rules", house::check),
    ("dependency directions", directions::check),
    ("links between pages", links::check),
    ("spelling", spelling),
    ("shell scripts", shell_scripts),
    ("clippy", clippy),
    ("the fuzzer's lock file", fuzz_lock),
    ("licences, bans, sources", deny),
    ("generated pages", docs::are_current),
];

/// Passes every gate, and names all that were not passed.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    tools::ensure()?;
    let mut failed = Vec::new();
    for (name, gate) in GATES {
        match gate() {
            Ok(()) => println!("ok      {name}"),
            Err(error) => {
                println!("FAILED  {name}\n{error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("check: {}", failed.join(", "));
    }
    Ok(())
}

fn format() -> Result<()> {
    execute(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    execute(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn spelling() -> Result<()> {
    execute(&mut program(tools::typos()))
}

/// The fuzzer's targets are a workspace of their own, whose lock file nobody else's build looks at.
fn fuzz_lock() -> Result<()> {
    let mut fetch = cargo();
    fetch.args(["fetch", "--quiet", "--locked", "--target", "x86_64-unknown-linux-gnu"]);
    let fetched = output(fetch.args(["--manifest-path", "fuzz/Cargo.toml"])).map(drop);
    fetched.context("cargo tree --manifest-path fuzz/Cargo.toml writes it again")
}

fn deny() -> Result<()> {
    output(cargo().args(["deny", "--log-level", "error", "check", "licenses", "bans", "sources"])).map(drop)
}

fn shell_scripts() -> Result<()> {
    if !have("shellcheck") {
        bail!("shellcheck is missing: cargo xtask setup");
    }
    let mut scripts = Vec::new();
    for path in tracked()? {
        let named = path.extension().is_some_and(|end| end == "sh");
        if named || first_line(&path).is_some_and(|line| line.starts_with("#!") && line.contains("sh")) {
            scripts.push(
                path.strip_prefix(top()).context("a tracked file outside the work tree")?.to_path_buf(),
            );
        }
    }
    output(program("shellcheck").args(["--color=never", "--external-sources"]).args(scripts)).map(drop)
}

fn first_line(path: &std::path::Path) -> Option<String> {
    use std::io::{BufRead, BufReader, Read};
    let file = std::fs::File::open(path).ok()?;
    let mut line = String::new();
    BufReader::new(file.take(100)).read_line(&mut line).ok()?;
    Some(line)
}
