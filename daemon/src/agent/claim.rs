//! What this host claims, and what it is told when that cannot be.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use weft_manager::Kind;
use weft_manager::overlay::protocol::Refusal;
use weft_overlay::records::{Block, Borrow, Network};
use weft_overlay::{HostId, NetworkId};
use weft_store::LeaseId;
use weft_store::claims::{ClaimError, Claims, NewNetwork};

use super::agent::Agent;
use super::status;

/// For so long hosts keep a network closed after whoever removes it was last heard of.
const REMOVAL: Duration = Duration::from_secs(30);

/// Returns the claims of this host's cluster, and who this host is.
fn of(agent: &Agent) -> Result<(Claims, HostId), Refusal> {
    let (membership, store) = agent.joined()?;
    Ok((Claims::new(store), membership.host))
}

/// Claims a block, and returns it.
pub(crate) async fn block(agent: &Rc<Agent>, network: &Network, v4: bool) -> Result<Block, Refusal> {
    let (claims, host) = of(agent)?;
    claims.claim_block(host, &network.name, !v4).await.map_err(|error| refused(&error))
}

/// Makes a network; of what cannot be claimed the caller may make something else.
pub(crate) async fn network(
    agent: &Rc<Agent>,
    new: &NewNetwork,
) -> Result<Result<Network, ClaimError>, Refusal> {
    let (claims, _) = of(agent)?;
    Ok(claims.create_network(new).await)
}

/// Announces that a network is about to be removed. Returns the lease that the announcement has.
pub(crate) async fn announce_removal(agent: &Rc<Agent>, network: &Network) -> Result<LeaseId, Refusal> {
    let (claims, host) = of(agent)?;
    let announced = async {
        let lease = claims.store().lease(REMOVAL).await?;
        claims.announce_removal(host, &network.name, lease).await.map(|_| lease)
    };
    announced.await.map_err(|error| refused(&error))
}

/// Calls a removal off.
pub(crate) async fn call_off(agent: &Rc<Agent>, lease: LeaseId) {
    let Ok((claims, _)) = of(agent) else { return };
    // It ends by itself otherwise.
    claims.store().revoke(lease).await.ok();
}

/// Has this host take no part any more in a network that is being removed.
pub(crate) async fn let_go(agent: &Rc<Agent>, network: NetworkId) -> Result<(), Refusal> {
    let (claims, host) = of(agent)?;
    claims.let_go(host, network).await.map_err(|error| refused(&error))
}

/// Removes a network that all hosts have let go of.
pub(crate) async fn finish_removal(agent: &Rc<Agent>, network: &Network) -> Result<(), Refusal> {
    let (claims, _) = of(agent)?;
    claims.finish_removal(network).await.map_err(|error| refused(&error))
}

/// Removes what is left of networks and hosts that are gone.
pub(crate) async fn collect(
    agent: &Rc<Agent>,
    networks: Vec<NetworkId>,
    hosts: Vec<HostId>,
) -> Result<(), Refusal> {
    let (claims, _) = of(agent)?;
    let collected = async {
        claims.collect_networks(networks).await?;
        claims.collect_hosts(hosts).await
    };
    collected.await.map_err(|error| refused(&error))
}

/// Removes a network whatever hosts have on it.
pub(crate) async fn remove(agent: &Rc<Agent>, network: &Network) -> Result<(), Refusal> {
    let (claims, _) = of(agent)?;
    claims.remove_network(&network.name).await.map(drop).map_err(|error| refused(&error))
}

/// Gets this host a single address, or asks whose it is for it; returns what was asked for then.
pub(crate) async fn borrow(
    agent: &Rc<Agent>,
    network: &Network,
    address: IpAddr,
    holder: &str,
) -> Result<Option<Borrow>, Refusal> {
    let (claims, host) = of(agent)?;
    claims.borrow(host, &network.name, address, holder).await.map_err(|error| refused(&error))
}

/// Answers a host that has asked for an address of this one.
pub(crate) async fn lend(agent: &Rc<Agent>, asked: &Borrow, refusal: Option<String>) -> Result<(), Refusal> {
    let (claims, host) = of(agent)?;
    let around = agent.with(|inner| {
        let own = status::own_blocks(&inner.snapshot, asked.network, host);
        own.into_iter().find(|block| block.contains(asked.address))
    });
    let Some(block) = around else { return Ok(()) };
    claims.lend(host, asked, block, refusal).await.map_err(|error| refused(&error))
}

/// Gives a single address back.
pub(crate) async fn give_back(agent: &Rc<Agent>, network: &Network, address: IpAddr) -> Result<(), Refusal> {
    let (claims, host) = of(agent)?;
    claims.give_back(host, network.id, address).await.map_err(|error| refused(&error))
}

/// Takes this host out of the cluster.
pub(crate) async fn leave(agent: &Rc<Agent>) -> Result<(), Refusal> {
    let (claims, host) = of(agent)?;
    claims.leave(host, "it left").await.map_err(|error| refused(&error))
}

/// Takes another host out of the cluster; `force` although it is alive.
pub(crate) async fn forget(agent: &Rc<Agent>, other: HostId, force: bool) -> Result<(), Refusal> {
    let (claims, host) = of(agent)?;
    let reason = format!("it was forgotten by host {}", host.short());
    let outcome =
        if force { claims.leave(other, &reason).await } else { claims.forget(other, &reason).await };
    let outcome = match outcome {
        // The store has lost it, and hosts keep it against the store: they need a word.
        Err(ClaimError::NotJoined(_)) if agent.with(|inner| inner.snapshot.host(other).is_some()) => {
            claims.leave(other, &reason).await
        }
        outcome => outcome,
    };
    outcome.map_err(|error| refused(&error))
}

/// Says what a failure means to whoever asked.
pub(crate) fn refused(error: &ClaimError) -> Refusal {
    let kind = match error {
        ClaimError::NoNetwork(_) => Kind::NotFound,
        ClaimError::AddressInUse { .. }
        | ClaimError::AddressOfSilent { .. }
        | ClaimError::Alive(_)
        | ClaimError::NetworkExists(_)
        | ClaimError::VniTaken(_)
        | ClaimError::BeingRemoved { .. }
        | ClaimError::StillMember { .. }
        | ClaimError::Taken(_) => Kind::Conflict,
        _ => Kind::Failed,
    };
    let refusal = Refusal::new(kind, error);
    match (error.hint(), error.is_temporary()) {
        (Some(hint), _) => refusal.hint(hint),
        (None, true) => refusal.hint("weft overlay status; try again when the store answers"),
        (None, false) => refusal,
    }
}
