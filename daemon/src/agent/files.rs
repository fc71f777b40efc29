//! The networks of the cluster as files of this host: what its plugins and `weft` read.

use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::task::spawn_blocking;
use weft_manager::overlay::Shared;
use weft_model::NetworkName;
use weft_overlay::NetworkId;
use weft_overlay::local::{LocalBlock, LocalNetwork};
use weft_overlay::records::{Egress, Network};

use super::agent::Agent;
use super::known::Inner;

/// What the files were made of: as long as it is the same, so are they.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    network: Network,
    pub(crate) local: LocalNetwork,
}

/// Gives each network its conflist, and takes those away that the cluster has no more.
pub(crate) async fn conflists(agent: &Rc<Agent>, locals: &[LocalNetwork]) {
    for local in locals.iter().filter(|local| is_whole(local)) {
        let Some(network) = agent.with(|inner| inner.snapshot.network(local.id).cloned()) else { continue };
        let path = agent.root.networks_dir().join(format!("{}.conflist", local.name));
        // A block that went to another host is taken out of the file, whatever keeps the kernel from being in step.
        let has_lost = |inner: &Inner| {
            let kept = |block: &LocalBlock| local.blocks.iter().any(|own| own.cidr == block.cidr);
            inner.made.get(&local.id).is_none_or(|made| !made.local.blocks.iter().all(kept))
        };
        let apart = |inner: &Inner| {
            let stays = path.exists() && has_lost(inner);
            inner.is_going(local.id) || (inner.is_refused_by("kernel", local.id) && !stays)
        };
        if !agent.with(apart) {
            adopt(agent, network, local).await;
        }
    }
    let wanted: BTreeMap<NetworkName, NetworkId> =
        locals.iter().map(|local| (local.name.clone(), local.id)).collect();
    for (name, id) in agent.manager.shared_networks().unwrap_or_default() {
        let gone = agent.with(|inner| inner.is_gone(NetworkId::new(id)));
        if gone && wanted.get(&name) != Some(&NetworkId::new(id)) {
            abandon(agent, name, NetworkId::new(id)).await;
        }
    }
}

/// Returns whether this host has addresses of each family to give out.
fn is_whole(local: &LocalNetwork) -> bool {
    let has = |v4: bool| local.blocks.iter().any(|block| block.cidr.is_ipv4() == v4);
    local.subnets.iter().all(|subnet| has(subnet.is_ipv4()))
}

async fn adopt(agent: &Rc<Agent>, network: Network, local: &LocalNetwork) {
    let made = Made { network, local: local.clone() };
    let path = agent.root.networks_dir().join(format!("{}.conflist", local.name));
    if path.exists() && agent.with(|inner| inner.made.get(&local.id) == Some(&made)) {
        return;
    }
    let shared = shared(&made.network);
    let manager = agent.manager.clone();
    let adopted = spawn_blocking(move || manager.adopt(&shared)).await;
    let why = match adopted {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let id = local.id;
    match why {
        None => {
            agent.refuse_one("files", id, None);
            agent.change(|inner| inner.made.insert(id, made));
        }
        Some(why) => agent.refuse_one("files", id, Some(why)),
    }
}

fn shared(network: &Network) -> Shared {
    Shared {
        name: network.name.clone(),
        id: *network.id.bytes(),
        driver: "overlay".into(),
        created: network.created.clone(),
        internal: network.egress == Egress::None,
        labels: network.labels.clone(),
        options: network.options.clone(),
        subnets: network.subnets.clone(),
    }
}

/// Removes a network that the cluster has no more. One that containers are connected to stays until they are not.
async fn abandon(agent: &Rc<Agent>, name: NetworkName, id: NetworkId) {
    let manager = agent.manager.clone();
    let of = name.clone();
    let outcome = spawn_blocking(move || manager.abandon(&of, false)).await;
    let why = match outcome {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            Some(format!("network {name} was removed from the cluster, and not from this host: {error}"))
        }
        Err(error) => Some(error.to_string()),
    };
    let done = why.is_none();
    agent.trouble(&format!("removed {name}"), why);
    if done {
        let removed = LocalNetwork::remove(&agent.root, &name);
        agent.trouble(&format!("file {name}"), removed.err().map(|error| error.to_string()));
        agent.change(|inner| inner.made.remove(&id));
        agent.refuse_one("files", id, None);
    }
}
