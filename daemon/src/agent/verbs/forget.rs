//! `weft overlay forget`.

use std::rc::Rc;

use weft_manager::Kind;
use weft_manager::overlay::protocol::{Forget, Refusal};
use weft_overlay::{HostId, Key};

use crate::agent::agent::Agent;
use crate::agent::claim;

/// Gives up what a host has that will not come back. Returns its id.
pub(crate) async fn forget(agent: &Rc<Agent>, forget: &Forget) -> Result<String, Refusal> {
    let (membership, _) = agent.at_home()?;
    let host = meant(agent, &forget.host)?;
    if host.id == membership.host {
        let why = format!("{} is this host", host.name);
        return Err(Refusal::new(Kind::Usage, why).hint("weft overlay leave"));
    }
    if agent.with(|inner| inner.snapshot.alive(host.id).is_some()) && !forget.force {
        let why = format!("host {} ({}) is alive", host.name, host.id.short());
        return Err(Refusal::new(Kind::Conflict, why).hint(format!("weft overlay leave on {}", host.name)));
    }
    claim::forget(agent, host.id, forget.force).await?;
    Ok(host.id.to_string())
}

/// A host as others know it.
#[derive(Clone)]
struct Known {
    id: HostId,
    name: String,
}

/// Returns all hosts, those included whose record makes no sense: of them only the id is known.
fn known(agent: &Agent) -> Vec<Known> {
    agent.with(|inner| {
        let snapshot = &inner.snapshot;
        let good = snapshot.hosts().map(|host| Known { id: host.id, name: host.name.clone() });
        let bad = snapshot.bad().filter_map(|bad| match bad.key.parse() {
            Ok(Key::Host(id)) if snapshot.host(id).is_none() => Some(Known { id, name: id.short() }),
            _ => None,
        });
        good.chain(bad).collect()
    })
}

/// Returns the host that a person means: its name, its id, or the start of its id.
fn meant(agent: &Agent, reference: &str) -> Result<Known, Refusal> {
    let hosts = known(agent);
    if let Ok(id) = reference.parse::<HostId>()
        && let Some(host) = hosts.iter().find(|host| host.id == id)
    {
        return Ok(host.clone());
    }
    let is_meant = |host: &&Known| host.name == reference || host.id.to_string().starts_with(reference);
    let found: Vec<&Known> = hosts.iter().filter(is_meant).filter(|_| !reference.is_empty()).collect();
    match &found[..] {
        [host] => Ok((*host).clone()),
        [] => {
            Err(Refusal::new(Kind::NotFound, format!("no such host: {reference}")).hint("weft overlay peers"))
        }
        several => {
            let ids: Vec<String> = several.iter().map(|host| host.id.short()).collect();
            let why = format!("{reference} is ambiguous: {}", ids.join(", "));
            Err(Refusal::new(Kind::Usage, why).hint("weft overlay peers"))
        }
    }
}
