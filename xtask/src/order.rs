//! `order`: finds which functions the plugins run and writes them to `cni/order.txt`, for the linker.

use anyhow::Result;

use crate::shell::{cargo, output, program, run as execute, top};
use crate::{peers, setup, stage};

/// Stages the plugins with their symbols, has them run step by step, which writes the list, and stages them by it.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    peers::ensure();
    stage::with_symbols()?;
    output(cargo().args(["build", "--quiet", "--release", "--package", "weft-bench"]))?;
    execute(program(top().join("target/release/weft-bench")).arg("--order"))?;
    stage::all()
}
