//! Our own table: one element for each thing that a network claims, and those of published ports.

mod commit;
pub(crate) mod ports;
mod rebuild;

use nix::errno::Errno;
use weft_model::NetworkName;
use weft_nft::{Error, Socket, Transaction};

use crate::claim::Claims;
use crate::entry::{self, Entry};
use crate::part::Part;
use crate::table::{self, State};
use crate::{Change, FirewallError, layout};

pub(crate) use commit::{Changes, commit};
pub(crate) use rebuild::{Piece, rebuild, restore};

fn wrap(source: Error) -> FirewallError {
    table::refused(layout::INET, source)
}

/// What a network wants, and where that is noted.
pub(crate) struct Demand<'a> {
    pub(crate) network: &'a NetworkName,
    pub(crate) claims: Claims<'a>,
    pub(crate) entries: Vec<Entry>,
}

impl Demand<'_> {
    /// Notes what the network wants, for iptables to write it.
    pub(crate) fn claim(&self) -> Result<Change, FirewallError> {
        self.claims.note_carrier(self.network, true)?;
        let mut change = Change::AlreadyThere;
        for entry in &self.entries {
            if self.claims.take(self.network, entry)? == Change::Made {
                change = Change::Made;
            }
        }
        Ok(change)
    }
}

/// Sees to it that everything a network wants has its element. In the steady state that is one question each.
pub(crate) fn ensure(socket: &mut Socket, demand: &Demand<'_>) -> Result<Change, FirewallError> {
    let Demand { network, claims, entries } = demand;
    let mut change = Change::AlreadyThere;
    let mut lacking = Vec::new();
    for entry in entries {
        if claims.take(network, entry)? == Change::Made {
            change = Change::Made;
        }
        if !has(socket, entry)? {
            lacking.push(entry.clone());
        }
    }
    if lacking.is_empty() {
        return Ok(change);
    }
    // What is in our table whoever carries the rest says nothing about the network.
    if entries.iter().any(|entry| entry.kind() != entry::OWN_LOCALNET) {
        claims.note_carrier(network, false)?;
    }
    install(socket, claims, &lacking)?;
    Ok(Change::Made)
}

/// Tells the guard in our table, if there is one, which networks have their rules in chains of iptables: they are ours, too.
pub(crate) fn introduce(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    if !claims.has_networks_in_iptables()? || !Part::Forward.is_there(socket).map_err(wrap)? {
        return Ok(());
    }
    let mut lacking = Vec::new();
    for entry in claims.in_iptables(&entry::INSIDE)? {
        if !has(socket, &entry)? {
            lacking.push(entry);
        }
    }
    if lacking.is_empty() { Ok(()) } else { install(socket, claims, &lacking) }
}

/// Removes the elements of what nobody claims any more.
pub(crate) fn remove(
    socket: &mut Socket,
    claims: &Claims<'_>,
    entries: &[Entry],
) -> Result<(), FirewallError> {
    for entry in entries {
        if claims.is_wanted(entry)? {
            continue;
        }
        socket.expire(&entry.set(), &entry.element()).map_err(wrap)?;
        // Someone may have claimed it since, and have found the element still there.
        if claims.is_wanted(entry)? {
            install(socket, claims, std::slice::from_ref(entry))?;
        }
    }
    retire(socket, claims)
}

/// Takes the table away with the last claim.
///
/// The generation is read before the claims. Whoever claims something after that either changes the
/// ruleset before us, which refuses this transaction, or finds no table and creates it.
pub(crate) fn retire(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    let generation = socket.generation().map_err(wrap)?;
    let wanted = claims.any_in_our_table(&entry::ALL)? || !claims.books().is_empty();
    if wanted || table::state(socket, layout::INET)? == State::Absent {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    transaction.only_if_generation(generation);
    rebuild::clear(socket, &mut transaction)?;
    match socket.commit(&transaction) {
        Err(Error::Refused { errno: Errno::ERESTART | Errno::ENOENT, .. }) => Ok(()),
        outcome => outcome.map_err(wrap),
    }
}

/// Returns what is missing of what a network wants, down to the static rules.
pub(crate) fn observe(socket: &mut Socket, demand: &Demand<'_>) -> Result<Vec<String>, FirewallError> {
    let Demand { network, claims, entries } = demand;
    match table::state(socket, layout::INET)? {
        State::Absent => return Ok(vec![format!("table {}", layout::INET)]),
        State::Other => {
            return Ok(vec![format!("table {} has another layout than {:?}", layout::INET, layout::VERSION)]);
        }
        State::Ours => {}
    }
    let mut missing = lacking_rules(socket, entries.iter().map(Entry::part))?;
    missing.extend(lacking_elements(socket, network, claims, entries)?);
    Ok(missing)
}

/// Returns what is missing of what entries say, but for the rules that give it a meaning.
pub(crate) fn lacking_elements(
    socket: &mut Socket,
    network: &NetworkName,
    claims: &Claims<'_>,
    entries: &[Entry],
) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    for entry in entries {
        if !has(socket, entry)? {
            missing.push(format!("element {entry} of {}", entry.set()));
        }
        if !claims.has(network, entry) {
            missing.push(format!("claim of {network} on {entry}"));
        }
    }
    Ok(missing)
}

/// Returns which of the static rules of these parts are missing, and of those that they need; each part is looked at once.
pub(crate) fn lacking_rules(
    socket: &mut Socket,
    parts: impl IntoIterator<Item = Part>,
) -> Result<Vec<String>, FirewallError> {
    let (mut seen, mut missing): (Vec<Part>, Vec<String>) = (Vec::new(), Vec::new());
    for part in parts.into_iter().flat_map(|part| part.needs().into_iter().chain([part])) {
        if seen.contains(&part) {
            continue;
        }
        seen.push(part);
        for problem in missing_rules(socket, part)? {
            if !missing.contains(&problem) {
                missing.push(problem);
            }
        }
    }
    Ok(missing)
}

/// Returns which of the static rules that give an element its meaning are missing.
fn missing_rules(socket: &mut Socket, part: Part) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    let lengths = part.length_rules();
    for &(chain, expected) in part.chains() {
        let rules = socket.rules(layout::INET, chain).map_err(wrap)?;
        // Rules with a comment are those of a prefix length.
        if rules.iter().filter(|rule| rule.comment.is_none()).count() != expected {
            missing.push(format!("rules of chain {} {chain}", layout::INET));
        }
    }
    let Some((chains, comment)) = lengths else { return Ok(missing) };
    for chain in chains {
        let rules = socket.rules(layout::INET, chain).map_err(wrap)?;
        if !rules.iter().any(|rule| rule.comment.as_ref() == Some(&comment)) {
            missing.push(format!("rule of chain {} {chain} for {comment}", layout::INET));
        }
    }
    Ok(missing)
}

/// Returns whether the entry has its element. One that is about to expire does not count.
fn has(socket: &mut Socket, entry: &Entry) -> Result<bool, FirewallError> {
    let found = socket.element(&entry.set(), &entry.key()).map_err(wrap)?;
    Ok(found.is_some_and(|element| element.expires.is_none()))
}

/// Adds the elements of entries, in one transaction with what they need.
fn install(socket: &mut Socket, claims: &Claims<'_>, entries: &[Entry]) -> Result<(), FirewallError> {
    let mut changes = Changes::default();
    for entry in entries {
        changes.entry(entry);
    }
    // A table of another layout may take an element all the same, and not mean by it what we do.
    if table::state(socket, layout::INET)? == State::Other {
        return rebuild(socket, claims);
    }
    commit(socket, claims, &changes)
}
