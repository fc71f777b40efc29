//! The iptables programs.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use ipnetwork::IpNetwork;
use iptables::IPTables;

use crate::{FirewallError, layout};

/// Where programs are when `PATH` does not say. A runtime may start us with next to no environment.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// The longest name of a chain (XT_EXTENSION_MAXNAMELEN, less the final zero).
const LONGEST_CHAIN: usize = 28;

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Table {
    /// Where packets are seen before their connection is.
    Raw,
    /// Where addresses are translated.
    Nat,
    /// Where packets are judged.
    Filter,
}

impl std::fmt::Display for Table {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// Which of the kernel's two places for such rules a program writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Variant {
    /// Whichever the administrator has chosen (`update-alternatives`).
    Chosen,
    /// Those of nf_tables.
    Nft,
    /// The tables of `ip_tables`, which `iptables-nft` does not see.
    Legacy,
}

/// The programs for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tool {
    v6: bool,
    variant: Variant,
}

/// The tables of one family.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    tables: HashMap<String, Rules>,
    none: Rules,
}

impl Saved {
    /// Returns tables of which only one has been asked for.
    pub(crate) fn of(table: Table, rules: Rules) -> Self {
        Self { tables: HashMap::from([(table.name().to_owned(), rules)]), none: Rules::default() }
    }

    /// Returns what a table has, which may be nothing.
    pub(crate) fn table(&self, table: Table) -> &Rules {
        self.tables.get(table.name()).unwrap_or(&self.none)
    }

    /// Makes of what was saved what it is once `iptables-restore --noflush` has read this line of ours.
    pub(crate) fn write(&mut self, table: Table, line: &str) {
        self.tables.entry(table.name().to_owned()).or_default().write(line);
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        for part in text.split("\n*").map(|part| part.trim_start_matches('*')) {
            // Before the first table there is a comment.
            let (name, rules) = part.split_once('\n').unwrap_or((part, ""));
            saved.tables.insert(name.to_owned(), Rules::parse(rules));
        }
        saved
    }
}

/// Rules and chains of one table, as `iptables-save` and `iptables -S` print them.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    chains: HashMap<String, Vec<String>>,
    policies: HashMap<String, String>,
}

impl Rules {
    /// Returns the rules of a chain, each with its `-A CHAIN`; `None` if there is no such chain.
    pub(crate) fn chain(&self, name: &str) -> Option<&[String]> {
        self.chains.get(name).map(Vec::as_slice)
    }

    /// Returns the rules of all chains.
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.chains.values().flatten()
    }

    /// Returns whether a rule is there, in the words of `iptables-save`.
    pub(crate) fn has(&self, chain: &str, rule: &str) -> bool {
        self.chain(chain).is_some_and(|rules| rules.iter().any(|line| line == rule))
    }

    /// Returns the number of rules that lead to a chain.
    pub(crate) fn jumps_to(&self, chain: &str) -> usize {
        let end = format!(" -j {chain}");
        self.chains.values().flatten().filter(|rule| rule.ends_with(&end)).count()
    }

    /// Returns a built-in chain's policy. `None` also where the kernel has not made the chain yet.
    pub(crate) fn policy(&self, chain: &str) -> Option<&str> {
        self.policies.get(chain).map(String::as_str)
    }

    /// Returns the names of all chains that start so.
    pub(crate) fn chains_from<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        self.chains.keys().map(String::as_str).filter(move |name| name.starts_with(start))
    }

    fn write(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (command, chain) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        if let Some(chain) = command.strip_prefix(':') {
            // Naming a chain empties it.
            self.chains.insert(chain.to_owned(), Vec::new());
            return;
        }
        let rules = self.chains.entry(chain.to_owned()).or_default();
        match command {
            "-A" => rules.push(line.to_owned()),
            "-I" => rules.insert(0, format!("-A {chain} {}", rest.strip_prefix("1 ").unwrap_or(rest))),
            "-D" => {
                let gone = format!("-A {chain} {rest}");
                let place = rules.iter().position(|rule| *rule == gone);
                place.map(|place| rules.remove(place));
            }
            "-F" => rules.clear(),
            "-X" => drop(self.chains.remove(chain)),
            _ => {}
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut rules = Self::default();
        for line in text.lines() {
            let declared = [":", "-P ", "-N "].iter().find_map(|how| line.strip_prefix(how));
            if let Some(declared) = declared {
                let mut words = declared.split(' ');
                let Some(name) = words.next() else { continue };
                rules.chains.entry(name.to_owned()).or_default();
                if let Some(policy) = words.next().filter(|policy| *policy != "-") {
                    rules.policies.insert(name.to_owned(), policy.to_owned());
                }
            } else if let Some(name) = line.strip_prefix("-A ").and_then(|rule| rule.split(' ').next()) {
                rules.chains.entry(name.to_owned()).or_default().push(line.to_owned());
            }
        }
        rules
    }
}

