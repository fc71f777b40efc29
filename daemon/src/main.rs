//! `weftd`: what of weft stays running, for those who want it. Networks work without it.

mod agent;
mod mend;
mod notify;
mod schedule;
mod tunnel;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::OsStringValueParser;
use clap::{Parser, Subcommand};
use weft_manager::Manager;
use weft_manager::overlay::protocol::Answer;
use weft_state::Root;

/// What of weft stays running
#[derive(Debug, Parser)]
#[command(name = "weftd", version, propagate_version = true, infer_long_args = false, max_term_width = 100)]
struct Cli {
    /// Keep all state below this directory
    #[arg(long, global = true, env = "WEFT_ROOT", value_name = "DIR", value_parser = OsStringValueParser::new())]
    root: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Restore firewall rules that somebody took away, within a second
    ///
    /// Listens to what the kernel announces about the nf_tables ruleset, so it does nothing while nothing happens. After
    /// `nft flush ruleset`, `iptables -F`, the reload of another firewall or the restart of a container engine it asks
    /// what `weft doctor` would ask and, if something is missing, does what `weft network reload` does. What it
    /// mended is said on standard error. Whoever takes things away again and again is answered ever more
    /// slowly, at last once a minute.
    ///
    /// The kernel announces nothing of what iptables-legacy does: there, run `weft network reload` afterwards.
    Watch,
    /// Carry encrypted networks, where the kernel has no WireGuard
    ///
    /// Reads the device and its peers from var/lib/weft/overlay, also after a reboot with nobody else there yet, and takes
    /// over what changes in that file. The agent starts it when it is needed; a service manager may start it earlier. When
    /// it ends, packets to other hosts are dropped until it runs again: they never go another way.
    Tunnel(tunnel::Args),
    /// Keep this host in step with the other hosts of its cluster
    ///
    /// Programs the kernel with what `weft overlay` and `weft network create -d overlay` agreed on with other hosts, and
    /// puts back what somebody takes away. It waits for `weft overlay join` if this host is of no cluster.
    /// Containers come and go without it, and nothing is taken back when it ends.
    Agent,
    /// Walk the way to an address on an overlay network without an agent
    ///
    /// What `weft overlay diag` runs when no agent does: by what the last one has written and what the kernel has. Prints one
    /// line of JSON, as the agent answers.
    Diag(Diag),
}

/// Which way to walk.
#[derive(Debug, clap::Args)]
struct Diag {
    /// An address on an overlay network
    address: IpAddr,
    /// The network, where several have the address
    #[arg(long)]
    network: Option<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weftd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let dir = cli.root.filter(|dir| !dir.is_empty());
    let root = Root::new(dir.map(std::path::absolute).transpose().context("--root")?);
    let manager = || Manager::open(root.clone()).map_err(|error| hinted(&error, error.hint()));
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start");
    match cli.command {
        // Before there is a second thread: it forks.
        Command::Tunnel(args) => return tunnel::run(&root, &args),
        Command::Agent => runtime()?.block_on(agent::run(root.clone(), manager()?))?,
        Command::Diag(diag) => return walk(&root, &diag),
        Command::Watch => runtime()?.block_on(watch::watch(&manager()?))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Walks a way and answers as the agent does.
fn walk(root: &Root, diag: &Diag) -> Result<ExitCode> {
    let answer = match agent::diag::alone(root, diag.address, diag.network.as_deref()) {
        Ok(links) => Answer::Done(serde_json::to_value(links)?),
        Err(refusal) => Answer::Refused(refusal),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    std::io::stdout().write_all(&line)?;
    Ok(ExitCode::SUCCESS)
}

/// Puts the next command to type below an error.
fn hinted(error: &impl std::fmt::Display, hint: Option<impl std::fmt::Display>) -> anyhow::Error {
    match hint {
        Some(hint) => anyhow::anyhow!("{error}\nhint: {hint}"),
        None => anyhow::anyhow!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_says_what_is_not_heard() {
        let mut command = Cli::command();
        let watch = command.find_subcommand_mut("watch").unwrap();
        assert!(watch.render_long_help().to_string().contains("iptables-legacy"));
    }
}
