//! The tools that `check` calls.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell::{cargo, have, output, program, run as execute, top};

/// The versions this repository was last checked with.
const TYPOS: &str = "1.52.0";
const DENY: &str = "0.20.2";

/// Installs the tools that are missing.
pub(crate) fn ensure() -> Result<()> {
    if !have("typos") && !own_typos().is_file() {
        // Compiling it takes two minutes and more; the same program comes ready-made as a Python wheel.
        if wheel().is_err() {
            compile("typos-cli", TYPOS)?;
        }
    }
    if !have("cargo-deny") {
        compile("cargo-deny", DENY)?;
    }
    Ok(())
}

/// Returns the spelling checker: the installed one, or ours under target/.
pub(crate) fn typos() -> PathBuf {
    if own_typos().is_file() { own_typos() } else { "typos".into() }
}

fn own_typos() -> PathBuf {
    top().join("target/tools/bin/typos")
}

fn wheel() -> Result<()> {
    output(program("python3").args(["-m", "venv", "target/tools"]))?;
    output(program("target/tools/bin/pip").args(["install", "--quiet", &format!("typos=={TYPOS}")])).map(drop)
}

fn compile(package: &str, version: &str) -> Result<()> {
    println!("compiling {package} {version}: some minutes, once a machine");
    execute(cargo().args(["install", "--quiet", "--locked", package, "--version", version]))
}
