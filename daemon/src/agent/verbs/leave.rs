//! `weft overlay leave`.

use std::rc::Rc;

use serde_json::Value;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Leave, Refusal};

use crate::agent::agent::Agent;
use crate::agent::socket::Reply;
use crate::agent::{claim, mesh};

/// Makes this host leave its cluster: others are told, and what the kernel has goes with the next round.
pub(crate) async fn leave(agent: &Rc<Agent>, leave: &Leave, reply: &Reply) -> Result<Value, Refusal> {
    let failed = |error: anyhow::Error| Refusal::new(Kind::Failed, format!("{error:#}"));
    let Some(membership) = agent.with(|inner| inner.membership.clone()) else {
        let why = Refusal::new(Kind::NotFound, "this host is of no cluster");
        return if leave.force {
            agent.file.remove().map(|()| Value::Null).map_err(failed)
        } else {
            Err(why)
        };
    };
    if !leave.force {
        in_use(agent)?;
    }
    reply.progress(format!("leaving cluster {}", membership.cluster));
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
    let dismantled = mesh::dismantle(agent).await;
    agent.file.remove().map_err(failed)?;
    agent.exit();
    match std::fs::remove_file(agent.snapshot_file()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let file = agent.snapshot_file();
            return Err(Refusal::new(Kind::Failed, format!("{}: {error}", file.display())));
        }
        _ => {}
    }
    agent.touch();
    dismantled.map(|()| Value::Null)
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
