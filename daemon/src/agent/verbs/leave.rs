//! `weft overlay leave`.

use std::rc::Rc;
use std::time::Duration;

use ipnetwork::Ipv6Network;
use serde_json::Value;
use tokio::task::spawn_blocking;
use weft_firewall::Tunnels;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Leave, Refusal};
use weft_overlay::Snapshot;
use weft_state::StateError;

use crate::agent::agent::Agent;
use crate::agent::membership::UNREADABLE;
use crate::agent::socket::Reply;
use crate::agent::{claim, mesh};

/// How long the networks may take to go.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes this host leave its cluster: others are told, and what the kernel has goes with the next round.
pub(crate) async fn leave(agent: &Rc<Agent>, leave: &Leave, reply: &Reply) -> Result<Value, Refusal> {
    let _turn = agent.turn.lock().await;
    let Some(membership) = agent.with(|inner| inner.membership.clone()) else {
        if !leave.force {
            return Err(agent.with(|inner| match inner.troubles.get(UNREADABLE) {
                Some(why) => Refusal::new(Kind::Failed, why).hint("weft overlay leave -f"),
                None => Refusal::new(Kind::NotFound, "this host is of no cluster"),
            }));
        }
        if agent.with(|inner| inner.troubles.contains_key(UNREADABLE)) {
            reply.progress(
                "who this host was cannot be read; other hosts do not know: weft overlay forget there",
            );
        }
        let known = Snapshot::last(&agent.root).ok().flatten();
        return end(agent, known.as_ref().and_then(mesh::prefix)).await;
    };
    if !leave.force {
        in_use(agent)?;
    }
    reply.progress(format!("leaving cluster {}", membership.cluster));
    // What tells it goes with this host's record.
    let prefix = agent.with(|inner| mesh::prefix(&inner.snapshot));
    if let Err(refusal) = claim::leave(agent).await {
        if !leave.force {
            return Err(refusal.hint(
                "weft overlay leave -f leaves without telling; then, on another host, weft overlay forget",
            ));
        }
        reply.progress(format!(
            "{refusal}; other hosts do not know: weft overlay forget {} there",
            membership.host
        ));
    }
    end(agent, prefix).await
}

/// Takes away what this host has of a cluster.
async fn end(agent: &Rc<Agent>, prefix: Option<Ipv6Network>) -> Result<Value, Refusal> {
    let failed = |error: StateError| Refusal::new(Kind::Failed, error);
    let dismantled = mesh::dismantle(agent, prefix).await;
    agent.file.remove().map_err(failed)?;
    agent.trouble(UNREADABLE, None);
    agent.exit();
    Snapshot::forget(&agent.root).map_err(failed)?;
    open(agent).await?;
    dismantled.map(|()| Value::Null)
}

/// Takes the guard of the tunnels away, once nothing is behind it.
async fn open(agent: &Rc<Agent>) -> Result<(), Refusal> {
    let networks = || agent.manager.shared_networks().unwrap_or_default();
    let gone =
        || networks().iter().all(|(name, _)| !agent.manager.connected_to(name).is_empty()).then_some(());
    agent.wait_for("the end of the cluster's networks on this host", LIMIT, gone).await?;
    if !networks().is_empty() {
        return Ok(());
    }
    let opened = spawn_blocking(Tunnels::remove).await;
    let why = opened
        .map_err(|error| error.to_string())
        .and_then(|opened| opened.map_err(|error| error.to_string()));
    why.map_err(|why| Refusal::new(Kind::Failed, why))
}

/// Refuses while containers are connected to networks of the cluster.
fn in_use(agent: &Agent) -> Result<(), Refusal> {
    let networks = agent.manager.shared_networks().unwrap_or_default();
    for (name, _) in networks {
        if let Some(record) = agent.manager.connected_to(&name).first() {
            let container = &record.endpoint.container;
            let why = format!("container {container} is connected to network {name}");
            let hint = format!("weft network disconnect {name} {container}, or weft overlay leave -f");
            return Err(Refusal::new(Kind::Conflict, why).hint(hint));
        }
    }
    Ok(())
}
