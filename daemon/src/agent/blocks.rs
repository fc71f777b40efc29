//! This host's blocks: claimed when a network appears, and before those there are run out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use tokio::task::spawn_local;
use weft_overlay::NetworkId;
use weft_overlay::records::Network;

use super::agent::Agent;
use super::known::Inner;
use super::{claim, status, usage};

/// How soon a claim that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a borrowed address may be nobody's: an ADD that asked for it is on its way.
const GRACE: Duration = Duration::from_secs(120);

/// Claims that are being made, and when others may be tried.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    running: BTreeSet<(NetworkId, bool)>,
    rest: Option<Instant>,
    /// Since when a borrowed address has been nobody's.
    idle: std::collections::BTreeMap<(NetworkId, IpAddr), Instant>,
    /// The networks that had containers when it was looked last.
    busy: BTreeSet<NetworkId>,
}

/// Looks which networks lack a block, and claims one for each that does.
pub(crate) fn look(agent: &Rc<Agent>) {
    let wanted = agent.change(Inner::wanted_blocks);
    for (network, v4) in wanted {
        spawn_local(claim_one(agent.clone(), network, v4));
    }
    for (network, address) in agent.change(Inner::idle_borrows) {
        let agent = agent.clone();
        // What fails is tried again with the next look.
        spawn_local(async move { claim::give_back(&agent, &network, address).await.ok() });
    }
    if agent.change(Inner::became_busy) {
        agent.hurry();
    }
}

async fn claim_one(agent: Rc<Agent>, network: Network, v4: bool) {
    let outcome = claim::block(&agent, &network, v4).await;
    agent.change(|inner| {
        inner.claims.running.remove(&(network.id, v4));
        if outcome.is_err() {
            inner.claims.rest = Some(Instant::now() + AGAIN);
        }
    });
    let why = outcome
        .err()
        .map(|refusal| format!("no {} block of network {}: {refusal}", family(v4), network.name));
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

    /// Returns borrowed addresses that nobody has had for a while.
    fn idle_borrows(&mut self) -> Vec<(Network, IpAddr)> {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return Vec::new() };
        let own: Vec<_> = self.snapshot.borrows().filter(|borrow| borrow.host == own).cloned().collect();
        let mut idle = std::collections::BTreeMap::new();
        let mut over = Vec::new();
        for borrow in own {
            let Some(network) = self.snapshot.network(borrow.network).cloned() else { continue };
            if self.usage.of(&network.name).contains(&borrow.address) {
                continue;
            }
            let key = (borrow.network, borrow.address);
            let since = self.claims.idle.get(&key).copied().unwrap_or_else(Instant::now);
            match since.elapsed() > GRACE && self.hearing.connected {
                true => over.push((network, borrow.address)),
                false => drop(idle.insert(key, since)),
            }
        }
        self.claims.idle = idle;
        over
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
