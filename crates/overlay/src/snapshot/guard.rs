//! What is kept although the store has lost it.
//!
//! A route that goes takes traffic with it, and an empty store looks like a cluster that everybody has left. So absence alone
//! removes a few hosts at most, and nothing at all when the store itself is another or an older one than it was.

use std::fmt;

use super::{Known, Record, Snapshot};
use crate::ids::HostId;
use crate::keys::Key;

/// So many hosts may vanish at once without a word.
const FEW: usize = 2;

/// Why records are kept against the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// It is another store.
    Replaced {
        /// Which it was.
        was: u64,
        /// Which it is.
        is: u64,
    },
    /// It knows less than it did: restored from a backup.
    SetBack {
        /// The revision it had reached.
        was: i64,
        /// The revision it has.
        is: i64,
    },
    /// The cluster's own record is gone: somebody has deleted everything.
    Wiped,
    /// More hosts than ever leave at once are gone, and none of them said so.
    Vanished {
        /// How many.
        gone: usize,
        /// Of how many.
        known: usize,
    },
}

impl fmt::Display for Alarm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced { was, is } => write!(out, "the store is another one ({is:x}, it was {was:x})"),
            Self::SetBack { was, is } => write!(out, "the store went back from revision {was} to {is}"),
            Self::Wiped => write!(out, "the store has been emptied"),
            Self::Vanished { gone, known } => {
                write!(out, "{gone} of {known} hosts vanished from the store without having left")
            }
        }
    }
}

impl Snapshot {
    /// Returns why what `fresh` lacks should be kept.
    pub(super) fn alarm(&self, fresh: &Self, own: Option<HostId>) -> Option<Alarm> {
        if self.store == 0 || self.records.is_empty() {
            return None;
        }
        if fresh.store != self.store {
            return Some(Alarm::Replaced { was: self.store, is: fresh.store });
        }
        if fresh.revision < self.revision {
            return Some(Alarm::SetBack { was: self.revision, is: fresh.revision });
        }
        // What is held already has had its alarm.
        let lost = |key: &Key| !self.held.contains_key(key) && !fresh.records.contains_key(key);
        if self.cluster().is_some() && lost(&Key::Cluster) {
            return Some(Alarm::Wiped);
        }
        let others = || self.hosts().filter(|host| Some(host.id) != own && host.superseded_by.is_none());
        let gone = others().filter(|host| lost(&Key::Host(host.id)) && !fresh.has_left(host.id)).count();
        let known = others().count();
        (gone > FEW.max(known / 5)).then_some(Alarm::Vanished { gone, known })
    }

    /// Puts back into a fresh snapshot what it lacks and what it has in an older form: everything after an alarm, and
    /// otherwise what was held before and is lacking still.
    pub(super) fn hold(&mut self, before: &Self, alarm: bool) {
        let set_back = self.store != before.store || self.revision < before.revision;
        for (key, known) in &before.records {
            let held = before.held.get(key);
            if !(alarm || held.is_some()) || !self.may_hold(&known.record) {
                continue;
            }
            let fresh = self.records.get(key);
            let keep = match (fresh, held) {
                (None, _) => true,
                (Some(fresh), Some(Some(said))) if fresh.record == said.record => true,
                (Some(fresh), _) => alarm && set_back && is_older(fresh, known),
            };
            if keep {
                self.held.insert(key.clone(), fresh.cloned());
                self.records.insert(key.clone(), known.clone());
            }
        }
    }

    fn may_hold(&self, record: &Record) -> bool {
        let temporary = record.key().is_fleeting() || matches!(record, Record::Left(_));
        !temporary && !record.owner().is_some_and(|host| self.has_left(host))
    }

    fn has_left(&self, host: HostId) -> bool {
        self.records.contains_key(&Key::Left(host))
    }

    /// Gives up what is held for a host that has left; returns the keys that are gone.
    pub(super) fn release_host(&mut self, host: HostId) -> Vec<Key> {
        let of_host = |key: &Key| self.get(key).and_then(Record::owner) == Some(host);
        let held: Vec<Key> = self.held.keys().filter(|key| of_host(key)).cloned().collect();
        let mut gone = Vec::new();
        for key in held {
            let said = self.held.remove(&key).flatten();
            self.release(key.clone(), said);
            if !self.records.contains_key(&key) {
                gone.push(key);
            }
        }
        gone
    }

    pub(super) fn release(&mut self, key: Key, said: Option<Known>) {
        match said {
            Some(known) => drop(self.records.insert(key, known)),
            None => drop(self.records.remove(&key)),
        }
    }
}

/// Returns whether a store that went back has a record as it was before `known`.
///
/// Revisions of a new store say nothing, so what was claimed counts: of two claims of one thing the earlier is right.
fn is_older(fresh: &Known, known: &Known) -> bool {
    if fresh.record == known.record {
        return false;
    }
    match (&fresh.record, &known.record) {
        (Record::Block(fresh), Record::Block(known)) if fresh.host != known.host => known.epoch < fresh.epoch,
        (Record::Borrow(fresh), Record::Borrow(known)) if fresh.host != known.host => {
            known.epoch < fresh.epoch
        }
        _ => fresh.modified < known.modified,
    }
}
