//! This host's blocks: claimed when a network appears, and before those there are run out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use tokio::task::{spawn_blocking, spawn_local};
use weft_manager::overlay::protocol::Refusal;
use weft_overlay::NetworkId;
use weft_overlay::records::Network;

use super::agent::Agent;
use super::known::Inner;
use super::lending::Lease;
use super::{claim, status, usage};

/// How soon a claim that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a claim that was made may take to be heard of.
const HEARD: Duration = Duration::from_secs(10);
/// How long a borrowed address may be nobody's: an ADD that asked for it is on its way.
const GRACE: Duration = Duration::from_secs(120);

/// Claims that are being made, and when others may be tried.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    running: BTreeSet<(NetworkId, bool)>,
    rest: Option<Instant>,
    /// Since when a borrowed address has been nobody's.
    idle: BTreeMap<(NetworkId, IpAddr), Instant>,
    /// Borrowed addresses that are on their way back, and whether the store is being told: they are in no network's file any more.
    returning: BTreeMap<(NetworkId, IpAddr), bool>,
    /// The networks that had containers when it was looked last.
    busy: BTreeSet<NetworkId>,
}

/// Looks which networks lack a block, and claims one for each that does.
pub(crate) fn look(agent: &Rc<Agent>) {
    let wanted = agent.change(Inner::wanted_blocks);
    for (network, v4) in wanted {
        spawn_local(claim_one(agent.clone(), network, v4));
    }
    let (ready, more) = agent.change(Inner::idle_borrows);
    for (network, address) in ready {
        spawn_local(give_back(agent.clone(), network, address));
    }
    if more {
        // First the files have to forget them.
        agent.touch();
    }
    if agent.change(Inner::became_busy) {
        agent.hurry();
    }
}

/// Gives an address back that the network's file has no more. It is taken as a lease meanwhile: an ADD that has read an older file
/// does not get past that, and a container that was faster keeps it.
async fn give_back(agent: Rc<Agent>, network: Network, address: IpAddr) {
    let Some(own) = agent.host() else { return };
    let lease = Lease::of(&agent, &network, address);
    let taken = spawn_blocking(move || lease.take(own).map(|taken| (taken, lease))).await;
    let key = (network.id, address);
    match taken {
        Ok(Ok((true, lease))) => {
            let told = claim::give_back(&agent, &network, address).await;
            lease.give_back();
            // What fails is tried again with the next look; that it is done is heard from the store.
            agent.change(|inner| {
                if let Some(telling) = inner.claims.returning.get_mut(&key) {
                    *telling = told.is_ok();
                }
            });
        }
        _ => {
            agent.change(|inner| inner.claims.returning.remove(&key));
            agent.touch();
        }
    }
}

/// Keeps addresses here that somebody asks for again; what is under way is waited for.
///
/// # Errors
///
/// When that takes longer than `limit`.
pub(crate) async fn keep(
    agent: &Agent,
    network: NetworkId,
    addresses: &[IpAddr],
    limit: Duration,
) -> Result<(), Refusal> {
    let kept = || {
        agent.change(|inner| {
            let returning = &mut inner.claims.returning;
            addresses.iter().for_each(|address| {
                if returning.get(&(network, *address)) == Some(&false) {
                    returning.remove(&(network, *address));
                }
            });
            let free = addresses.iter().all(|address| !returning.contains_key(&(network, *address)));
            free.then_some(())
        })
    };
    agent.wait_for("addresses that are being given back", limit, kept).await
}

async fn claim_one(agent: Rc<Agent>, network: Network, v4: bool) {
    let outcome = claim::block(&agent, &network, v4).await;
    if let Ok(block) = &outcome {
        // Whoever looks before it is heard of would claim another one.
        let heard = |inner: &Inner| {
            let is_over = inner.membership.is_none() || inner.snapshot.network(network.id).is_none();
            (is_over || inner.snapshot.block(network.id, block.cidr).is_some()).then_some(())
        };
        agent.wait_for("a block that was claimed", HEARD, || agent.with(heard)).await.ok();
    }
    agent.change(|inner| {
        inner.claims.running.remove(&(network.id, v4));
        if outcome.is_err() {
            inner.claims.rest = Some(Instant::now() + AGAIN);
        }
    });
    let why = outcome.err().map(|refusal| {
        let hint = refusal.hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default();
        format!("no {} block of network {}: {refusal}{hint}", family(v4), network.name)
    });
    let failed = why.is_some();
    agent.trouble(&about(network.id, v4), why);
    if failed {
        // Somebody may be waiting for it.
        agent.touch();
    }
}

const fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

/// Returns what a failed claim is noted under.
fn about(network: NetworkId, v4: bool) -> String {
    format!("block {network} {}", family(v4))
}

/// Claims what a network lacks at once, whatever happened before.
pub(crate) fn hurry(agent: &Rc<Agent>, network: NetworkId) {
    agent.change(|inner| inner.claims.rest = None);
    [true, false].into_iter().for_each(|v4| agent.trouble(&about(network, v4), None));
    look(agent);
}

impl Inner {
    /// Returns the networks and families that need a block, and notes that it is being claimed.
    fn wanted_blocks(&mut self) -> Vec<(Network, bool)> {
        let resting = self.claims.rest.is_some_and(|rest| Instant::now() < rest);
        if resting || !self.hearing.connected || self.is_out().is_some() {
            return Vec::new();
        }
        let networks: Vec<Network> =
            self.snapshot.networks().filter(|network| !self.is_going(network.id)).cloned().collect();
        let mut wanted = Vec::new();
        for network in networks {
            for v4 in [true, false] {
                if self.is_short(&network, v4) && self.claims.running.insert((network.id, v4)) {
                    wanted.push((network.clone(), v4));
                }
            }
        }
        wanted
    }

    /// Returns whether this host has none, or hardly any, addresses of a network left to give out.
    pub(crate) fn is_short(&mut self, network: &Network, v4: bool) -> bool {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return false };
        if !network.subnets.iter().any(|subnet| subnet.is_ipv4() == v4) {
            return false;
        }
        let blocks = status::own_blocks(&self.snapshot, network.id, own);
        let whole = |block: &IpNetwork| block.is_ipv4() == v4 && usage::size(*block) > 1;
        let blocks: Vec<IpNetwork> = blocks.into_iter().filter(whole).collect();
        let size = blocks.iter().map(|block| usage::size(*block)).fold(0, u64::saturating_add);
        usage::is_full(usage::within(self.usage.of(&network.name), &blocks), size)
    }

    /// Returns whether a network has addresses to give out in every family, or why it will not get any.
    pub(crate) fn has_room(&mut self, network: &Network) -> Option<Result<(), String>> {
        let failed = [true, false].into_iter().find_map(|v4| self.troubles.get(&about(network.id, v4)));
        if let Some(why) = failed {
            return Some(Err(why.clone()));
        }
        let short = [true, false].into_iter().any(|v4| self.is_short(network, v4));
        (!short).then_some(Ok(()))
    }

    /// Returns whether a network is to be had on this host, or why not; nothing as long as that is open.
    pub(crate) fn is_to_be_had(&mut self, network: &Network) -> Option<Result<(), String>> {
        if let Some(why) = self.refused(network.id) {
            return Some(Err(why.clone()));
        }
        let gone = self.is_going(network.id) || self.snapshot.network(network.id).is_none();
        if gone || self.made.contains_key(&network.id) {
            return Some(Ok(()));
        }
        self.has_room(network).filter(Result::is_err)
    }

    /// Returns borrowed addresses that nobody has had for a while and that no file here has any more, and whether there are others
    /// that have to leave the files first.
    ///
    /// In the other order another host could have an address while a container here still gets it.
    fn idle_borrows(&mut self) -> (Vec<(Network, IpAddr)>, bool) {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else {
            return Default::default();
        };
        let own: Vec<_> = self.snapshot.borrows().filter(|borrow| borrow.host == own).cloned().collect();
        self.claims.returning.retain(|key, _| own.iter().any(|one| (one.network, one.address) == *key));
        let (mut idle, mut ready, mut more) = (BTreeMap::new(), Vec::new(), false);
        for borrow in own {
            let Some(network) = self.snapshot.network(borrow.network).cloned() else { continue };
            let key = (borrow.network, borrow.address);
            if let Some(telling) = self.claims.returning.get_mut(&key) {
                let made = self.made.get(&network.id);
                let forgotten = !made.is_some_and(|made| made.local.borrowed.contains(&borrow.address));
                if forgotten && self.hearing.connected && !std::mem::replace(telling, true) {
                    ready.push((network, borrow.address));
                }
                continue;
            }
            if self.usage.of(&network.name).contains(&borrow.address) {
                continue;
            }
            let since = self.claims.idle.get(&key).copied().unwrap_or_else(Instant::now);
            if since.elapsed() > GRACE && self.hearing.connected {
                self.claims.returning.insert(key, false);
                more = true;
            } else {
                idle.insert(key, since);
            }
        }
        self.claims.idle = idle;
        (ready, more)
    }

    /// Returns whether a borrowed address is on its way back: nobody here gets it any more.
    pub(crate) fn is_returning(&self, network: NetworkId, address: IpAddr) -> bool {
        self.claims.returning.contains_key(&(network, address))
    }

    /// Returns whether a network has got its first container on this host, or lost its last, since the last look.
    fn became_busy(&mut self) -> bool {
        let networks: Vec<Network> = self.snapshot.networks().cloned().collect();
        let busy =
            networks.iter().filter(|network| !self.leases(network).is_empty()).map(|network| network.id);
        let busy: BTreeSet<NetworkId> = busy.collect();
        let before = std::mem::replace(&mut self.claims.busy, busy);
        before != self.claims.busy
    }
}

