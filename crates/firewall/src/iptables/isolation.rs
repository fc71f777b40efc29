//! Isolation where the kernel has no nf_tables: two chains of our own and a jump from FORWARD.
//!
//! ```text
//! -A FORWARD -j WEFT-ISOLATION
//! -A WEFT-ISOLATION -i br-inner ! -o br-inner -j DROP          internal: nothing in or out
//! -A WEFT-ISOLATION ! -i br-inner -o br-inner -j DROP
//! -A WEFT-ISOLATION -i br-blue ! -o br-blue -j WEFT-ISOLATION-2
//! -A WEFT-ISOLATION-2 -o br-blue -j DROP                       isolated: nothing from another such bridge
//! ```
//!
//! Both chains are written as a whole from the claims, by one `iptables-restore` for each family. Whoever
//! writes looks at the claims once more afterwards, and writes again if they are others: the
//! last writer has seen all of them.

use std::slice;

use super::tool::{Table, Tool};
use crate::claim::Claims;
use crate::entry::{Entry, ISOLATION};
use crate::{Change, FirewallError, Isolation};

const FIRST: &str = "WEFT-ISOLATION";
const SECOND: &str = "WEFT-ISOLATION-2";
const FORWARD: &str = "FORWARD";
/// How often the claims may have changed meanwhile. Each time another process has made progress.
const ATTEMPTS: usize = 16;

/// Claims the bridge and writes the chains unless they are in place.
pub(crate) fn ensure(isolation: &Isolation) -> Result<Change, FirewallError> {
    let claims = Claims(&isolation.claims);
    let claimed = claims.take(&isolation.network, &isolation.entry())?;
    let written = write(&claims)?;
    Ok(if claimed == Change::Made { claimed } else { written })
}

/// Writes the chains without what nobody claims any more, or takes them away with the last claim.
pub(crate) fn remove(claims: &Claims<'_>) -> Result<(), FirewallError> {
    write(claims).map(drop)
}

/// Returns what is missing.
pub(crate) fn observe(isolation: &Isolation) -> Result<Vec<String>, FirewallError> {
    let claims = Claims(&isolation.claims);
    let (entry, mut missing) = (isolation.entry(), Vec::new());
    for tool in Tool::usable() {
        let there = There::of(tool)?;
        if there.jumps.is_empty() {
            missing.push(format!("{} rule from {FORWARD} to chain {FIRST}", tool.program()));
        }
        for rule in rules(slice::from_ref(&entry)) {
            if !there.rules.iter().flatten().any(|line| *line == rule) {
                missing.push(format!("{} rule {rule}", tool.program()));
            }
        }
    }
    if !claims.has(&isolation.network, &entry) {
        missing.push(format!("claim of {} on {entry}", isolation.network));
    }
    Ok(missing)
}

/// Brings the chains of both families to what is claimed.
fn write(claims: &Claims<'_>) -> Result<Change, FirewallError> {
    let mut change = Change::AlreadyThere;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let entries = claims.all(&ISOLATION)?;
        for tool in Tool::usable() {
            let script = script(&entries, &There::of(tool)?);
            if !script.is_empty() {
                tool.restore(Table::Filter, &script)?;
                change = Change::Made;
            }
        }
        if attempts == ATTEMPTS || claims.all(&ISOLATION)? == entries {
            return Ok(change);
        }
    }
}

/// What one family has of ours.
struct There {
    /// The rules of FORWARD that lead to our chain.
    jumps: Vec<String>,
    /// The rules of both chains, or `None` if one is missing.
    rules: Option<Vec<String>>,
}

impl There {
    fn of(tool: Tool) -> Result<Self, FirewallError> {
        let end = format!(" -j {FIRST}");
        let mut jumps = tool.rules(Table::Filter, FORWARD)?;
        jumps.retain(|rule| rule.ends_with(&end));
        let first = tool.chain(Table::Filter, FIRST)?;
        let second = tool.chain(Table::Filter, SECOND)?;
        let rules = first.zip(second).map(|(first, second)| [first, second].concat());
        Ok(Self { jumps, rules })
    }
}

/// Returns the lines that lead from what is there to what is claimed; none if that is the same.
fn script(entries: &[Entry], there: &There) -> Vec<String> {
    let wanted = rules(entries);
    let mut lines = Vec::new();
    if entries.is_empty() {
        if there.jumps.is_empty() && there.rules.is_none() {
            return lines;
        }
        lines.extend(there.jumps.iter().map(|jump| jump.replacen("-A ", "-D ", 1)));
        // Named first, so that both are there and empty when they are deleted.
        lines.extend([FIRST, SECOND].map(|chain| format!(":{chain} - [0:0]")));
        lines.extend([FIRST, SECOND].map(|chain| format!("-X {chain}")));
        return lines;
    }
    if there.rules.as_ref() != Some(&wanted) {
        lines.extend([FIRST, SECOND].map(|chain| format!(":{chain} - [0:0]")));
        lines.extend(wanted);
    }
    if there.jumps.is_empty() {
        lines.push(format!("-I {FORWARD} -j {FIRST}"));
    }
    lines
}

/// Returns the rules of both chains, as `iptables -S` prints them.
fn rules(entries: &[Entry]) -> Vec<String> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Internal(name) => first.extend([
                format!("-A {FIRST} -i {name} ! -o {name} -j DROP"),
                format!("-A {FIRST} ! -i {name} -o {name} -j DROP"),
            ]),
            Entry::Isolated(name) => {
                first.push(format!("-A {FIRST} -i {name} ! -o {name} -j {SECOND}"));
                second.push(format!("-A {SECOND} -o {name} -j DROP"));
            }
            _ => {}
        }
    }
    [first, second].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(rules: Option<Vec<String>>) -> There {
        There { jumps: vec![format!("-A {FORWARD} -j {FIRST}")], rules }
    }

    #[test]
    fn the_chains_are_written_only_when_they_differ() {
        let entries = [Entry::Isolated("br0".parse().unwrap()), Entry::Internal("br1".parse().unwrap())];
        assert!(script(&entries, &there(Some(rules(&entries)))).is_empty());
        let first = script(&entries, &There { jumps: Vec::new(), rules: None });
        assert_eq!(
            first,
            [
                ":WEFT-ISOLATION - [0:0]",
                ":WEFT-ISOLATION-2 - [0:0]",
                "-A WEFT-ISOLATION -i br0 ! -o br0 -j WEFT-ISOLATION-2",
                "-A WEFT-ISOLATION -i br1 ! -o br1 -j DROP",
                "-A WEFT-ISOLATION ! -i br1 -o br1 -j DROP",
                "-A WEFT-ISOLATION-2 -o br0 -j DROP",
                "-I FORWARD -j WEFT-ISOLATION",
            ]
        );
        assert_eq!(script(&entries[..1], &there(Some(rules(&entries)))).len(), 4, "one bridge has left");
    }

    #[test]
    fn the_chains_go_with_the_last_bridge() {
        let gone = script(&[], &there(Some(Vec::new())));
        assert_eq!(gone.first().map(String::as_str), Some("-D FORWARD -j WEFT-ISOLATION"));
        assert_eq!(gone.last().map(String::as_str), Some("-X WEFT-ISOLATION-2"));
        assert!(script(&[], &There { jumps: Vec::new(), rules: None }).is_empty());
    }
}