impl Tool {
    pub(crate) const V4: Self = Self { v6: false, variant: Variant::Chosen };
    pub(crate) const V6: Self = Self { v6: true, variant: Variant::Chosen };
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the programs for the families that the kernel has.
    pub(crate) fn usable() -> impl Iterator<Item = Self> {
        let has_v6 = Path::new("/proc/net/if_inet6").exists();
        Self::BOTH.into_iter().filter(move |tool| has_v6 || !tool.v6)
    }

    /// Returns the same family's programs for the tables that `iptables-nft` does not see.
    pub(crate) fn legacy(self) -> Self {
        Self { variant: Variant::Legacy, ..self }
    }

    /// Returns the same family's programs for nf_tables, whatever the administrator has chosen.
    pub(crate) fn nft(self) -> Self {
        let named = Self { variant: Variant::Nft, ..self };
        if named.is_installed() { named } else { self }
    }

    /// Returns the programs that the administrator has chosen, if they are these under another name: one run does for both.
    pub(crate) fn or_chosen(self) -> Self {
        let chosen = Self { variant: Variant::Chosen, ..self };
        let real = |tool: Self| found(tool.program()).and_then(|path| path.canonicalize().ok());
        if real(chosen).is_some_and(|path| Some(path) == real(self)) { chosen } else { self }
    }

    /// Returns the programs of this name.
    pub(crate) fn named(program: &str) -> Option<Self> {
        let variants = [Variant::Chosen, Variant::Nft, Variant::Legacy];
        let all = variants.into_iter().flat_map(|variant| Self::BOTH.map(|tool| Self { variant, ..tool }));
        all.into_iter().find(|tool| tool.program() == program)
    }

    pub(crate) fn is_v6(self) -> bool {
        self.v6
    }

    /// Returns whether the family has a table in `ip_tables`, where legacy programs write.
    pub(crate) fn has_legacy(self, table: Table) -> bool {
        let list = if self.v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
        std::fs::read_to_string(list).is_ok_and(|names| names.lines().any(|name| name == table.name()))
    }

    pub(crate) fn addresses(self, all: &[IpNetwork]) -> Vec<IpNetwork> {
        all.iter().copied().filter(|address| address.is_ipv6() == self.v6).collect()
    }

    pub(crate) fn multicast(self) -> IpNetwork {
        let [v4, v6] = layout::multicast();
        if self.v6 { v6 } else { v4 }
    }

