//! What is left of networks and hosts that are gone, because whoever removed them was killed meanwhile.
//!
//! One host sees to it, the first of those that are alive; should two think so, no harm is done.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;
use weft_overlay::records::{Block, BlockState};
use weft_overlay::snapshot::Record;
use weft_overlay::{HostId, NetworkId, Snapshot};
use weft_store::claims::is_old;

use super::agent::Agent;
use super::claim;
use super::known::Inner;

/// How soon it is looked again: whoever removes something has time to finish.
const AGAIN: Duration = Duration::from_secs(5);

/// What there is to collect, and when it was looked last.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Networks that were seen to go. That one is not there says nothing: in a store that was emptied it may come back.
    gone: BTreeSet<NetworkId>,
    looked: Option<Instant>,
}

impl Leftovers {
    /// Notes that a network was there and is not any more.
    pub(crate) fn note_gone(&mut self, network: NetworkId) {
        self.gone.insert(network);
    }
}

/// Looks whether there is something to collect, and does so.
pub(crate) fn look(agent: &Rc<Agent>) {
    let now = weft_state::time::milliseconds();
    let Some((networks, hosts)) = agent.change(|inner| inner.leftovers(now)) else { return };
    if networks.is_empty() && hosts.is_empty() {
        return;
    }
    let agent = agent.clone();
    // What fails is tried again with the next look.
    spawn_local(async move { claim::collect(&agent, networks, hosts).await.ok() });
}

impl Inner {
    /// Returns networks and hosts of which there is something left; nothing when it is not for this host to do, or not time yet.
    fn leftovers(&mut self, now: u64) -> Option<(Vec<NetworkId>, Vec<HostId>)> {
        if !self.hearing.connected || self.hearing.alarm.is_some() || self.is_out().is_some() {
            return None;
        }
        if self.leftovers.looked.is_some_and(|looked| looked.elapsed() < AGAIN) {
            return None;
        }
        self.leftovers.looked = Some(Instant::now());
        let own = self.membership.as_ref()?.host;
        let first =
            self.snapshot.hosts().map(|host| host.id).find(|id| self.snapshot.alive(*id).is_some())?;
        if first != own {
            return None;
        }
        let there: BTreeSet<NetworkId> = self.snapshot.networks().map(|network| network.id).collect();
        self.leftovers.gone.retain(|network| !there.contains(network));
        let networks = of_networks(&self.snapshot, &self.leftovers.gone);
        Some((networks.into_iter().collect(), of_hosts(&self.snapshot, now).into_iter().collect()))
    }
}

/// Returns which of some networks are gone and have left something.
fn of_networks(snapshot: &Snapshot, gone: &BTreeSet<NetworkId>) -> BTreeSet<NetworkId> {
    let of = |record: &Record| match record {
        Record::Block(block) => Some(block.network),
        Record::Borrow(borrow) => Some(borrow.network),
        Record::Member(member) => Some(member.network),
        Record::Vni(_, claim) => Some(claim.network),
        _ => None,
    };
    match gone.is_empty() {
        true => BTreeSet::new(),
        false => snapshot.all().filter_map(of).filter(|network| gone.contains(network)).collect(),
    }
}

/// Returns hosts that are out and have left something, or are out for so long that it need not be known.
fn of_hosts(snapshot: &Snapshot, now: u64) -> BTreeSet<HostId> {
    let out: BTreeSet<HostId> = snapshot.left().map(|left| left.host).collect();
    if out.is_empty() {
        return out;
    }
    let old = snapshot.left().filter(|left| is_old(left.at, now)).map(|left| left.host);
    let is_left = |record: &&Record| match record {
        Record::Block(Block { state, .. }) => *state == BlockState::Active,
        Record::Borrow(_) | Record::Member(_) => true,
        _ => false,
    };
    let owners = snapshot.all().filter(is_left).filter_map(Record::owner).filter(|host| out.contains(host));
    owners.chain(old).collect()
}
