//! What this host claims, and what it is told when that cannot be.

use std::net::IpAddr;
use std::rc::Rc;

use weft_manager::Kind;
use weft_manager::overlay::protocol::Refusal;
use weft_overlay::HostId;
use weft_overlay::records::Network;
use weft_store::claims::{ClaimError, Claims, NewNetwork};

use super::agent::Agent;

/// Returns the claims of this host's cluster, and who this host is.
fn of(agent: &Agent) -> Result<(Claims, HostId), Refusal> {
    let (membership, store) = agent.joined()?;
    Ok((Claims::new(store), membership.host))
}

/// Claims a block.
pub(crate) async fn block(agent: &Rc<Agent>, network: &Network, v4: bool) -> Result<(), Refusal> {
    let (claims, host) = of(agent)?;
    claims.claim_block(host, &network.name, !v4).await.map(drop).map_err(|error| refused(&error))
}

/// Makes a network.
pub(crate) async fn network(agent: &Rc<Agent>, new: &NewNetwork) -> Result<Network, Refusal> {
    let (claims, _) = of(agent)?;
    claims.create_network(new).await.map_err(|error| refused(&error))
}

/// Removes a network.
pub(crate) async fn remove(agent: &Rc<Agent>, network: &Network) -> Result<(), Refusal> {
    let (claims, _) = of(agent)?;
    claims.remove_network(&network.name).await.map(drop).map_err(|error| refused(&error))
}

/// Gets this host a single address.
pub(crate) async fn borrow(
    agent: &Rc<Agent>,
    network: &Network,
    address: IpAddr,
    holder: &str,
) -> Result<(), Refusal> {
    let (claims, host) = of(agent)?;
    let borrowed = claims.borrow(host, &network.name, address, holder).await;
    borrowed.map(drop).map_err(|error| refused(&error))
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
