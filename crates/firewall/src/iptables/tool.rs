//! The iptables programs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ipnetwork::IpNetwork;
use iptables::IPTables;

use crate::{FirewallError, layout};

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// Where addresses are translated.
    Nat,
    /// Where packets are judged.
    Filter,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// The programs for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tool {
    v6: bool,
}

impl Tool {
    pub(super) const BOTH: [Self; 2] = [Self { v6: false }, Self { v6: true }];

    /// Returns the programs for the families that the kernel has.
    pub(super) fn usable() -> impl Iterator<Item = Self> {
        let has_v6 = Path::new("/proc/net/if_inet6").exists();
        Self::BOTH.into_iter().filter(move |tool| has_v6 || !tool.v6)
    }

    pub(super) fn addresses(self, all: &[IpNetwork]) -> Vec<IpNetwork> {
        all.iter().copied().filter(|address| address.is_ipv6() == self.v6).collect()
    }

    pub(super) fn multicast(self) -> IpNetwork {
        let [v4, v6] = layout::multicast();
        if self.v6 { v6 } else { v4 }
    }

    pub(super) fn program(self) -> &'static str {
        if self.v6 { "ip6tables" } else { "iptables" }
    }

    pub(super) fn is_installed(self) -> bool {
        self.iptables().execute("nat", "-S POSTROUTING").is_ok()
    }

    /// Returns the rules of a chain that is always there, as `iptables -S` prints them.
    pub(super) fn rules(self, table: Table, chain: &str) -> Result<Vec<String>, FirewallError> {
        self.list(table, chain)?.map_err(|problem| self.failed(self.program(), problem))
    }

    /// Returns the rules of a chain, or `None` if there is no such chain.
    pub(super) fn chain(self, table: Table, chain: &str) -> Result<Option<Vec<String>>, FirewallError> {
        Ok(self.list(table, chain)?.ok())
    }

    /// Returns the rules of a chain, or what the program said instead.
    fn list(self, table: Table, chain: &str) -> Result<Result<Vec<String>, String>, FirewallError> {
        let output = self.iptables().execute(table.name(), &format!("-S {chain}"));
        let output = output.map_err(|cause| self.failed(self.program(), cause))?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(Ok(text.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).collect()))
    }

    /// Makes all changes to a table, or none.
    pub(super) fn restore(self, table: Table, lines: &[String]) -> Result<(), FirewallError> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut script = format!("*{}\n", table.name());
        for line in lines {
            // Writing to a String cannot fail.
            writeln!(script, "{line}").ok();
        }
        script.push_str("COMMIT\n");
        let program = format!("{}-restore", self.program());
        let wrap = |cause: std::io::Error| self.failed(&program, cause);
        #[expect(clippy::disallowed_methods, reason = "the iptables backend starts its own program")]
        let mut child = Command::new(&program)
            .args(["--noflush", "-w"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(wrap)?;
        // A program that fails at once closes its end; what it says explains more than our broken pipe.
        let written = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(script.as_bytes()));
        let output = child.wait_with_output().map_err(wrap)?;
        if !output.status.success() {
            return Err(self.failed(&program, String::from_utf8_lossy(&output.stderr)));
        }
        written.map_err(wrap)
    }

    /// Returns the program behind the `iptables` crate. Its own constructor would start the program
    /// once more to learn that it knows `-C` and `-w`, which it does since 2013.
    fn iptables(self) -> IPTables {
        IPTables { cmd: self.program(), has_check: true, has_wait: true, is_numeric: false }
    }

    fn failed(self, program: &str, problem: impl ToString) -> FirewallError {
        let problem = problem.to_string();
        FirewallError::Iptables { program: program.into(), problem: problem.trim_end().into() }
    }
}
