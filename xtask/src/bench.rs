//! `bench`: builds the measuring program and hands over to it.

use anyhow::Result;

use crate::shell::{cargo, output, program, run as execute, top};
use crate::{peers, setup, stage};

/// Measures; with `--quick` fewer rounds, with `--traffic` only what passes through a port, with `--overlay` only overlays, with `--hosts` only hundreds of hosts on one etcd; no page is
/// written then.
pub(crate) fn run(words: &[String]) -> Result<()> {
    setup::run()?;
    peers::ensure();
    stage::all()?;
    output(cargo().args(["build", "--quiet", "--release", "--package", "weft-bench"]))?;
    execute(program(top().join("target/release/weft-bench")).args(words))
}
