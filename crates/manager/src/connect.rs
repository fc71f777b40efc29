//! `weft network connect`.

mod attach;
mod loopback;
mod metric;

use std::net::IpAddr;

use serde_json::Value;
use weft_cni::Conflist;
use weft_cni::json::get;
use weft_model::port::PublishSpec;
use weft_model::{ContainerId, Endpoint, IfName, Mac, NetworkName};
use weft_runtime::{Attachment, ChainError};
use weft_state::attachment::Record;
use weft_state::reservation::Names;

use crate::attachments::name_of;
use crate::locks::{Mine, Shared};
use crate::namespace::{Container, Identity};
use crate::store::Stored;
use crate::{Error, Manager, ports, predefined};

pub(crate) use metric::of_record as metric_of;

/// A connection to make.
#[derive(Clone, Debug, Default)]
pub struct Connect {
    /// The network's name or id.
    pub network: String,
    /// The container, as a person names it.
    pub netns: String,
    /// The container's id, if not the one that follows from `netns`.
    pub id: Option<String>,
    /// The container's name on the network.
    pub name: Option<String>,
    /// More names.
    pub aliases: Vec<String>,
    /// The addresses wanted, at most one for each family.
    pub addresses: Vec<IpAddr>,
    /// The MAC address wanted.
    pub mac: Option<Mac>,
    /// The interface's name, if not the next free `eth`.
    pub interface: Option<IfName>,
    /// Which network's gateway becomes the default one: the highest priority wins.
    pub priority: i64,
    /// Settings of the container's interface.
    pub sysctls: Vec<(String, String)>,
    /// Ports to publish.
    pub publish: Vec<PublishSpec>,
}

/// A connection that was made.
#[derive(Clone, Debug)]
pub struct Connected {
    /// What was written down about it.
    pub record: Record,
    /// What did not work beside it.
    pub warnings: Vec<String>,
}

/// A request that was understood.
struct Asked<'a> {
    request: &'a Connect,
    container: Container,
    identity: Identity,
    network: NetworkName,
    name: Option<ContainerId>,
}

/// A connection to make, with the container and the network under our locks.
struct Job<'a> {
    asked: &'a Asked<'a>,
    stored: &'a Stored,
    others: &'a [Record],
    /// What the network's port plugin is told.
    ports: Vec<Value>,
}

impl Manager {
    /// Connects a container to a network. Nothing is left behind if that fails.
    ///
    /// # Errors
    ///
    /// When there is no such network or container, it is connected already, the address is not to be had,
    /// or a plugin fails.
    pub fn connect(&self, request: &Connect) -> Result<Connected, Error> {
        let container = Container::named(&request.netns, request.id.as_deref())?;
        let network = self.store.find(&request.network)?;
        let name = request.name.as_deref().map(container_name).transpose()?;
        request.aliases.iter().try_for_each(|alias| container_name(alias).map(drop))?;
        let identity = container.require(&request.netns)?;

        let mine = self.locks.container(&container.id)?;
        let asked = Asked { request, container, identity, network, name };
        let mut outcome = self.connect_mine(&mine, &asked);
        if outcome.as_mut().is_err_and(|error| self.got_a_block(&asked.network, error)) {
            outcome = self.connect_mine(&mine, &asked);
        }
        if let Err(error) = &outcome {
            self.let_go(mine)?;
            if matches!(error, Error::Chain(_) | Error::Problems(_)) {
                self.clear_unused(&asked.network)?;
            }
        }
        outcome
    }

    fn connect_mine(&self, mine: &Mine, asked: &Asked<'_>) -> Result<Connected, Error> {
        let network = &asked.network;
        let others = &self.heal(mine, Some(&asked.identity))?;
        check_company(network, others)?;
        self.materialize(network)?;
        self.sweep_once(network)?;
        self.borrow_addresses(network, mine.container().as_str(), &asked.request.addresses)?;
        let shared = self.locks.shared(network)?;
        let stored =
            &self.store.load(network)?.ok_or_else(|| Error::NoNetwork(asked.request.network.clone()))?;
        self.store.remember(stored)?;
        let ports = self.ports_to_begin_with(asked, stored, others)?;
        let loopback =
            others.is_empty().then(|| self.loopback(&asked.container, &stored.list)).transpose()?;
        let late = ports.is_empty();
        let mut connected = self.connect_named(mine, &shared, &Job { asked, stored, others, ports })?;
        let live = [others, std::slice::from_ref(&connected.record)].concat();
        connected.warnings.extend(self.follow(mine, &live));
        let published = match late {
            true => self.publish_more(mine, &live, &asked.request.publish).map(drop),
            false => Ok(()),
        };
        match published.and_then(|()| loopback.map_or(Ok(()), |loopback| self.raise(loopback))) {
            Ok(()) => Ok(connected),
            Err(error) => Err(self.take_back(mine, &shared, &connected.record, error)),
        }
    }

    /// Returns the ports that the new attachment is born with: all of them, unless the container's packets may go out
    /// by another attachment. Then the ports wait until there is something to compare.
    fn ports_to_begin_with(
        &self,
        asked: &Asked<'_>,
        stored: &Stored,
        others: &[Record],
    ) -> Result<Vec<Value>, Error> {
        let wanted = &asked.request.publish;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let entries = self.ports_of_new(stored, &asked.container.id, wanted)?;
        let alone = others
            .iter()
            .all(|other| !ports::leads_out(other) && self.published_at(&other.endpoint).is_empty());
        Ok(if alone { entries } else { Vec::new() })
    }