#[cfg(test)]
mod tests {
    use weft_manager::overlay::protocol::Join;
    use weft_overlay::records::{Borrow, BorrowState, Egress, Encryption};
    use weft_overlay::snapshot::Record;
    use weft_overlay::{ClusterId, HostId, Snapshot};
    use weft_state::{Root, document};

    use super::*;
    use crate::agent::membership::Membership;

    /// A host that has borrowed an address of a network, which nobody has used for long.
    fn host(root: &Root) -> (Inner, Network, IpAddr) {
        let (own, address) = (HostId::new([1; 16]), "10.1.9.9".parse().unwrap());
        let network = Network {
            id: NetworkId::new([2; 16]),
            name: "blue".parse().unwrap(),
            generation: 1,
            vni: 4096.try_into().unwrap(),
            subnets: vec!["10.1.0.0/16".parse().unwrap()],
            encryption: Encryption::None,
            isolated: false,
            egress: Egress::Nat,
            mtu: None,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            created: String::new(),
        };
        let (holder, state) = ("db".into(), BorrowState::Active);
        let borrow = Borrow { network: network.id, address, host: own, holder, epoch: 1, state };
        let mut inner = Inner::new(root);
        inner.membership = Some(Membership {
            schema: document::SCHEMA,
            cluster: ClusterId::new([3; 16]),
            host: own,
            name: "h1".into(),
            interface: "eth0".into(),
            join: Join::default(),
        });
        inner.snapshot = Snapshot::from_records([Record::Network(network.clone()), Record::Borrow(borrow)]);
        inner.hearing.connected = true;
        (inner, network, address)
    }

    #[test]
    fn an_address_goes_back_when_nobody_here_gets_it_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(Some(dir.path().into()));
        let (mut inner, network, address) = host(&root);
        assert_eq!(inner.idle_borrows(), (vec![], false), "a container may be on its way");
        let long_ago = Instant::now().checked_sub(GRACE * 2).unwrap();
        inner.claims.idle.insert((network.id, address), long_ago);
        // First the files forget it; nobody else hears of that yet.
        assert_eq!(inner.idle_borrows(), (vec![], true));
        assert!(inner.is_returning(network.id, address));
        // They have, and the store is told, once.
        assert_eq!(inner.idle_borrows(), (vec![(network.clone(), address)], false));
        assert_eq!(inner.idle_borrows(), (vec![], false));
        assert!(inner.is_returning(network.id, address));
        // The store has it no more.
        inner.snapshot = Snapshot::from_records([Record::Network(network.clone())]);
        assert_eq!(inner.idle_borrows(), (vec![], false));
        assert!(!inner.is_returning(network.id, address));
    }
}
