//! Writing the whole table anew, from the books.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use weft_nft::{Element, Error, Set, Socket, Transaction};

use super::{Changes, ports, wrap};
use crate::FirewallError;
use crate::claim::Claims;
use crate::entry;
use crate::layout::{INET, forward, masquerade};
use crate::table::{self, State};

const ATTEMPTS: usize = 16;

/// Writes the table anew with everything that is claimed and published, in one transaction. The administrator's chain is
/// kept.
pub(crate) fn rebuild(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // Whatever another process adds after this line makes the transaction start over with its claim.
        let generation = socket.generation().map_err(wrap)?;
        let mut transaction = Transaction::new();
        transaction.only_if_generation(generation);
        clear(socket, &mut transaction)?;
        masquerade::create(&mut transaction);
        let wanted = wanted(claims)?;
        for part in wanted.parts() {
            part.create(&mut transaction);
        }
        for (set, elements) in wanted.by_set() {
            transaction.elements(&set, elements);
        }
        match socket.commit(&transaction) {
            Ok(()) if withdraw(socket, claims, &wanted)? || attempts == ATTEMPTS => return Ok(()),
            Ok(()) => {}
            Err(Error::Refused { errno: Errno::ERESTART, .. }) if attempts < ATTEMPTS => {}
            outcome => return outcome.map_err(wrap),
        }
    }
}

/// Takes back what was written and has been given up meanwhile: whoever did that may have found nothing to remove. Returns
/// whether none of it is wanted again by now.
fn withdraw(socket: &mut Socket, claims: &Claims<'_>, written: &Changes) -> Result<bool, FirewallError> {
    let gone = lacking(&wanted(claims)?, written.added());
    if gone.is_empty() {
        return Ok(true);
    }
    socket.expire_all(&gone).map_err(wrap)?;
    Ok(lacking(&wanted(claims)?, &gone).len() == gone.len())
}

/// Returns those of the elements that are not wanted.
fn lacking(wanted: &Changes, elements: &[(Set, Element)]) -> Vec<(Set, Element)> {
    let wanted: BTreeSet<_> =
        wanted.added().iter().map(|(set, element)| (&set.name, element.key())).collect();
    elements.iter().filter(|(set, element)| !wanted.contains(&(&set.name, element.key()))).cloned().collect()
}

/// Takes everything of ours away, but for the administrator's chain if it has rules.
pub(super) fn clear(socket: &mut Socket, transaction: &mut Transaction) -> Result<(), FirewallError> {
    let state = table::state(socket, INET)?;
    if state == State::Absent {
        return Ok(());
    }
    if socket.rules(INET, forward::USER).map_err(wrap)?.is_empty() {
        transaction.delete_table(INET);
        return Ok(());
    }
    // What is not ours in there is the administrator's: sets and chains that the rules refer to.
    let mut chains = socket.chains(INET).map_err(wrap)?;
    chains.retain(|name| name != forward::USER && crate::layout::is_chain(name));
    let mut sets = socket.sets(INET).map_err(wrap)?;
    sets.retain(|name| crate::layout::is_set(name));
    for chain in &chains {
        transaction.flush_chain(INET, chain.clone());
    }
    for set in sets {
        transaction.delete_set(INET, set);
    }
    for chain in chains {
        transaction.delete_chain(INET, chain);
    }
    Ok(())
}

/// Returns everything that should be there.
fn wanted(claims: &Claims<'_>) -> Result<Changes, FirewallError> {
    let mut changes = Changes::default();
    for entry in claims.in_our_table(&entry::ALL)? {
        changes.entry(&entry);
    }
    if claims.any_in_our_table(&[entry::ISOLATION.as_slice(), &entry::GUARD].concat())? {
        claims.in_iptables(&entry::INSIDE)?.iter().for_each(|entry| changes.entry(entry));
    }
    ports::add_all(&claims.books(), &mut changes)?;
    Ok(changes)
}

impl Changes {
    fn by_set(&self) -> Vec<(Set, Vec<Element>)> {
        let mut sets: BTreeMap<String, (Set, Vec<Element>)> = BTreeMap::new();
        for (set, element) in self.added() {
            let entry = sets.entry(set.name.to_string()).or_insert_with(|| (set.clone(), Vec::new()));
            entry.1.push(element.clone());
        }
        sets.into_values().collect()
    }
}