    pub(crate) fn program(self) -> &'static str {
        match (self.v6, self.variant) {
            (false, Variant::Chosen) => "iptables",
            (true, Variant::Chosen) => "ip6tables",
            (false, Variant::Nft) => "iptables-nft",
            (true, Variant::Nft) => "ip6tables-nft",
            (false, Variant::Legacy) => "iptables-legacy",
            (true, Variant::Legacy) => "ip6tables-legacy",
        }
    }

    /// Returns whether the program is installed. Starts nothing.
    pub(crate) fn is_installed(self) -> bool {
        found(self.program()).is_some()
    }

    /// Returns whether the program is installed and the kernel has the family. Starts nothing.
    pub(crate) fn is_ready(self) -> bool {
        self.is_installed() && Self::usable().any(|tool| tool.v6 == self.v6)
    }

    /// Refuses to go on without the program. Starts nothing.
    pub(crate) fn required(self) -> Result<(), FirewallError> {
        if self.is_installed() { Ok(()) } else { Err(self.failed(self.program(), "not found")) }
    }

    /// Returns everything that a table has.
    pub(crate) fn saved(self, table: Table) -> Result<Rules, FirewallError> {
        self.required()?;
        let lines = self.iptables().list_table(table.name());
        let lines = lines.map_err(|cause| self.failed(self.program(), cause))?;
        if lines.iter().any(|line| !line.is_empty()) {
            return Ok(Rules::parse(&lines.join("\n")));
        }
        // A table has chains of its own, so the program has failed, and the crate keeps to itself why.
        let output = self.run(self.program(), &["-t", table.name(), "-S", "-w"], None)?;
        Ok(Rules::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Returns everything that all tables have.
    pub(crate) fn saved_all(self) -> Result<Saved, FirewallError> {
        let output = self.run(&format!("{}-save", self.program()), &[], None)?;
        Ok(Saved::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Makes all changes to a table, or none.
    pub(crate) fn restore(self, table: Table, lines: &[String]) -> Result<(), FirewallError> {
        self.restore_all(&[(table, lines)])
    }

    /// Makes all changes to each table, or none: one process. A refusal ends it, and what stands before
    /// stays.
    pub(crate) fn restore_all(self, tables: &[(Table, &[String])]) -> Result<(), FirewallError> {
        let mut script = String::new();
        for (table, lines) in tables.iter().filter(|(_, lines)| !lines.is_empty()) {
            // Writing to a String cannot fail.
            writeln!(script, "*{}", table.name()).ok();
            for line in *lines {
                writeln!(script, "{line}").ok();
            }
            script.push_str("COMMIT\n");
        }
        if script.is_empty() {
            return Ok(());
        }
        let program = format!("{}-restore", self.program());
        self.run(&program, &["--noflush", "-w"], Some(&script)).map(drop)
    }

    /// Returns whether every one of these rules is there, in any words: one process.
    pub(crate) fn has_all(self, table: Table, rules: &[String]) -> Result<bool, FirewallError> {
        if rules.is_empty() {
            return Ok(true);
        }
        let mut script = format!("*{}\n", table.name());
        for rule in rules {
            writeln!(script, "{}", rule.replacen("-A ", "-C ", 1)).ok();
        }
        script.push_str("COMMIT\n");
        let program = format!("{}-restore", self.program());
        Ok(self.attempt(&program, &["--noflush", "-w"], Some(&script))?.status.success())
    }

    /// Runs a program that must succeed.
    fn run(self, program: &str, args: &[&str], stdin: Option<&str>) -> Result<Output, FirewallError> {
        let output = self.attempt(program, args, stdin)?;
        if output.status.success() {
            return Ok(output);
        }
        Err(refused(program, &String::from_utf8_lossy(&output.stderr)))
    }

    fn attempt(self, program: &str, args: &[&str], stdin: Option<&str>) -> Result<Output, FirewallError> {
        let wrap = |cause: std::io::Error| self.failed(program, cause);
        #[expect(clippy::disallowed_methods, reason = "the iptables backend starts its own program")]
        let mut child = Command::new(program)
            .args(args)
            .env("PATH", search_path())
            .env("LC_ALL", "C")
            .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(wrap)?;
        // A program that fails at once closes its end; what it says explains more than our broken pipe.
        let script = stdin.unwrap_or_default().as_bytes();
        let written = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(script));
        let output = child.wait_with_output().map_err(wrap)?;
        if output.status.success() {
            written.map_err(wrap)?;
        }
        Ok(output)
    }

    /// Returns the program behind the `iptables` crate. Its own constructor would start the program
    /// once more to learn that it knows `-C` and `-w`, which it does since 2013, and whatever takes a rule apart brings an
    /// engine for regular expressions into every plugin: half a megabyte.
    fn iptables(self) -> IPTables {
        static PATHS: Mutex<BTreeMap<&'static str, &'static str>> = Mutex::new(BTreeMap::new());
        let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
        // The crate looks into PATH, where a runtime's service may not have root's folders.
        let cmd = paths.entry(self.program()).or_insert_with(|| match found(self.program()) {
            Some(path) => path.to_string_lossy().into_owned().leak(),
            None => self.program(),
        });
        IPTables { cmd, has_check: true, has_wait: true, is_numeric: false }
    }

    fn failed(self, program: &str, problem: impl ToString) -> FirewallError {
        let problem = problem.to_string();
        FirewallError::Iptables { program: program.into(), problem: problem.trim_end().into() }
    }
}

/// Returns the first thing that a program said, without its own name and version. What follows is advice on how to call it.
fn refused(program: &str, said: &str) -> FirewallError {
    let own = said.find("): ").filter(|_| said.starts_with(program)).map_or(0, |end| end + "): ".len());
    let first = said[own..].lines().map(str::trim).find(|line| !line.is_empty());
    FirewallError::Refused { program: program.into(), problem: first.unwrap_or("no reason given").into() }
}

/// Returns whether a chain of iptables can have this name, and a line for `iptables-restore` nothing else by it.
pub fn is_chain_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    (1..=LONGEST_CHAIN).contains(&name.len()) && !name.starts_with('-') && name.chars().all(ok)
}

/// Returns where a program is. Starts nothing.
fn found(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|path| path.exists())
}

