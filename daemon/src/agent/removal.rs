//! Networks that are about to be removed, on whichever host: this one lets go of those that it has no container on.
//!
//! First no ADD gets past the network's own file any more, then its conflist goes, if nobody is connected, and then the
//! others are told. If the removal is called off, or whoever removes the network is gone, this host takes part again.

use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::task::{spawn_blocking, spawn_local};
use weft_model::NetworkName;
use weft_overlay::NetworkId;
use weft_overlay::local::LocalNetwork;
use weft_overlay::records::Network;

use super::agent::Agent;
use super::claim;
use super::known::Inner;

/// Networks that this host has let go of while they are being removed.
pub(crate) type LetGo = BTreeMap<NetworkId, NetworkName>;

/// Lets go of networks that are about to be removed.
pub(crate) async fn let_go(agent: &Rc<Agent>) {
    forget_the_old(agent);
    for network in agent.with(Inner::going) {
        match quit(agent, &network).await {
            Ok(()) => {
                agent.change(|inner| inner.let_go.insert(network.id, network.name.clone()));
                tell(agent, network.id);
            }
            // Others hear that there are containers, and whoever removes the network gives up. The next round opens it again.
            Err(_) => agent.hurry(),
        }
    }
}

/// Tells others of networks that this host has let go of, when that has not come through.
pub(crate) fn look(agent: &Rc<Agent>) {
    for network in agent.with(Inner::untold) {
        tell(agent, network);
    }
}

fn tell(agent: &Rc<Agent>, network: NetworkId) {
    let agent = agent.clone();
    // What fails is tried again with the next look.
    spawn_local(async move { claim::let_go(&agent, network).await.ok() });
}

/// Takes a network's files away, if no container is connected.
async fn quit(agent: &Rc<Agent>, network: &Network) -> Result<(), String> {
    let (manager, root, name) = (agent.manager.clone(), agent.root.clone(), network.name.clone());
    let quit = move || -> Result<(), String> {
        if let Some(local) = LocalNetwork::load(&root, &name).map_err(|error| error.to_string())? {
            LocalNetwork { closing: true, ..local }.save(&root).map_err(|error| error.to_string())?;
        }
        manager.abandon(&name, false).map(drop).map_err(|error| error.to_string())
    };
    spawn_blocking(quit).await.unwrap_or_else(|error| Err(error.to_string()))?;
    agent.change(|inner| inner.made.remove(&network.id));
    Ok(())
}

/// What was let go of and is gone needs no file that keeps ADDs away; what is not being removed any more is had again.
fn forget_the_old(agent: &Agent) {
    let over = agent.change(Inner::over);
    for (name, gone) in over {
        if gone {
            let removed = LocalNetwork::remove(&agent.root, &name);
            agent.trouble(&format!("file {name}"), removed.err().map(|error| error.to_string()));
        }
    }
}

impl Inner {
    /// Returns whether a network is being removed, so that its files are not made.
    pub(crate) fn is_going(&self, network: NetworkId) -> bool {
        self.snapshot.removal(network).is_some()
    }

    /// Returns networks that are being removed and that this host has not let go of.
    fn going(&self) -> Vec<Network> {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return Vec::new() };
        let here = |network: &&Network| {
            self.is_going(network.id)
                && self.snapshot.is_member(network.id, own)
                && !self.let_go.contains_key(&network.id)
        };
        self.snapshot.networks().filter(here).cloned().collect()
    }

    /// Returns networks that this host has let go of and others think it has.
    fn untold(&self) -> Vec<NetworkId> {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return Vec::new() };
        self.let_go.keys().copied().filter(|id| self.snapshot.is_member(*id, own)).collect()
    }

    /// Forgets networks that are not being removed any more; returns their names, and whether they are gone.
    fn over(&mut self) -> Vec<(NetworkName, bool)> {
        let snapshot = &self.snapshot;
        let mut over = Vec::new();
        self.let_go.retain(|id, name| {
            let going = snapshot.removal(*id).is_some();
            if !going {
                over.push((name.clone(), snapshot.network(*id).is_none()));
            }
            going
        });
        over
    }
}
