//! `bench`: builds the measuring program and hands over to it.

use anyhow::{Result, bail};

use crate::shell::{cargo, output, program, run as execute, top};
use crate::{kernel, peers, setup, stage};

/// The option to measure what was built and staged before.
const STAGED: &str = "--staged";

/// Measures; with `--quick` fewer rounds, with `--traffic` only what passes through a port, with `--plugins` only every plugin, with
/// `--overlay` only overlays, with `--hosts` only hundreds of hosts on one etcd; no page is written then.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let staged = words.iter().any(|word| word == STAGED);
    let mut words: Vec<String> = words.iter().filter(|word| *word != STAGED).cloned().collect();
    let mut under = None;
    if let Some(at) = words.iter().position(|word| word == "--kernel") {
        under = words.drain(at..words.len().min(at + 2)).nth(1);
        if under.as_deref() != Some("debian") || words.first().is_none_or(|word| word != "--plugins") {
            bail!("bench: --kernel goes with --plugins, and takes debian");
        }
    }
    setup::run()?;
    peers::ensure();
    if let Some(lack) = under.as_ref().and_then(|_| kernel::lacks()) {
        bail!("bench: Debian's kernel needs {lack}");
    }
    if !staged {
        stage::all()?;
        output(cargo().args(["build", "--quiet", "--release", "--package", "weft-bench"]))?;
    }
    let bench = top().join("target/release/weft-bench");
    if under.is_none() {
        return execute(program(bench).args(words));
    }
    let mut guest = kernel::prepare(&[format!("{} {}", bench.display(), words.join(" "))])?;
    execute(&mut guest.command)?;
    let ended = std::fs::read_to_string(guest.shared.join("rc")).unwrap_or_default();
    if ended.trim() == "0" { Ok(()) } else { bail!("bench: what ran under Debian's kernel did not end well") }
}
