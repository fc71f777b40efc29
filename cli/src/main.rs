//! The `weft` command: parses, calls the manager, prints. It decides nothing.

mod args;
mod doctor;
mod later;
mod network;
mod overlay;
mod plugin;
mod port;
mod ps;
mod report;
mod table;
mod template;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use weft_manager::Manager;
use weft_start as _;
use weft_state::Root;

use args::{Cli, Command};
use later::Later;
use report::Report;

fn main() -> ExitCode {
    let mut report = Report::default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error)
            if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            report.misuse(&error);
            return report.exit();
        }
        Err(help) => help.exit(),
    };
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        later::at_once();
        clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
        report.print(&String::from_utf8_lossy(&script));
        return report.exit();
    }
    let Some(root) = absolute(cli.root, &mut report) else { return report.exit() };
    if let Some(manager) = report.take(Manager::open(root)) {
        match cli.command {
            Command::Network(Later(command)) => network::run(&manager, command, &mut report),
            Command::Port(Later(command)) => port::run(&manager, command, &mut report),
            Command::Doctor(Later(command)) => doctor::run(&manager, &command, &mut report),
            Command::Ps(Later(command)) => ps::run(&manager, &command, &mut report),
            Command::Overlay(Later(command)) => overlay::run(&manager, command, &mut report),
            Command::Plugin(Later(command)) => plugin::run(&manager, command, &mut report),
            Command::Completion { .. } => {}
        }
    }
    report.exit()
}

/// Returns the root with a path that means the same in every process.
fn absolute(root: Option<OsString>, report: &mut Report) -> Option<Root> {
    let dir = root.filter(|dir| !dir.is_empty());
    match dir.map(std::path::absolute).transpose() {
        Ok(dir) => Some(Root::new(dir)),
        Err(error) => {
            report.usage(format!("--root: {error}"));
            None
        }
    }
}
