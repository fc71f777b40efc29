//! What a host knows of the cluster: kept when the store is away, and never dropped on the store's word alone.

mod disk;
mod guard;
mod identity;
mod record;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weft_model::NetworkName;

pub use guard::Alarm;
use guard::is_later_claim;
use identity::Standing;
pub use record::Record;

use crate::entry::{Entry, Event, Listing};
use crate::ids::{HostId, NetworkId};
use crate::keys::Key;
use crate::records::{Alive, Block, BlockState, Borrow, Cluster, Host, Left, Member, Network, Removal};

/// No more keys that are none of ours are remembered by name; all are counted.
const BAD_KEYS: usize = 1000;

/// The lowest id there can be, and the highest.
const ALL: [[u8; 16]; 2] = [[0; 16], [0xff; 16]];

/// Returns the subnet that comes before all others in the order of keys, or behind them.
fn edge(first: bool) -> IpNetwork {
    let (address, length): (IpAddr, u8) =
        if first { (Ipv4Addr::UNSPECIFIED.into(), 0) } else { (Ipv6Addr::from_bits(u128::MAX).into(), 128) };
    IpNetwork::new(address, length).unwrap_or_else(|_| address.into())
}

/// The records of a cluster as of one revision of its store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Which store this came from; 0 for none.
    pub store: u64,
    /// The revision up to which it is complete.
    pub revision: i64,
    records: BTreeMap<Key, Known>,
    /// What the store says of keys that are held against it: nothing, or an older value.
    held: BTreeMap<Key, Option<Known>>,
    bad: BTreeMap<String, String>,
    bad_beyond: usize,
}

/// A record and the revision of its last change.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    modified: i64,
    record: Record,
}

/// An entry of the store that is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord<'a> {
    /// Its key.
    pub key: &'a str,
    /// What is wrong with it.
    pub why: &'a str,
}

/// What became different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that were not there.
    pub added: Vec<Key>,
    /// Keys whose record is another now.
    pub changed: Vec<Key>,
    /// Keys that are gone.
    pub removed: Vec<Key>,
    /// Keys the store has lost that are kept.
    pub held: Vec<Key>,
    /// Why they are.
    pub alarm: Option<Alarm>,
}

impl Changes {
    /// Returns whether everything is as it was, as far as the kernel is concerned.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }

    /// Returns all keys whose record is not what it was.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.added.iter().chain(&self.changed).chain(&self.removed)
    }
}

impl Snapshot {
    /// Returns what a store says.
    pub fn from_list(listing: &Listing) -> Self {
        let mut fresh = Self { store: listing.store, revision: listing.revision, ..Self::default() };
        for entry in &listing.entries {
            if let Some((key, known)) = fresh.understood(entry) {
                fresh.records.insert(key, known);
            }
        }
        fresh
    }

    /// Returns a snapshot of these records, which come from files and no store.
    pub fn from_records(records: impl IntoIterator<Item = Record>) -> Self {
        let records =
            records.into_iter().map(|record| (record.key(), Known { modified: 0, record })).collect();
        Self { records, ..Self::default() }
    }

    /// Takes over what a store says of everything, except what only its loss can explain (section "held" of `docs/overlay.md`).
    ///
    /// `own` is this host, which knows best what it has itself.
    pub fn adopt(&mut self, listing: &Listing, own: Option<HostId>) -> Changes {
        self.replace_by(Self::from_list(listing), own)
    }

    /// Takes over changes, in their order. All changes of one revision have to come in one call.
    pub fn apply(&mut self, events: &[Event], own: Option<HostId>) -> Changes {
        if events.iter().any(|event| matches!(event, Event::Delete { .. })) {
            return self.apply_with_losses(events, own);
        }
        let mut changes = Changes::default();
        for event in events {
            if let Event::Put(entry) = event {
                self.put(entry, &mut changes);
            }
        }
        self.progress(events.iter().map(Event::revision).max().unwrap_or(0));
        changes
    }

    /// Notes that nothing has changed up to a revision.
    pub fn progress(&mut self, revision: i64) {
        self.revision = self.revision.max(revision);
    }

    /// Drops what is held: the operator says that the store is right.
    pub fn accept(&mut self) -> Changes {
        let mut agreed = self.clone();
        for (key, said) in std::mem::take(&mut agreed.held) {
            agreed.release(key, said);
        }
        let changes = self.difference(&agreed);
        *self = agreed;
        changes
    }

    /// Returns how this differs from a later one, attributes included.
    pub fn difference(&self, later: &Self) -> Changes {
        let mut changes = Changes { held: later.held.keys().cloned().collect(), ..Changes::default() };
        for (key, known) in &later.records {
            match self.records.get(key) {
                None => changes.added.push(key.clone()),
                Some(before) if before.record != known.record => changes.changed.push(key.clone()),
                Some(_) => {}
            }
        }
        changes.removed =
            self.records.keys().filter(|key| !later.records.contains_key(key)).cloned().collect();
        changes
    }

