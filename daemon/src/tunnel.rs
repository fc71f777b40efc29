//! `weftd tunnel`: see [`weft_tunnel::process`].

use std::process::ExitCode;

use anyhow::Result;
use weft_state::Root;
use weft_tunnel::Slot;
use weft_tunnel::process::{self, Options};

use crate::hinted;

/// How a tunnel is run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose of the two devices: A, or B while a key is replaced
    #[arg(long, value_name = "A|B")]
    slot: Slot,
    /// Return as soon as it carries packets, and leave it running
    #[arg(long)]
    detach: bool,
    /// Carry packets one by one, to see whether large ones are what does not work
    #[arg(long)]
    no_offload: bool,
}

/// Runs it until it is stopped.
pub(crate) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    let options = Options { slot: args.slot, detach: args.detach, offload: !args.no_offload };
    process::run(root, &options).map_err(|error| hinted(&error, error.hint()))
}
