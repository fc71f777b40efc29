//! Our own table: one element for each thing that a network claims.

use nix::errno::Errno;
use weft_model::NetworkName;
use weft_nft::{Error, Socket, Transaction};

use crate::claim::Claims;
use crate::entry::{self, Entry, Part};
use crate::table::{self, State};
use crate::{Change, FirewallError, admission, layout};

/// How often a lost race is tried again. Each round another process has made progress.
const ATTEMPTS: usize = 16;

fn wrap(source: Error) -> FirewallError {
    table::refused(layout::INET, source)
}

/// What a network wants, and where that is noted.
pub(crate) struct Demand<'a> {
    pub(crate) network: &'a NetworkName,
    pub(crate) claims: Claims<'a>,
    pub(crate) entries: Vec<Entry>,
}

/// Sees to it that everything a network wants has its element. In the steady state that is one question each.
pub(crate) fn ensure(socket: &mut Socket, demand: &Demand<'_>) -> Result<Change, FirewallError> {
    let Demand { network, claims, entries } = demand;
    let mut change = Change::AlreadyThere;
    for entry in entries {
        let claimed = claims.take(network, entry)?;
        let there = has(socket, entry)?;
        if !there {
            install(socket, claims, entry)?;
        }
        if !there || claimed == Change::Made {
            change = Change::Made;
        }
    }
    Ok(change)
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
            install(socket, claims, entry)?;
        }
    }
    retire(socket, claims)
}

/// Takes the table away with the last claim.
///
/// The generation is read before the claims. Whoever claims something after that either changes the
/// ruleset before us, which refuses this transaction, or finds no table and creates it.
fn retire(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    let generation = socket.generation().map_err(wrap)?;
    if !claims.all(&entry::ALL)?.is_empty() || table::state(socket, layout::INET)? == State::Absent {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    transaction.only_if_generation(generation).delete_table(layout::INET);
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
    let mut missing = Vec::new();
    for entry in entries {
        for problem in missing_rules(socket, entry)? {
            if !missing.contains(&problem) {
                missing.push(problem);
            }
        }
        if !has(socket, entry)? {
            missing.push(format!("element {entry} of {}", entry.set()));
        }
        if !claims.has(network, entry) {
            missing.push(format!("claim of {network} on {entry}"));
        }
    }
    Ok(missing)
}

/// Returns which of the static rules that give an element its meaning are missing.
fn missing_rules(socket: &mut Socket, entry: &Entry) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    let chains = match entry.part() {
        Part::Length { .. } => &layout::MASQUERADE_CHAINS[..],
        Part::Isolation => &layout::ISOLATION_CHAINS[..],
        Part::Passage => &admission::layout::CHAINS[..],
    };
    for &(chain, rules) in chains {
        if socket.rules(layout::INET, chain).map_err(wrap)?.len() != rules {
            missing.push(format!("rules of chain {} {chain}", layout::INET));
        }
    }
    if let Entry::Subnet(subnet) = entry {
        let comment = layout::length_comment(*subnet);
        for chain in [layout::SAME_SUBNET, layout::OTHER_SUBNET] {
            let rules = socket.rules(layout::INET, chain).map_err(wrap)?;
            if !rules.iter().any(|rule| rule.comment.as_ref() == Some(&comment)) {
                missing.push(format!("rule of chain {} {chain} for {comment}", layout::INET));
            }
        }
    }
    Ok(missing)
}

/// Writes the table anew with everything that is claimed.
pub(crate) fn rebuild(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // Whatever another process adds after this line makes the transaction start over with its claim.
        let generation = socket.generation().map_err(wrap)?;
        table::state(socket, layout::INET)?;
        let mut transaction = Transaction::new();
        transaction.only_if_generation(generation);
        // A table is deleted only if it exists; creating it first makes sure of that.
        transaction.table(layout::INET, None).delete_table(layout::INET);
        layout::create_inet(&mut transaction);
        let mut parts = Vec::new();
        for entry in claims.all(&entry::ALL)? {
            if !parts.contains(&entry.part()) {
                parts.push(entry.part());
                entry.create_part(&mut transaction);
            }
            transaction.elements(&entry.set(), vec![entry.element()]);
        }
        match socket.commit(&transaction) {
            Err(Error::Refused { errno: Errno::ERESTART, .. }) if attempts < ATTEMPTS => {}
            outcome => return outcome.map_err(wrap),
        }
    }
}

/// Returns whether the entry has its element. One that is about to expire does not count.
fn has(socket: &mut Socket, entry: &Entry) -> Result<bool, FirewallError> {
    let found = socket.element(&entry.set(), &entry.key()).map_err(wrap)?;
    Ok(found.is_some_and(|element| element.expires.is_none()))
}

/// How much has to be created for an element.
#[derive(Clone, Copy)]
enum Missing {
    Element,
    Part,
    Table,
}

/// Adds an entry's element and what it needs.
///
/// Each stage is one transaction that is refused as a whole if another process was faster (EEXIST)
/// or if the stage below is missing too (ENOENT), so rules are never there twice.
fn install(socket: &mut Socket, claims: &Claims<'_>, entry: &Entry) -> Result<(), FirewallError> {
    let mut missing = match table::state(socket, layout::INET)? {
        State::Absent => Missing::Table,
        State::Ours => Missing::Element,
        State::Other => return rebuild(socket, claims),
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut transaction = Transaction::new();
        if let Missing::Table = missing {
            layout::create_inet(&mut transaction);
        }
        if let Missing::Table | Missing::Part = missing {
            entry.create_part(&mut transaction);
        }
        transaction.elements(&entry.set(), vec![entry.element()]);
        missing = match (socket.commit(&transaction), missing) {
            (Ok(()), _) => return Ok(()),
            // This stage makes everything it refers to: what is missing is a part of the kernel.
            (
                Err(source @ Error::Refused { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }),
                Missing::Table,
            ) => {
                return Err(FirewallError::Unsupported { table: layout::INET, source });
            }
            // Someone took pieces out of the table: no stage fits, and only a new table helps.
            (Err(Error::Refused { errno: Errno::EEXIST | Errno::ENOENT, .. }), _) if attempts == ATTEMPTS => {
                return rebuild(socket, claims);
            }
            (Err(Error::Refused { errno: Errno::EEXIST, .. }), _) => Missing::Element,
            (Err(Error::Refused { errno: Errno::ENOENT, .. }), Missing::Element) => Missing::Part,
            (Err(Error::Refused { errno: Errno::ENOENT, .. }), Missing::Part) => Missing::Table,
            (Err(error), _) => return Err(wrap(error)),
        };
    }
}
