//! What is kept although the store has lost it.
//!
//! A route that goes takes traffic with it, and an empty store looks like a cluster that everybody has left. So absence alone
//! removes a few hosts at most, and nothing at all when the store itself is another or an older one than it was.

use std::collections::BTreeSet;
use std::fmt;

use super::identity::alters;
use super::{Changes, Known, Record, Snapshot};
use crate::ids::{HostId, NetworkId};
use crate::keys::Key;
use crate::records::BlockState;

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
    /// More hosts than ever leave at once are gone, or have lost what they had, and none of them said so.
    Vanished {
        /// How many.
        gone: usize,
        /// Of how many.
        known: usize,
    },
    /// Records are gone that only their owner takes away, and that is this host, or that go together with others.
    Lost {
        /// How many.
        records: usize,
    },
    /// What never changes of a network is another: what protects its packets, among others.
    Altered {
        /// Which.
        network: NetworkId,
    },
}

impl fmt::Display for Alarm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced { was, is } => write!(out, "the store is another one ({is:x}, it was {was:x})"),
            Self::SetBack { was, is } => write!(out, "the store went back from revision {was} to {is}"),
            Self::Wiped => write!(out, "the store has been emptied"),
            Self::Vanished { gone, known } => {
                write!(
                    out,
                    "{gone} of {known} hosts, or what they had, vanished from the store without having left"
                )
            }
            Self::Lost { records } => {
                write!(out, "{records} records vanished from the store that nobody has removed")
            }
            Self::Altered { network } => {
                write!(
                    out,
                    "the store says another encryption, VNI or isolation of network {network} than it has"
                )
            }
        }
    }
}

/// What is gone although nobody who may has taken it away.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// This host's own records, and what belongs to nobody in particular.
    pub(super) keys: BTreeSet<Key>,
    /// Other hosts that have lost something.
    pub(super) hosts: BTreeSet<HostId>,
}

impl Snapshot {
    /// Returns why what `fresh` lacks should be kept.
    pub(super) fn alarm(&self, fresh: &Self, own: Option<HostId>, lost: &Lost) -> Option<Alarm> {
        if self.store == 0 || self.records.is_empty() {
            return None;
        }
        if fresh.store != self.store {
            return Some(Alarm::Replaced { was: self.store, is: fresh.store });
        }
        if fresh.revision < self.revision {
            return Some(Alarm::SetBack { was: self.revision, is: fresh.revision });
        }
        if self.cluster().is_some() && self.is_lost(&Key::Cluster, fresh) {
            return Some(Alarm::Wiped);
        }
        let gone = lost.hosts.len();
        let others = self.hosts().filter(|host| Some(host.id) != own && host.superseded_by.is_none());
        let known = others.count();
        (gone > FEW.max(known / 5)).then_some(Alarm::Vanished { gone, known })
    }

    /// Returns what `fresh` lacks although those who take it away have not.
    ///
    /// What has an owner goes when its owner leaves, what is of a network goes with the network, and a network goes together
    /// with its claim of a VNI.
    pub(super) fn lost(&self, fresh: &Self, own: Option<HostId>) -> Lost {
        let mut lost = Lost::default();
        if self.store == 0 {
            return lost;
        }
        let is_missing =
            |key: &Key, known: &Known| self.is_lost(key, fresh) || self.is_overtaken(key, known, fresh, own);
        for (key, known) in self.records.iter().filter(|(key, known)| is_missing(key, known)) {
            match known.record.owner() {
                Some(owner) if fresh.is_out(owner) || !self.should_stay(&known.record, fresh) => {}
                Some(owner) if Some(owner) == own => drop(lost.keys.insert(key.clone())),
                Some(owner) => drop(lost.hosts.insert(owner)),
                None if self.should_stay(&known.record, fresh) => drop(lost.keys.insert(key.clone())),
                None => {}
            }
        }
        lost
    }

    fn is_lost(&self, key: &Key, fresh: &Self) -> bool {
        // What is held already has had its alarm.
        !self.held.contains_key(key) && !fresh.records.contains_key(key)
    }

    /// Returns whether the store has given to another host what this one had before: it has lost the claim meanwhile, even if it has
    /// come as far as it was since.
    fn is_overtaken(&self, key: &Key, known: &Known, fresh: &Self, own: Option<HostId>) -> bool {
        let is_ours = own.is_some() && known.record.owner() == own && !self.held.contains_key(key);
        is_ours && fresh.records.get(key).is_some_and(|fresh| is_later_claim(fresh, known))
    }