/// Refuses to go on without a program. Starts nothing.
pub(crate) fn installed(program: &'static str) -> Result<(), FirewallError> {
    if found(program).is_some() {
        Ok(())
    } else {
        Err(FirewallError::Program { program, problem: "not found".into() })
    }
}

/// Returns where programs are looked for.
pub(crate) fn search_path() -> std::ffi::OsString {
    env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| USUAL_PATH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_save_prints_is_read() {
        let rules = Rules::parse(
            "# Generated\n*filter\n:FORWARD DROP [0:0]\n:CNI-A - [0:0]\n-A FORWARD -j CNI-A\nCOMMIT\n",
        );
        assert_eq!(rules.policy("FORWARD"), Some("DROP"));
        assert!(rules.has("FORWARD", "-A FORWARD -j CNI-A"));
        assert_eq!(rules.chain("CNI-A"), Some(&[][..]));
        assert_eq!(rules.policy("CNI-A"), None);
        assert_eq!(rules.chain("CNI-B"), None);
        assert_eq!(rules.chains_from("CNI-").collect::<Vec<_>>(), ["CNI-A"]);
    }

    #[test]
    fn what_is_written_is_there_for_the_next() {
        let mut saved = Saved::parse("*nat\n:CNI-A - [0:0]\n-A CNI-A -j RETURN\n-A CNI-A -j DROP\nCOMMIT\n");
        for line in [":CNI-B - [0:0]", "-A CNI-B -j CNI-A", "-I CNI-B 1 -p tcp -j DROP", "-D CNI-A -j RETURN"]
        {
            saved.write(Table::Nat, line);
        }
        saved.write(Table::Filter, "-A INPUT -j ACCEPT");
        let nat = saved.table(Table::Nat);
        assert_eq!(nat.chain("CNI-A").unwrap(), ["-A CNI-A -j DROP"]);
        assert_eq!(nat.chain("CNI-B").unwrap(), ["-A CNI-B -p tcp -j DROP", "-A CNI-B -j CNI-A"]);
        assert!(saved.table(Table::Filter).has("INPUT", "-A INPUT -j ACCEPT"));
        for line in ["-F CNI-B", "-X CNI-B", ":CNI-A - [0:0]"] {
            saved.write(Table::Nat, line);
        }
        let nat = saved.table(Table::Nat);
        assert_eq!((nat.chain("CNI-A"), nat.chain("CNI-B")), (Some(&[][..]), None));
    }

    #[test]
    fn the_first_thing_that_was_said_is_kept() {
        let table = [
            (
                "ip6tables-restore v1.8.9 (nf_tables): Couldn't load match `x':No such file or directory\n\nError \
                 occurred at line: 11\nTry `ip6tables-restore -h' for more information.\n",
                "Couldn't load match `x':No such file or directory",
            ),
            (
                "ip6tables-restore v1.8.9 (nf_tables): \nline 4: RULE_APPEND failed (No such file or directory): rule in \
                 chain X\n",
                "line 4: RULE_APPEND failed (No such file or directory): rule in chain X",
            ),
            ("ip6tables-restore: line 2 failed\n", "ip6tables-restore: line 2 failed"),
            ("", "no reason given"),
        ];
        for (said, kept) in table {
            let error = refused("ip6tables-restore", said);
            assert_eq!(error.to_string(), format!("ip6tables-restore: {kept}"));
            assert!(error.hint().unwrap().ends_with("what it has: ip6tables-save"));
        }
    }

    #[test]
    fn tables_are_told_apart() {
        let saved = Saved::parse(
            "# Generated\n*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n# Done\n*nat\n:CNI-A - [0:0]\nCOMMIT\n",
        );
        assert_eq!(saved.table(Table::Raw).policy("PREROUTING"), Some("ACCEPT"));
        assert!(saved.table(Table::Nat).chain("CNI-A").is_some());
        assert!(saved.table(Table::Filter).chain("FORWARD").is_none());
    }
}
