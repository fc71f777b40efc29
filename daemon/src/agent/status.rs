//! How things are, for people and programs.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Bad, BlockUsage, NetworkStatus, Peer, Refusal, Status, StoreStatus};
use weft_overlay::kernel::GateState;
use weft_overlay::records::{Alive, BlockState, Encryption, Fastpath, Host, Network};
use weft_overlay::{HostId, NetworkId, Snapshot};

use super::agent::Agent;
use super::kernel::Kernel;
use super::known::Inner;
use super::membership::UNREADABLE;
use super::program;
use super::usage;

/// So many records that could not be used are listed; all are counted.
const LISTED: usize = 100;

/// Returns how everything is.
pub(crate) fn status(agent: &Agent) -> Status {
    agent.change(|inner| {
        let own = inner.membership.as_ref().map(|membership| membership.host);
        let others =
            || inner.snapshot.hosts().filter(|host| Some(host.id) != own && host.superseded_by.is_none());
        let alive = others().filter(|host| inner.snapshot.alive(host.id).is_some()).count();
        let suspect = others().count() - alive;
        let (state, why) = inner.state();
        Status {
            state: state.into(),
            why,
            version: env!("CARGO_PKG_VERSION").into(),
            replaced: program::is_replaced(),
            pid: std::process::id(),
            carriers: inner.tunnels.iter().map(|(slot, by)| (slot.to_string(), by.clone())).collect(),
            cluster: inner.membership.as_ref().map(|membership| membership.cluster.to_string()),
            host: own.and_then(|own| inner.snapshot.host(own)).map(|host| peer(&inner.snapshot, host, own)),
            store: inner.store_status(),
            alive,
            suspect,
            bad: inner.bad(),
            alarms: inner.alarms(),
            mended: inner.counts.drift.values().sum(),
            networks: inner.network_statuses(),
        }
    })
}

/// Returns the same, and whether what networks ask of the kernel is in effect.
pub(crate) async fn with_the_kernels(agent: &Agent, kernel: &Kernel) -> Status {
    let mut status = status(agent);
    if status.networks.iter().any(|network| network.fastpath)
        && let Some(desired) = agent.with(Inner::desired)
    {
        let mut slow = kernel.slow(desired).await;
        let states = kernel.gates.borrow().states();
        for network in &mut status.networks {
            let Ok(name) = network.name.parse() else { continue };
            network.slow = slow.remove(&name);
            network.shut = match states.get(&name) {
                Some(GateState::Shut(reasons)) => reasons.iter().map(ToString::to_string).collect(),
                None if network.gated => vec!["nobody has looked yet who else has a say".into()],
                _ => Vec::new(),
            };
        }
    }
    status
}

/// Returns the other hosts.
pub(crate) fn peers(agent: &Agent) -> Vec<Peer> {
    agent.with(|inner| {
        let own = inner.membership.as_ref().map(|membership| membership.host);
        let others = inner.snapshot.hosts().filter(|host| Some(host.id) != own);
        others.map(|host| peer(&inner.snapshot, host, own)).collect()
    })
}

/// Returns a network's blocks on all hosts.
pub(crate) fn blocks(agent: &Agent, name: &str) -> Result<Vec<BlockUsage>, Refusal> {
    let missing =
        || Refusal::new(Kind::NotFound, format!("the cluster has no network {name}")).hint("weft network ls");
    let parsed = name.parse().map_err(|_| missing())?;
    agent.change(|inner| {
        let network = inner.snapshot.network_named(&parsed).ok_or_else(missing)?.clone();
        Ok(inner.block_usages(&network))
    })
}

/// Returns a host as it is shown.
fn peer(snapshot: &Snapshot, host: &Host, own: Option<HostId>) -> Peer {
    let state = match (snapshot.alive(host.id), host.superseded_by) {
        _ if Some(host.id) == own => "self".into(),
        (_, Some(successor)) => format!("superseded by {}", successor.short()),
        (Some(alive), _) => alive.degraded.as_ref().map_or("alive".into(), |why| format!("alive ({why})")),
        (None, None) => "suspect".into(),
    };
    let mut blocks: BTreeMap<String, Vec<IpNetwork>> = BTreeMap::new();
    for network in snapshot.networks() {
        let own = own_blocks(snapshot, network.id, host.id);
        if !own.is_empty() {
            blocks.insert(network.name.to_string(), own);
        }
    }
    Peer {
        id: host.id.to_string(),
        name: host.name.clone(),
        state,
        underlay: host.underlay.addresses().collect(),
        mtu: host.mtu,
        blocks,
        tunnels: Vec::new(),
        version: host.version.clone(),
    }
}

/// Returns the blocks that a host gives addresses out of, and the single addresses it borrowed.
pub(crate) fn own_blocks(snapshot: &Snapshot, network: NetworkId, host: HostId) -> Vec<IpNetwork> {
    let blocks = snapshot.blocks_of(network);
    let blocks = blocks.filter(|block| block.host == host && block.state == BlockState::Active);
    let borrows = snapshot.borrows_of(network).filter(|borrow| borrow.host == host && borrow.is_active());
    blocks.map(|block| block.cidr).chain(borrows.map(|borrow| borrow.address.into())).collect()
}