    /// Returns whether what a record of this snapshot is about is still there in `fresh`.
    fn should_stay(&self, record: &Record, fresh: &Self) -> bool {
        // A host lets go of a network that is about to be removed.
        let has = |network| fresh.network(network).is_some() && fresh.get(&Key::Removal(network)).is_none();
        let host = |id| fresh.host(id).or_else(|| self.host(id));
        match record {
            Record::Host(host) => host.superseded_by.is_none(),
            Record::Block(block) => block.state == BlockState::Active && has(block.network),
            Record::Member(member) => has(member.network),
            Record::Underlay(address, claim) => {
                host(claim.host).is_some_and(|host| host.underlay.addresses().any(|own| own == *address))
            }
            Record::Mesh(number, claim) => host(claim.host).is_some_and(|host| host.mesh == *number),
            Record::Network(network) => {
                matches!(fresh.get(&Key::Vni(network.vni)), Some(Record::Vni(_, claim)) if claim.network == network.id)
            }
            Record::Vni(_, claim) => has(claim.network),
            // What was borrowed is given back whenever its host likes.
            Record::Borrow(_)
            | Record::Cluster(_)
            | Record::Left(_)
            | Record::Alive(_)
            | Record::Removal(_) => false,
        }
    }
    /// Puts back into a fresh snapshot what it lacks and what it has in an older form: everything after an alarm, and
    /// otherwise what was lost, and what was held before and is lacking still.
    pub(super) fn hold(&mut self, before: &Self, alarm: bool, lost: &Lost) {
        let set_back = self.store != before.store || self.revision < before.revision;
        let is_kept = |(key, known): &(&Key, &Known)| {
            let held = before.held.get(*key);
            let missed = held.is_some() || lost.keys.contains(*key);
            if !(alarm || missed) || !self.may_hold(known) {
                return false;
            }
            match (self.records.get(*key), held) {
                // Whoever removes a network that was altered means it.
                (None, Some(Some(said))) => alarm || !alters(known, said),
                (None, _) => true,
                (Some(fresh), Some(Some(said))) if fresh.record == said.record => true,
                (Some(fresh), _) => {
                    let is_against = is_later_claim(fresh, known) && !before.is_of_one_out(known);
                    (alarm && set_back && is_older(fresh, known)) || (missed && is_against)
                }
            }
        };
        // All of them first: whether a host is out is what the store says, and nothing that is put back here.
        let kept: Vec<(&Key, &Known)> = before.records.iter().filter(is_kept).collect();
        for (key, known) in kept {
            let said = self.records.insert(key.clone(), known.clone());
            self.held.insert(key.clone(), said);
        }
    }

    fn may_hold(&self, known: &Known) -> bool {
        let record = &known.record;
        let temporary = record.key().is_fleeting() || matches!(record, Record::Left(_));
        !temporary && !self.is_of_one_out(known)
    }

    /// Returns whether others may take away what this is, because of whose it is.
    pub(super) fn is_of_one_out(&self, known: &Known) -> bool {
        known.record.owner().is_some_and(|host| self.is_out(host))
    }

    /// Returns whether others may take away what a host had: it has left, or another one has its place.
    fn is_out(&self, host: HostId) -> bool {
        self.has_left(host) || self.host(host).is_some_and(|host| host.superseded_by.is_some())
    }

    fn has_left(&self, host: HostId) -> bool {
        self.records.contains_key(&Key::Left(host))
    }

    /// Gives up what is held for a host that is out.
    pub(super) fn release_host(&mut self, host: HostId, changes: &mut Changes) {
        let of_host = |key: &Key| self.get(key).and_then(Record::owner) == Some(host);
        let held: Vec<Key> = self.held.keys().filter(|key| of_host(key)).cloned().collect();
        for key in held {
            let said = self.held.remove(&key).flatten();
            match said {
                Some(_) => changes.changed.push(key.clone()),
                None => changes.removed.push(key.clone()),
            }
            self.release(key, said);
        }
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
        (Record::Block(theirs), Record::Block(ours)) if theirs.host != ours.host => {
            is_later_claim(fresh, known)
        }
        (Record::Borrow(theirs), Record::Borrow(ours)) if theirs.host != ours.host => {
            is_later_claim(fresh, known)
        }
        _ => fresh.modified < known.modified,
    }
}

/// Returns whether a record is another host's claim of what is known to be somebody's by an earlier one.
pub(super) fn is_later_claim(fresh: &Known, known: &Known) -> bool {
    match (&fresh.record, &known.record) {
        (Record::Block(fresh), Record::Block(known)) => fresh.host != known.host && known.epoch < fresh.epoch,
        (Record::Borrow(fresh), Record::Borrow(known)) => {
            fresh.host != known.host && known.epoch < fresh.epoch
        }
        _ => false,
    }
}
