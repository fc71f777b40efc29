//! The cargo tools that `check` calls.

use anyhow::Result;

use crate::shell::{cargo, have, run as execute};

/// The program that must be found, the package that brings it, and the version this repository was last checked with.
const TOOLS: [(&str, &str, &str); 2] =
    [("typos", "typos-cli", "1.52.0"), ("cargo-deny", "cargo-deny", "0.20.2")];

/// Installs the tools that are missing. Compiling both takes some minutes, once a machine.
pub(crate) fn ensure() -> Result<()> {
    for (program, package, version) in TOOLS {
        if !have(program) {
            println!("compiling {package} {version} (once a machine)");
            execute(cargo().args(["install", "--quiet", "--locked", package, "--version", version]))?;
        }
    }
    Ok(())
}
