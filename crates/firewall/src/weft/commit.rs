//! One transaction, with whatever is missing for it.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use weft_nft::{Element, Error, Set, Socket, Transaction};

use super::{rebuild, wrap};
use crate::FirewallError;
use crate::claim::Claims;
use crate::entry::Entry;
use crate::layout::{INET, masquerade};
use crate::part::Part;
use crate::table::{self, State};

/// How often a lost race is tried again. Each round another process has made progress, or an element has
/// come nearer to its end.
const ATTEMPTS: u32 = 64;
/// KERNEL: a key is taken until its expired element has left the set, 8 to 36 ms.
const PAUSE: Duration = Duration::from_millis(2);

/// What is to change in our table.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// What has to be there, in this order.
    parts: Vec<Part>,
    /// What leaves, known to be there and to be nobody else's.
    gone: Vec<(Set, Element)>,
    /// Keys that something of nobody's may have.
    stray: Vec<(Set, Element)>,
    /// What comes or stays.
    added: Vec<(Set, Element)>,
}

impl Changes {
    pub(crate) fn part(&mut self, part: Part) {
        if !self.parts.contains(&part) {
            part.needs().into_iter().for_each(|needed| self.part(needed));
            self.parts.push(part);
        }
    }

    pub(crate) fn add(&mut self, set: Set, element: Element) {
        self.added.push((set, element));
    }

    /// Adds what an entry says, and what that needs.
    pub(crate) fn entry(&mut self, entry: &Entry) {
        self.part(entry.part());
        self.add(entry.set(), entry.element());
    }

    pub(crate) fn remove(&mut self, set: Set, element: Element) {
        self.gone.push((set, element));
    }

    pub(crate) fn clear(&mut self, set: Set, element: Element) {
        self.stray.push((set, element));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.stray.is_empty() && self.added.is_empty()
    }

    /// Returns what has to be there.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Returns what comes or stays.
    pub(super) fn added(&self) -> &[(Set, Element)] {
        &self.added
    }

    /// Returns what leaves or may be in the way, but for keys that something else gets.
    fn leaving<'a>(&'a self, list: &'a [(Set, Element)]) -> impl Iterator<Item = &'a (Set, Element)> {
        let added: BTreeSet<_> = self.added.iter().map(|(set, element)| (&set.name, element.key())).collect();
        list.iter().filter(move |(set, element)| !added.contains(&(&set.name, element.key())))
    }
}

/// Makes all changes in one transaction, in the usual case without a question before it.
///
/// If something is in the way or missing, it is found out what, and the transaction grows by that. Pieces that
/// another process makes at the same moment must be new in ours, so that one of the two is refused as a
/// whole and no rule is there twice.
pub(crate) fn commit(
    socket: &mut Socket,
    claims: &Claims<'_>,
    changes: &Changes,
) -> Result<(), FirewallError> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    let mut complete = false;
    if changes.stray.is_empty() {
        for (set, element) in &changes.gone {
            transaction.expire(set, vec![element.clone()]);
        }
        add(&mut transaction, changes);
    } else {
        complete = carefully(socket, changes, &mut transaction)?;
    }
    for _ in 0..ATTEMPTS {
        match socket.commit(&transaction) {
            Ok(()) => return settle(socket, changes),
            // Such a transaction makes everything it refers to: what is missing is a part of the kernel.
            Err(source @ Error::Refused { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }) if complete => {
                return Err(FirewallError::Unsupported { table: INET, source });
            }
            // KERNEL: ENOTEMPTY is what a range is told that another one of the set overlaps (nft_pipapo_insert).
            Err(Error::Refused {
                errno: Errno::ENOENT | Errno::EEXIST | Errno::EBUSY | Errno::ENOTEMPTY,
                ..
            }) => {}
            Err(error) => return Err(wrap(error)),
        }
        if table::state(socket, INET)? == State::Other {
            break;
        }
        transaction = Transaction::new();
        complete = carefully(socket, changes, &mut transaction)?;
    }
    // Someone took pieces out of the table, or it has another layout: only writing it anew helps.
    rebuild(socket, claims)
}

/// Builds the transaction after asking for everything it touches. Returns whether it makes the table, too.
fn carefully(
    socket: &mut Socket,
    changes: &Changes,
    transaction: &mut Transaction,
) -> Result<bool, FirewallError> {
    let absent = table::state(socket, INET)? == State::Absent;
    if absent || !socket.has_chain(INET, masquerade::POSTROUTING).map_err(wrap)? {
        masquerade::create(transaction);
    }
    for part in &changes.parts {
        if absent || !part.is_there(socket).map_err(wrap)? {
            part.create(transaction);
        }
    }
    let gone = changes.leaving(&changes.gone).chain(changes.leaving(&changes.stray));
    for (set, element) in gone {
        if socket.element(set, element.key()).map_err(wrap)?.is_some_and(|found| found.expires.is_none()) {
            transaction.delete_elements(set, vec![element.clone()]);
        }
    }
    let mut waits = false;
    for (set, element) in &changes.added {
        let found = socket.element(set, element.key()).map_err(wrap)?;
        match found {
            Some(found) if element.has_value_of(&found) => {}
            Some(found) if found.expires.is_some() => waits = true,
            Some(_) => {
                transaction.delete_elements(set, vec![element.clone()]);
            }
            None => {}
        }
    }
    if waits {
        thread::sleep(PAUSE);
    }
    add(transaction, changes);
    Ok(absent)
}

fn add(transaction: &mut Transaction, changes: &Changes) {
    for (set, element) in &changes.added {
        transaction.elements(set, vec![element.clone()]);
    }
}

/// KERNEL: before Linux 6.12 elements do not expire by being told to. What has stayed is deleted.
fn settle(socket: &mut Socket, changes: &Changes) -> Result<(), FirewallError> {
    let Some((set, element)) = changes.leaving(&changes.gone).next() else { return Ok(()) };
    match socket.element(set, element.key()).map_err(wrap)? {
        Some(found) if found.expires.is_none() => {
            let stays: Vec<_> = changes.leaving(&changes.gone).cloned().collect();
            socket.expire_all(&stays).map_err(wrap)
        }
        _ => Ok(()),
    }
}