impl Inner {
    /// Returns the word for how things are, and why.
    pub(crate) fn state(&self) -> (&'static str, Option<String>) {
        if self.membership.is_none() {
            let unreadable = self.troubles.get(UNREADABLE).cloned();
            return unreadable.map_or(("unjoined", None), |why| ("degraded", Some(why)));
        }
        if !self.hearing.ever {
            let state = if self.snapshot.cluster().is_some() { "stale" } else { "starting" };
            return (state, self.hearing.error.clone());
        }
        match self.why_degraded() {
            Some(why) => ("degraded", Some(why)),
            None => ("ready", None),
        }
    }

    /// Returns what is wrong, if something is.
    pub(crate) fn why_degraded(&self) -> Option<String> {
        if !self.hearing.connected && self.hearing.ever {
            return Some(format!(
                "the store does not answer: {}",
                self.hearing.error.as_deref().unwrap_or("no reason")
            ));
        }
        self.alarms().into_iter().next()
    }

    /// Returns what somebody should look at.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let held = self.snapshot.held().count();
        let alarm =
            self.hearing.alarm.as_ref().map(|why| format!("{why}: {held} records are kept against it"));
        let refused = self.all_refused().filter_map(|(id, why)| {
            let network = self.snapshot.network(id)?;
            Some(format!("network {} is not to be had on this host: {why}", network.name))
        });
        let out = self.is_out().map(|why| format!("{why}: weft overlay leave -f, and join again"));
        out.into_iter().chain(alarm).chain(self.troubles.values().cloned()).chain(refused).collect()
    }

    fn bad(&self) -> Vec<Bad> {
        let listed = self.snapshot.bad().take(LISTED);
        let mut bad: Vec<Bad> = listed.map(|bad| Bad { key: bad.key.into(), why: bad.why.into() }).collect();
        let more = self.snapshot.bad_count().saturating_sub(bad.len());
        if more > 0 {
            bad.push(Bad { key: "...".into(), why: format!("and {more} more") });
        }
        bad
    }

    fn store_status(&self) -> StoreStatus {
        StoreStatus {
            endpoints: self.membership.as_ref().map(|joined| joined.join.places()).unwrap_or_default(),
            connected: self.hearing.connected,
            revision: self.snapshot.revision,
            silent: self.hearing.last.map(|last| last.elapsed().as_secs()),
            error: self.hearing.error.clone(),
        }
    }

    fn network_statuses(&mut self) -> Vec<NetworkStatus> {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return Vec::new() };
        let networks: Vec<Network> = self.snapshot.networks().cloned().collect();
        networks.iter().map(|network| self.network_status(network, own)).collect()
    }

    fn network_status(&mut self, network: &Network, own: HostId) -> NetworkStatus {
        let blocks = own_blocks(&self.snapshot, network.id, own);
        NetworkStatus {
            name: network.name.to_string(),
            id: network.id.to_string(),
            vni: network.vni.get(),
            subnets: network.subnets.clone(),
            encrypted: network.encryption == Encryption::Wireguard,
            fastpath: network.fastpath() != Fastpath::Never,
            gated: network.fastpath() == Fastpath::Auto,
            slow: None,
            shut: Vec::new(),
            used: usage::within(&self.leases(network), &blocks),
            size: blocks.iter().map(|block| usage::size(*block)).fold(0, u64::saturating_add),
            refused: self.refused(network.id).cloned(),
            blocks,
        }
    }

    fn block_usages(&mut self, network: &Network) -> Vec<BlockUsage> {
        let own = self.membership.as_ref().map(|membership| membership.host);
        let leases = self.leases(network);
        let snapshot = &self.snapshot;
        let name_of = |id: HostId| snapshot.host(id).map(|host| host.name.clone()).unwrap_or_default();
        let used = |host: HostId, block: IpNetwork| match Some(host) == own {
            true => Some(usage::within(&leases, &[block])),
            false => Some(told(snapshot.alive(host)?, network.id, block)),
        };
        let blocks = snapshot.blocks_of(network.id).map(|block| BlockUsage {
            block: block.cidr,
            state: match block.state {
                BlockState::Active => "active",
                BlockState::Quarantine { .. } => "quarantine",
                BlockState::Reserved => "reserved",
            }
            .into(),
            host: block.host.to_string(),
            host_name: name_of(block.host),
            used: if block.state == BlockState::Active { used(block.host, block.cidr) } else { Some(0) },
            size: usage::size(block.cidr),
        });
        let borrows = snapshot.borrows_of(network.id).filter(|borrow| borrow.is_active());
        let borrows = borrows.map(|borrow| BlockUsage {
            block: borrow.address.into(),
            state: "borrowed".into(),
            host: borrow.host.to_string(),
            host_name: name_of(borrow.host),
            used: used(borrow.host, borrow.address.into()),
            size: 1,
        });
        blocks.chain(borrows).collect()
    }
}

/// Returns how many addresses of a block a host has said it uses.
fn told(alive: &Alive, network: NetworkId, block: IpNetwork) -> u64 {
    alive.used.get(&network).and_then(|blocks| blocks.get(&block)).copied().unwrap_or(0)
}