    fn apply_with_losses(&mut self, events: &[Event], own: Option<HostId>) -> Changes {
        let mut fresh = self.clone();
        let mut noted = Changes::default();
        for event in events {
            match event {
                Event::Put(entry) => fresh.put(entry, &mut noted),
                Event::Delete { key, .. } => fresh.delete(key),
            }
        }
        fresh.progress(events.iter().map(Event::revision).max().unwrap_or(0));
        let changes = self.replace_by(fresh, own);
        Changes { alarm: changes.alarm.or(noted.alarm), ..changes }
    }

    fn replace_by(&mut self, mut fresh: Self, own: Option<HostId>) -> Changes {
        fresh.keep_unreadable(self);
        let altered = fresh.keep_identities(self);
        let lost = self.lost(&fresh, own);
        let alarm = self.alarm(&fresh, own, &lost);
        fresh.hold(self, alarm.is_some(), &lost);
        let records = lost.keys.len();
        let alarm = alarm.or(altered).or((records > 0).then_some(Alarm::Lost { records }));
        let changes = Changes { alarm, ..self.difference(&fresh) };
        *self = fresh;
        changes
    }

    fn put(&mut self, entry: &Entry, changes: &mut Changes) {
        let Some((key, known)) = self.understood(entry) else { return };
        if let Record::Network(network) = &known.record {
            match self.standing(&key, network) {
                Standing::Good => {}
                Standing::Altered => {
                    changes.alarm = Some(Alarm::Altered { network: network.id });
                    changes.held.push(key.clone());
                    self.held.insert(key, Some(known));
                    return;
                }
                Standing::Usurper(why) => return self.note_bad(&entry.key, why),
            }
        }
        // What is kept against the store stays until its host has said it again, or is out: of two claims the earlier is right.
        let is_against = |kept: &Known| is_later_claim(&known, kept) && !self.is_of_one_out(kept);
        if self.held.contains_key(&key) && self.records.get(&key).is_some_and(is_against) {
            changes.held.push(key.clone());
            self.held.insert(key, Some(known));
            return;
        }
        self.held.remove(&key);
        let out = match &known.record {
            Record::Left(left) => Some(left.host),
            Record::Host(host) if host.superseded_by.is_some() => Some(host.id),
            _ => None,
        };
        match self.records.get(&key) {
            None => changes.added.push(key.clone()),
            Some(before) if before.record != known.record => changes.changed.push(key.clone()),
            Some(_) => {}
        }
        self.records.insert(key, known);
        if let Some(host) = out {
            self.release_host(host, changes);
        }
    }

    fn delete(&mut self, key: &str) {
        self.bad.remove(&shortened(key));
        let Ok(key) = key.parse::<Key>() else { return };
        // What is held is gone from the store already, or was an older value that goes now. One that was altered is
        // removed as any other.
        let altered = self.is_altered(&key);
        match self.held.get_mut(&key) {
            Some(said) if !altered => *said = None,
            _ => {
                self.held.remove(&key);
                self.records.remove(&key);
            }
        }
    }

    /// Returns the record of an entry, or notes what is wrong with it. A record that was good before stays.
    fn understood(&mut self, entry: &Entry) -> Option<(Key, Known)> {
        match Record::parse(&entry.key, &entry.value) {
            Ok((key, record)) => {
                self.bad.remove(&entry.key);
                Some((key, Known { modified: entry.modified, record }))
            }
            Err(why) => {
                self.note_bad(&entry.key, why);
                None
            }
        }
    }

    /// Keys of ours are remembered however many there are: what was known under them stays.
    fn note_bad(&mut self, key: &str, why: String) {
        let short = shortened(key);
        if self.bad.len() < BAD_KEYS || self.bad.contains_key(&short) || key.parse::<Key>().is_ok() {
            self.bad.insert(short, why);
        } else {
            self.bad_beyond += 1;
        }
    }

    /// Takes over what was known under keys whose values make no sense in this listing.
    fn keep_unreadable(&mut self, before: &Self) {
        for key in self.bad.keys().filter_map(|key| key.parse::<Key>().ok()) {
            if let (None, Some(known)) = (self.records.get(&key), before.records.get(&key)) {
                self.records.insert(key, known.clone());
            }
        }
    }
}

/// Returns as much of a key as is remembered.
fn shortened(key: &str) -> String {
    key.chars().take(crate::keys::MAX_BYTES).collect()
}

