//! What never changes of a network: nobody who writes to the store takes its encryption away, or its devices.

use std::collections::BTreeSet;

use super::{Alarm, Known, Record, Snapshot};
use crate::keys::Key;
use crate::records::Network;

/// What a network's record is to those that are known.
pub(super) enum Standing {
    /// One more, or a change of what may change.
    Good,
    /// A known network, and something that never changes is another.
    Altered,
    /// It has what is a known network's: its id, or its VNI.
    Usurper(String),
}

impl Snapshot {
    /// Returns what a record of a network is to those that are known.
    pub(super) fn standing(&self, key: &Key, network: &Network) -> Standing {
        let known = self.get(key).and_then(Record::as_network);
        if known.is_some_and(|known| known.contradicts(network)) {
            return Standing::Altered;
        }
        let others = self.networks().filter(|other| other.name != network.name);
        match others.into_iter().find_map(|other| clash(other, network)) {
            Some(why) => Standing::Usurper(why),
            None => Standing::Good,
        }
    }

    /// Puts back into a fresh snapshot what never changes of networks that are known, and passes over networks that have
    /// what is another's. Returns an alarm if something was altered since.
    pub(super) fn keep_identities(&mut self, before: &Self) -> Option<Alarm> {
        let mut alarm = None;
        for (key, known) in &before.records {
            let (Some(old), Some(fresh)) = (known.record.as_network(), self.records.get(key).cloned()) else {
                continue;
            };
            if fresh.record.as_network().is_some_and(|new| old.contradicts(new)) {
                if !before.held.contains_key(key) {
                    alarm = Some(Alarm::Altered { network: old.id });
                }
                self.held.insert(key.clone(), Some(fresh));
                self.records.insert(key.clone(), known.clone());
            }
        }
        self.drop_usurpers(before);
        alarm
    }

    /// Of networks that have one id or VNI the one that was known stays, else the one that claimed the VNI.
    fn drop_usurpers(&mut self, before: &Self) {
        let rank = |network: &Network| {
            let known = before.network_named(&network.name).is_some_and(|known| known.id == network.id);
            let claimed = matches!(self.get(&Key::Vni(network.vni)), Some(Record::Vni(_, claim)) if claim.network == network.id);
            (!known, !claimed)
        };
        let mut networks: Vec<&Network> = self.networks().collect();
        let (mut ids, mut vnis) = (BTreeSet::new(), BTreeSet::new());
        if networks.iter().all(|network| ids.insert(network.id) && vnis.insert(network.vni)) {
            return;
        }
        networks.sort_by_cached_key(|network| (rank(network), network.name.clone()));
        let mut good: Vec<&Network> = Vec::new();
        let mut bad = Vec::new();
        for network in networks {
            match good.iter().find_map(|other| clash(other, network)) {
                Some(why) => bad.push((Key::Network(network.name.clone()), why)),
                None => good.push(network),
            }
        }
        for (key, why) in bad {
            self.records.remove(&key);
            self.note_bad(&key.to_string(), why);
        }
    }

    /// Returns whether the store has altered what never changes of a network, and what is known is kept.
    pub(super) fn is_altered(&self, key: &Key) -> bool {
        let Some(Some(said)) = self.held.get(key) else { return false };
        self.records.get(key).is_some_and(|known| alters(known, said))
    }
}

/// Returns whether what the store says of a network alters what never changes.
pub(super) fn alters(known: &Known, said: &Known) -> bool {
    match (&known.record, &said.record) {
        (Record::Network(known), Record::Network(said)) => known.contradicts(said),
        _ => false,
    }
}

/// Says what two networks have both that only one may have.
fn clash(known: &Network, network: &Network) -> Option<String> {
    if known.id == network.id {
        return Some(format!("its id is that of network {}", known.name));
    }
    (known.vni == network.vni).then(|| format!("its VNI {} is that of network {}", network.vni, known.name))
}
