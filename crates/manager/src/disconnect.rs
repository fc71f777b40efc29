//! `weft network disconnect`.

use weft_model::{ContainerId, Endpoint, NetworkName};
use weft_runtime::Problem;
use weft_state::attachment::Record;

use crate::namespace::Container;
use crate::{Error, Liveness, Manager, predefined};

/// A connection to end.
#[derive(Clone, Debug, Default)]
pub struct Disconnect {
    /// The network's name or id.
    pub network: String,
    /// The container, as a person names it, or its name on the network.
    pub netns: String,
    /// The container's id, if not the one that follows from `netns`.
    pub id: Option<String>,
    /// Whether to forget the connection even if a plugin fails.
    pub force: bool,
}

/// A connection that was ended.
#[derive(Debug, Default)]
pub struct Disconnected {
    /// What a plugin could not do.
    pub problems: Vec<Problem>,
    /// What became of the container's published ports, where it is nothing good.
    pub warnings: Vec<String>,
}

impl Manager {
    /// Disconnects a container, whether its namespace is still there or not. With `force` the connection is
    /// forgotten in any case, and what a plugin could not do is returned.
    ///
    /// # Errors
    ///
    /// When there is no such network or connection, or a plugin fails.
    pub fn disconnect(&self, request: &Disconnect) -> Result<Disconnected, Error> {
        let network = match self.store.find(&request.network) {
            // Containers can be connected to a network whose file somebody removed.
            Err(Error::NoNetwork(name)) if request.force => name.parse().map_err(|_| Error::NoNetwork(name)),
            outcome => outcome,
        }?;
        let container = self.connected(&network, request)?;
        let mine = self.locks.container(&container)?;
        let shared = self.locks.shared(&network)?;
        let mut records = self.attachments_of(&container)?;
        if !records.iter().any(|record| record.endpoint.network == network) {
            let cached = self.unrecorded(&network, &container)?;
            records.extend(match cached.is_empty() && request.force {
                true => self.as_told(&network, &container, request)?,
                false => cached,
            });
        }
        let mut done = Disconnected::default();
        let (leaving, staying): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| record.endpoint.network == network);
        for record in leaving {
            done.problems.extend(self.detach(&mine, &shared, &record, request.force)?);
        }
        if done.problems.is_empty() || request.force {
            let mut live = staying;
            live.retain(|other| Liveness::of(other) == Liveness::Up);
            done.warnings.extend(self.finish_moving(&mine, &live)?);
            // It was told; nobody waits for them.
            self.books.note_moving(&container, Vec::new())?;
        }
        drop(shared);
        self.let_go(mine)?;
        if done.problems.is_empty() || request.force { Ok(done) } else { Err(Error::Problems(done.problems)) }
    }

    /// Returns the id of the connected container a person means: one that follows from the argument, or the
    /// one that goes by this name on the network.
    fn connected(&self, network: &NetworkName, request: &Disconnect) -> Result<ContainerId, Error> {
        let by_id = Container::named(&request.netns, request.id.as_deref()).map(|container| container.id);
        if let Ok(id) = &by_id
            && self.is_connected(network, id)
        {
            return Ok(id.clone());
        }
        let by_name = request.netns.parse().ok().and_then(|name| self.claims.holder(network, &name));
        if let Some(id) = by_name.filter(|id| self.is_connected(network, id)) {
            return Ok(id);
        }
        let id = by_id?;
        if request.force && !self.records.damaged(&id).is_empty() {
            return Ok(id);
        }
        if !self.unrecorded(network, &id)?.is_empty() {
            return Ok(id);
        }
        if network.as_str() == predefined::HOST {
            let why =
                "cannot disconnect container from host network - container was created in host network mode";
            return Err(Error::Unattachable { why: why.into(), hint: None });
        }
        Err(Error::NotConnected { container: request.netns.clone(), network: network.clone() })
    }

    /// Returns records in the place of those that somebody deleted, as far as the cached results tell.
    ///
    /// Other runtimes keep theirs in the same place, so that only those of our networks count.
    fn unrecorded(&self, network: &NetworkName, container: &ContainerId) -> Result<Vec<Record>, Error> {
        let stored = self.store.load(network).ok().flatten().or_else(|| self.store.recall(network));
        if !stored.is_some_and(|stored| stored.is_ours()) {
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        for cached in self.runtime.cache().of_network(network.as_str()) {
            if cached.id.container_id == container.as_str()
                && let Ok(ifname) = cached.id.ifname.parse()
            {
                let endpoint = Endpoint { network: network.clone(), container: container.clone(), ifname };
                records.push(Record::intent(endpoint, cached.netns, &self.config.driver)?);
            }
        }
        Ok(records)
    }

    /// Returns records in the place of those that cannot be read: with `force`, the person who names the network
    /// knows better than a file that was cut off.
    fn as_told(
        &self,
        network: &NetworkName,
        container: &ContainerId,
        request: &Disconnect,
    ) -> Result<Vec<Record>, Error> {
        let found = Container::named(&request.netns, request.id.as_deref()).ok();
        let presume = |ifname| {
            let endpoint = Endpoint { network: network.clone(), container: container.clone(), ifname };
            let netns = found.as_ref().map(|found| found.path.clone());
            Ok(Record::intent(endpoint, netns, &self.config.driver)?)
        };
        self.records.damaged(container).into_iter().map(presume).collect()
    }

    fn is_connected(&self, network: &NetworkName, id: &ContainerId) -> bool {
        let to_network = |record: &Record| record.endpoint.network == *network;
        self.attachments_of(id).is_ok_and(|records| records.iter().any(to_network))
    }
}