/// What is known, by kind.
impl Snapshot {
    /// Returns what the hosts agree on, if this comes from a store that has been set up.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.get(&Key::Cluster).and_then(Record::as_cluster)
    }

    /// Returns all hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let [first, last] = ALL.map(HostId::new);
        self.between(Key::Host(first), Key::Host(last)).filter_map(Record::as_host)
    }

    /// Returns a host.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.get(&Key::Host(id)).and_then(Record::as_host)
    }

    /// Returns all networks.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        // Their keys are behind the cluster's and before those of hosts.
        self.between(Key::Cluster, Key::Host(HostId::new(ALL[0]))).filter_map(Record::as_network)
    }

    /// Returns a network.
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks().find(|network| network.id == id)
    }

    /// Returns the network of a name.
    pub fn network_named(&self, name: &NetworkName) -> Option<&Network> {
        self.get(&Key::Network(name.clone())).and_then(Record::as_network)
    }

    /// Returns all blocks of all networks, whatever their state.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        let [first, last] = ALL.map(NetworkId::new);
        self.between(Key::Block(first, edge(true)), Key::Block(last, edge(false)))
            .filter_map(Record::as_block)
    }

    /// Returns all blocks of a network, whatever their state.
    pub fn blocks_of(&self, network: NetworkId) -> impl Iterator<Item = &Block> {
        self.between(Key::Block(network, edge(true)), Key::Block(network, edge(false)))
            .filter_map(Record::as_block)
    }

    /// Returns the block of a network that has these addresses.
    pub fn block(&self, network: NetworkId, cidr: IpNetwork) -> Option<&Block> {
        self.get(&Key::Block(network, cidr)).and_then(Record::as_block)
    }

    /// Returns all borrowed addresses.
    pub fn borrows(&self) -> impl Iterator<Item = &Borrow> {
        let [first, last] = ALL.map(NetworkId::new);
        self.between(Key::Borrow(first, edge(true).ip()), Key::Borrow(last, edge(false).ip()))
            .filter_map(Record::as_borrow)
    }

    /// Returns all borrowed addresses of a network.
    pub fn borrows_of(&self, network: NetworkId) -> impl Iterator<Item = &Borrow> {
        self.between(Key::Borrow(network, edge(true).ip()), Key::Borrow(network, edge(false).ip()))
            .filter_map(Record::as_borrow)
    }

    /// Returns a borrowed address.
    pub fn borrow(&self, network: NetworkId, address: IpAddr) -> Option<&Borrow> {
        self.get(&Key::Borrow(network, address)).and_then(Record::as_borrow)
    }

    /// Returns addresses that others have, or would like to have, of a host's blocks of a network.
    pub fn lent(&self, network: NetworkId, host: HostId) -> impl Iterator<Item = &Borrow> {
        let of_host = |block: &&Block| block.host == host && block.state == BlockState::Active;
        let others = self.borrows_of(network).any(|borrow| borrow.host != host);
        let blocks = self.blocks_of(network).filter(|_| others).filter(of_host);
        let blocks: Vec<IpNetwork> = blocks.map(|block| block.cidr).collect();
        self.borrows_of(network).filter(move |borrow| borrow.is_out_of(host, &blocks))
    }

    /// Returns who is about to remove a network, if somebody is.
    pub fn removal(&self, network: NetworkId) -> Option<&Removal> {
        self.get(&Key::Removal(network)).and_then(Record::as_removal)
    }

    /// Returns who takes part in what.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let [first, last] = ALL.map(NetworkId::new);
        let [low, high] = ALL.map(HostId::new);
        self.between(Key::Member(first, low), Key::Member(last, high)).filter_map(Record::as_member)
    }

    /// Returns who takes part in a network.
    pub fn members_of(&self, network: NetworkId) -> impl Iterator<Item = &Member> {
        let [low, high] = ALL.map(HostId::new);
        self.between(Key::Member(network, low), Key::Member(network, high)).filter_map(Record::as_member)
    }

    /// Returns whether a host takes part in a network.
    pub fn is_member(&self, network: NetworkId, host: HostId) -> bool {
        self.records.contains_key(&Key::Member(network, host))
    }

    /// Returns hosts that went on purpose.
    pub fn left(&self) -> impl Iterator<Item = &Left> {
        let [first, last] = ALL.map(HostId::new);
        self.between(Key::Left(first), Key::Left(last)).filter_map(Record::as_left)
    }

    /// Returns what a host says of itself at present; `None` makes it suspect and nothing more.
    pub fn alive(&self, host: HostId) -> Option<&Alive> {
        self.get(&Key::Alive(host)).and_then(Record::as_alive)
    }

    /// Returns a record.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key).map(|known| &known.record)
    }

    /// Returns the records from one key to another: hosts look every second, and there may be tens of thousands.
    fn between(&self, first: Key, last: Key) -> impl Iterator<Item = &Record> {
        self.records.range(first..=last).map(|(_, known)| &known.record)
    }

    /// Returns all records, in the order of their keys.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.records.values().map(|known| &known.record)
    }

    /// Returns entries that are passed over. Of keys that are none of ours at most a thousand: [`Snapshot::bad_count`] has
    /// them all.
    pub fn bad(&self) -> impl Iterator<Item = BadRecord<'_>> {
        self.bad.iter().map(|(key, why)| BadRecord { key, why })
    }

    /// Returns how many entries are passed over.
    pub fn bad_count(&self) -> usize {
        self.bad.len() + self.bad_beyond
    }

    /// Returns keys that the store has lost, or set back, and that are kept nevertheless.
    pub fn held(&self) -> impl Iterator<Item = &Key> {
        self.held.keys()
    }
}

#[cfg(test)]
mod tests;
