//! Saying that this host is there: a key with a lease, apart from everything that says what it has.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ipnetwork::IpNetwork;
use weft_overlay::records::{Alive, Network};
use weft_overlay::{HostId, NetworkId};
use weft_state::boot;
use weft_store::claims::{ClaimError, Claims};
use weft_store::{LeaseId, StoreError};

use super::agent::Agent;
use super::status;

/// Others call a host suspect when they have not heard of it for so long.
const LEASE: Duration = Duration::from_secs(30);
/// How often the lease is renewed, and what is said looked at.
const BEAT: Duration = Duration::from_secs(8);
/// How soon it is tried again after a failure.
const AGAIN: Duration = Duration::from_secs(2);
/// Beats that pass before others are told how many addresses are in use.
const PATIENCE: u32 = 4;

/// What was said, with which lease.
struct Said {
    lease: LeaseId,
    alive: Alive,
    /// Beats for which only the numbers of addresses have been others.
    waited: u32,
}

/// Says so until the task is ended.
pub(crate) async fn beat(agent: Rc<Agent>, host: HostId) {
    let mut said = None;
    loop {
        let pause = match agent.with(|inner| inner.store.clone().filter(|_| inner.is_out().is_none())) {
            None => AGAIN,
            Some(store) => match once(&agent, &Claims::new(store), host, &mut said).await {
                Ok(()) => BEAT,
                // Whoever follows the store tells what is wrong with it, and with this host's record.
                Err(_) => AGAIN,
            },
        };
        tokio::time::timeout(pause, agent.hurried()).await.ok();
    }
}

async fn once(
    agent: &Agent,
    claims: &Claims,
    host: HostId,
    said: &mut Option<Said>,
) -> Result<(), ClaimError> {
    let alive = present(agent, host);
    if let Some(known) = said {
        match claims.store().keep_alive(known.lease).await {
            Err(StoreError::NoLease(_)) => *said = None,
            outcome => outcome?,
        }
    }
    let there = agent.with(|inner| inner.snapshot.alive(host).is_some());
    let Some(known) = said.as_mut().filter(|_| there) else {
        let lease = match said {
            Some(known) => known.lease,
            None => claims.store().lease(LEASE).await?,
        };
        claims.announce(&alive, lease).await?;
        *said = Some(Said { lease, alive, waited: 0 });
        return Ok(());
    };
    let blocks = |alive: &Alive| -> Vec<_> {
        let of = |(network, blocks): (&NetworkId, &BTreeMap<IpNetwork, u64>)| {
            blocks.keys().map(|block| (*network, *block)).collect::<Vec<_>>()
        };
        alive.used.iter().flat_map(of).collect()
    };
    let urgent = known.alive.degraded != alive.degraded
        || known.alive.boot != alive.boot
        || blocks(&known.alive) != blocks(&alive);
    known.waited = if known.alive.used == alive.used { 0 } else { known.waited + 1 };
    if urgent || known.waited >= PATIENCE {
        claims.announce(&alive, known.lease).await?;
        known.alive = alive;
        known.waited = 0;
    }
    Ok(())
}

/// Returns what is to be said now.
fn present(agent: &Agent, host: HostId) -> Alive {
    agent.change(|inner| {
        let networks: Vec<Network> = inner.snapshot.networks().cloned().collect();
        let mut used: BTreeMap<NetworkId, BTreeMap<IpNetwork, u64>> = BTreeMap::new();
        for network in networks {
            let blocks = status::own_blocks(&inner.snapshot, network.id, host);
            for address in inner.leases(&network) {
                let block = blocks.iter().find(|block| block.contains(address));
                let block = block.copied().unwrap_or_else(|| address.into());
                *used.entry(network.id).or_default().entry(block).or_default() += 1;
            }
        }
        Alive { host, boot: boot::id().unwrap_or_default(), degraded: inner.why_degraded(), used }
    })
}