    /// Disconnects again after a failure, and reports the failure.
    fn take_back(&self, mine: &Mine, shared: &Shared, record: &Record, error: Error) -> Error {
        let left = self.records.of_container(mine.container());
        let problems = self.detach(mine, shared, record, false);
        let live: Vec<Record> = left.into_iter().filter(|other| other.endpoint != record.endpoint).collect();
        // The first error tells more than what becomes of the ports, which stay noted.
        self.finish_moving(mine, &live).ok();
        self.follow(mine, &live);
        match problems {
            Ok(problems) if problems.is_empty() => error,
            Ok(problems) => Error::Problems(problems),
            Err(worse) => worse,
        }
    }

    fn connect_named(&self, mine: &Mine, shared: &Shared, job: &Job<'_>) -> Result<Connected, Error> {
        let Some(name) = &job.asked.name else { return self.connect_once(mine, shared, job) };
        let network = &job.asked.network;
        let attached = |holder: &ContainerId| {
            let records = self.records.of_container(holder);
            records.iter().any(|record| record.endpoint.network == *network)
        };
        if !self.claims.claim(network, name, mine.container(), attached)? {
            return Err(Error::Connected { name: name.to_string(), network: network.clone() });
        }
        self.connect_once(mine, shared, job)
            .inspect_err(|_| self.claims.release(network, name, mine.container()))
    }

    /// Connects with the addresses the name had last time; if those are taken, with others.
    fn connect_once(&self, mine: &Mine, shared: &Shared, job: &Job<'_>) -> Result<Connected, Error> {
        let mut warnings = Vec::new();
        let (network, name) = (&job.asked.network, job.asked.name.as_ref().map(ContainerId::as_str));
        // A file that cannot be read costs the container its old address, not its connection.
        let reserved = self.reservations.of_network(network).unwrap_or_else(|error| {
            warnings.push(format!("{error}; names do not get back the addresses they had"));
            Names::new()
        });
        let own = name.and_then(|name| reserved.get(name)).map(Vec::as_slice).unwrap_or_default();
        let wanted = &job.asked.request.addresses;
        let sticky: Vec<IpAddr> = own
            .iter()
            .filter(|ip| !wanted.iter().any(|wanted| wanted.is_ipv4() == ip.is_ipv4()))
            .filter(|ip| job.stored.network.subnets().any(|subnet| subnet.contains(**ip)))
            .copied()
            .collect();
        let others = reserved.iter().filter(|(other, _)| Some(other.as_str()) != name);
        let avoid: Vec<IpAddr> = others.flat_map(|(_, addresses)| addresses).copied().collect();

        let plan = attach::Plan::of(job, &sticky, &avoid)?;
        let record = match self.attach(mine, shared, job, &plan) {
            Err(Error::Chain(ChainError::Plugin { problem, .. }))
                if !sticky.is_empty() && problem.cause.failure().is_some() =>
            {
                let plan = attach::Plan::of(job, &[], &avoid)?;
                self.attach(mine, shared, job, &plan)?
            }
            outcome => outcome?,
        };
        if let Some(name) = name {
            let addresses: Vec<IpAddr> = record.addresses.iter().map(ipnetwork::IpNetwork::ip).collect();
            // The container is connected; that its address is not kept for the next time is no reason to undo it.
            let kept = self.reservations.keep(network, name, &addresses);
            warnings.extend(kept.err().map(|error| format!("{error}; the address is not kept for {name}")));
        }
        Ok(Connected { record, warnings })
    }

    fn attach(
        &self,
        mine: &Mine,
        shared: &Shared,
        job: &Job<'_>,
        plan: &attach::Plan<'_>,
    ) -> Result<Record, Error> {
        let list = plan.list(&job.stored.list);
        let attachment = plan.attachment(job);
        let result = mine.lent(|| self.runtime.add(&list, &attachment))?;
        let endpoint = Endpoint {
            network: list.name.clone(),
            container: mine.container().clone(),
            ifname: plan.ifname.clone(),
        };
        self.record(&endpoint, &job.asked.container.path, &list, &plan.attach, &result)
            .map_err(|error| self.undo(shared, &list, &attachment, error))
    }

    /// Disconnects again after a failure, and reports the failure; what cannot be undone is in its place.
    fn undo(&self, _: &Shared, list: &Conflist, attachment: &Attachment, error: Error) -> Error {
        let problems = self.runtime.del(list, attachment);
        if problems.is_empty() { error } else { Error::Problems(problems) }
    }
}

/// Refuses what the container's other connections do not go with.
fn check_company(network: &NetworkName, others: &[Record]) -> Result<(), Error> {
    if let Some(same) = others.iter().find(|other| other.endpoint.network == *network) {
        return Err(Error::Connected { name: name_of(same).into(), network: network.clone() });
    }
    let private = |name: &NetworkName| name.as_str() == predefined::PRIVATE;
    let conflict = match private(network) {
        true => !others.is_empty(),
        false => others.iter().any(|other| private(&other.endpoint.network)),
    };
    if conflict { Err(Error::Private) } else { Ok(()) }
}

fn container_name(text: &str) -> Result<ContainerId, Error> {
    let bad =
        |why: weft_model::IdError| Error::BadName { what: "name", name: text.into(), why: why.to_string() };
    text.parse().map_err(bad)
}

/// Returns whether any plugin of the list takes a capability's values.
fn declares(list: &Conflist, capability: &str) -> bool {
    list.plugins.iter().any(|plugin| {
        get(plugin, "capabilities").and_then(|declared| get(declared, capability)) == Some(&Value::Bool(true))
    })
}
