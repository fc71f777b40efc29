//! `weft port ...` and `connect --publish`: ports of the host that lead to a container.
//!
//! The network's port plugin does the work; the manager tells it everything that the attachment is to publish,
//! and reads in the books what was chosen. A container's ports stand where its packets go out: at the attachment
//! with the default route, one for each family. Elsewhere the answers to strangers would take another way than
//! the questions, and the host would not know them for answers. When that attachment changes, the ports follow.

mod follow;
mod mapping;
mod publisher;
mod way;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde_json::{Value, json};
use weft_cni::Verb;
use weft_model::port::{PortRange, Protocol, Publication, PublishSpec};
use weft_model::{ContainerId, Endpoint};
use weft_runtime::Attachment;
use weft_state::attachment::Record;
use weft_state::ports::{Asked, Owner};

use crate::attachments::name_of;
use crate::locks::Mine;
use crate::namespace::{Container, identity};
use crate::store::Stored;
use crate::{Error, Manager, order};
use way::Ways;

pub(crate) use way::leads_out;

/// What plugins that publish ports call what they take.
pub(crate) const CAPABILITY: &str = "portMappings";

/// Ports of one container.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// The container, as a person names it, or its name on a network.
    pub netns: String,
    /// The container's id, if not the one that follows from `netns`.
    pub id: Option<String>,
    /// The ports.
    pub ports: Vec<PublishSpec>,
}

/// A port or a range that leads to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// What leads where.
    pub publication: Publication,
    /// Whether it is a port of the host. In a routed network it is the container's own, reached at its own address.
    pub translated: bool,
}

/// A published port as it is listed.
#[derive(Clone, Debug)]
pub struct Published {
    /// The attachment it stands at.
    pub endpoint: Endpoint,
    /// The container's name on the network; its id if it has none.
    pub name: String,
    /// The port.
    pub port: Port,
}

impl Port {
    fn of(owner: &Owner, publication: &Publication) -> Self {
        let translated = owner.gateways.of(publication.target).translates();
        Self { publication: publication.clone(), translated }
    }

    fn all(owner: &Owner) -> Vec<Self> {
        owner.publications.iter().map(|one| Self::of(owner, one)).collect()
    }
}

/// DOCKER: `0.0.0.0:8080->80/tcp`, as in its list of containers.
impl fmt::Display for Port {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Publication { protocol, host, host_ports, target, target_ports, .. } = &self.publication;
        let address = if self.translated { host } else { target };
        match address {
            IpAddr::V4(address) => write!(out, "{address}:")?,
            IpAddr::V6(address) => write!(out, "[{address}]:")?,
        }
        if self.translated {
            write!(out, "{host_ports}->")?;
        }
        write!(out, "{target_ports}/{protocol}")
    }
}

impl Manager {
    /// Publishes ports of a connected container: all of them, or none. Returns what was published, with
    /// every choice made.
    ///
    /// # Errors
    ///
    /// When the container is not connected, its network publishes nothing, a port is somebody else's or the
    /// plugin refuses.
    pub fn publish(&self, request: &Publish) -> Result<Vec<Port>, Error> {
        check_twice(&request.ports)?;
        let (mine, live) = self.at_hand(request)?;
        let published = self.publish_more(&mine, &live, &request.ports);
        self.let_go(mine)?;
        published
    }

    /// Withdraws published ports. Returns what is not published any more, and which of the ports asked for
    /// never were.
    ///
    /// # Errors
    ///
    /// When the container is not connected or the plugin fails.
    pub fn unpublish(&self, request: &Publish) -> Result<(Vec<Port>, Vec<Error>), Error> {
        let (mine, live) = self.at_hand(request)?;
        let (mut gone, mut found) = (Vec::new(), vec![false; request.ports.len()]);
        for record in &live {
            let Some(owner) = self.owner(&record.endpoint) else { continue };
            let (leaving, staying): (Vec<_>, Vec<_>) = owner.asked().into_iter().partition(|asked| {
                let one = &asked.publication;
                let translated = owner.gateways.of(one.target).translates();
                let meant = |(spec, found): (&PublishSpec, &mut bool)| {
                    let meant = mapping::means(spec, one, translated);
                    *found |= meant;
                    meant
                };
                request.ports.iter().zip(&mut found).map(meant).fold(false, |any, meant| any | meant)
            });
            if !leaving.is_empty() {
                let _network = self.locks.shared(&record.endpoint.network)?;
                self.have(&mine, record, mapping::of_asked(&staying))?;
                gone.extend(leaving.iter().map(|one| Port::of(&owner, &one.publication)));
            }
        }
        self.forget_moving(&mine, &request.ports, &mut found)?;
        self.let_go(mine)?;
        let missing = request.ports.iter().zip(found).filter(|(_, found)| !found);
        let missing = missing.map(|(spec, _)| Error::NotPublished {
            container: request.netns.clone(),
            ports: spec.to_string(),
            whole: self.whole_of(spec, &live),
        });
        Ok((gone, missing.collect()))
    }

    /// Returns the ports of the host that were published as a whole, and these among them.
    fn whole_of(&self, spec: &PublishSpec, live: &[Record]) -> Option<PortRange> {
        live.iter().filter_map(|record| self.owner(&record.endpoint)).find_map(|owner| {
            let translates = |one: &Publication| owner.gateways.of(one.target).translates();
            let whole =
                owner.publications.iter().find(|one| mapping::means_part(spec, one, translates(one)))?;
            Some(if translates(whole) { whole.host_ports } else { whole.target_ports })
        })
    }

    /// Forgets ports that are on their way and cannot arrive.
    fn forget_moving(&self, mine: &Mine, specs: &[PublishSpec], found: &mut [bool]) -> Result<(), Error> {
        let mut moving = self.books.moving(mine.container())?;
        let count = moving.len();
        for (spec, found) in specs.iter().zip(found) {
            let before = moving.len();
            moving.retain(|one| !mapping::means(spec, &one.publication, true));
            *found |= moving.len() < before;
        }
        if moving.len() < count {
            self.books.note_moving(mine.container(), moving)?;
        }
        Ok(())
    }

    /// Lists published ports, in natural order of containers: all, or those of one container.
    ///
    /// # Errors
    ///
    /// When the books must not be read, or the container is not connected.
    pub fn published(&self, container: Option<&Publish>) -> Result<Vec<Published>, Error> {
        let only = container.map(|request| self.meant(request)).transpose()?;
        let records = self.records.list()?;
        let name = |endpoint: &Endpoint| {
            let own = records.iter().find(|record| record.endpoint == *endpoint);
            own.map_or(endpoint.container.as_str(), name_of).to_owned()
        };
        let mut owners = self.books.list()?;
        owners.retain(|owner| only.as_ref().is_none_or(|only| *only == owner.endpoint.container));
        owners.sort_by(|a, b| by_name(&a.endpoint, &b.endpoint));
        let each = |owner: Owner| {
            let (endpoint, name) = (owner.endpoint.clone(), name(&owner.endpoint));
            let each = move |port| Published { endpoint: endpoint.clone(), name: name.clone(), port };
            Port::all(&owner).into_iter().map(each)
        };
        Ok(owners.into_iter().flat_map(each).collect())
    }

    /// Returns what is wrong with the files of attachments whose ports cannot be listed.
    pub fn unlisted_ports(&self) -> Vec<String> {
        let damaged = self.books.damaged().into_iter();
        let lines = damaged.map(|one| {
            format!(
                "{}; what {} of {} publishes is not listed, and weft network reload clears it away",
                one.error, one.ifname, one.container
            )
        });
        lines.collect()
    }

    /// Returns what every attachment publishes.
    pub(crate) fn ports_by_endpoint(&self) -> Result<BTreeMap<Endpoint, Vec<Port>>, Error> {
        let owners = self.books.list()?.into_iter();
        Ok(owners.map(|owner| (owner.endpoint.clone(), Port::all(&owner))).collect())
    }

    /// Returns what an attachment publishes.
    pub(crate) fn published_at(&self, endpoint: &Endpoint) -> Vec<Publication> {
        self.owner(endpoint).map(|owner| owner.publications).unwrap_or_default()
    }

    /// Returns what an attachment publishes as it would be asked for elsewhere.
    pub(crate) fn asked_at(&self, endpoint: &Endpoint) -> Vec<Asked> {
        self.owner(endpoint).map(|owner| owner.asked()).unwrap_or_default()
    }

    fn owner(&self, endpoint: &Endpoint) -> Option<Owner> {
        self.books.owner(&endpoint.container, &endpoint.ifname).filter(|owner| owner.endpoint == *endpoint)
    }

    /// Returns the container a person means: its id, or the one that goes by this name on a network.
    fn meant(&self, request: &Publish) -> Result<ContainerId, Error> {
        let by_id = Container::named(&request.netns, request.id.as_deref()).map(|container| container.id);
        if let Ok(id) = &by_id
            && !self.records.of_container(id).is_empty()
        {
            return Ok(id.clone());
        }
        let records = self.records.list()?;
        let mut named = records.iter().filter(|record| name_of(record) == request.netns);
        match named.next() {
            Some(record) => Ok(record.endpoint.container.clone()),
            None => by_id.and_then(|_| Err(Error::Unconnected(request.netns.clone()))),
        }
    }

    /// Returns a container's live attachments, with the container under our lock.
    fn at_hand(&self, request: &Publish) -> Result<(Mine, Vec<Record>), Error> {
        let id = self.meant(request)?;
        let mine = self.locks.container(&id)?;
        let records = self.records.of_container(&id);
        let here = records.iter().find_map(|record| identity(record.netns.as_deref()?));
        let live = self.heal(&mine, here.as_ref())?;
        match live.is_empty() {
            true => {
                self.let_go(mine)?;
                Err(Error::Unconnected(request.netns.clone()))
            }
            false => Ok((mine, live)),
        }
    }

    /// Publishes further ports at the attachments where they belong.
    pub(crate) fn publish_more(
        &self,
        mine: &Mine,
        live: &[Record],
        specs: &[PublishSpec],
    ) -> Result<Vec<Port>, Error> {
        let ways = Ways::of(live);
        let known: Vec<Vec<Asked>> = live.iter().map(|record| self.asked_at(&record.endpoint)).collect();
        let mut room = Room::default();
        for spec in specs {
            ways.lead(spec).then_some(()).ok_or_else(|| unreachable_by(mine.container(), spec))?;
            self.check_free(spec, live)?;
            for index in ways.each() {
                let here = ways.families(spec).filter(|(_, way)| *way == index).map(|(any, _)| any);
                let here: Vec<IpAddr> = here.collect();
                if !here.is_empty() {
                    let publisher = self.publisher_at(&live[index].endpoint)?;
                    publisher.check_spec(spec, &here)?;
                    room.take(spec, publisher.chooses(spec, &here), &here)?;
                }
            }
        }
        let (mut published, mut changed): (Vec<Publication>, Vec<usize>) = (Vec::new(), Vec::new());
        for index in ways.each() {
            let wanted = specs.iter().flat_map(|spec| ways.entries(index, spec, &published));
            let wanted: Vec<Value> = wanted.collect();
            if wanted.is_empty() {
                continue;
            }
            let all = mapping::of_asked(&known[index]).into_iter().chain(wanted).collect();
            if let Err(error) = self.have_new(mine, &live[index], specs, all) {
                for index in changed.drain(..) {
                    // What it cannot take back it says itself the next time; the first error tells more.
                    self.have(mine, &live[index], mapping::of_asked(&known[index])).ok();
                }
                return Err(error);
            }
            changed.push(index);
            let now = self.published_at(&live[index].endpoint);
            published.extend(
                now.into_iter().filter(|one| known[index].iter().all(|other| other.publication != *one)),
            );
        }
        let all = live.iter().filter_map(|record| self.owner(&record.endpoint));
        let all = all.flat_map(|owner| Port::all(&owner));
        Ok(all.filter(|port| published.contains(&port.publication)).collect())
    }

    /// Refuses a port of the host that leads to this container already.
    fn check_free(&self, spec: &PublishSpec, live: &[Record]) -> Result<(), Error> {
        for owner in live.iter().filter_map(|record| self.owner(&record.endpoint)) {
            let own = |one: &Publication| {
                !owner.gateways.of(one.target).translates() && mapping::wants_own(spec, one)
            };
            // An open one has no port of the host's yet.
            let is_open = |one: &Publication| owner.open.iter().any(|open| open.publication == *one);
            let held = |one: &&Publication| own(one) || !is_open(one) && mapping::wants(spec, one);
            if let Some(held) = owner.publications.iter().find(held) {
                let (protocol, host, ports) = match own(held) {
                    true => (held.protocol, held.target, held.target_ports),
                    false => (held.protocol, held.host, held.host_ports),
                };
                let Endpoint { container, network, .. } = owner.endpoint.clone();
                return Err(Error::PortTaken { ports, protocol, host, container, network });
            }
        }
        Ok(())
    }

    fn have_new(
        &self,
        mine: &Mine,
        record: &Record,
        specs: &[PublishSpec],
        all: Vec<Value>,
    ) -> Result<(), Error> {
        let _network = self.locks.shared(&record.endpoint.network)?;
        let publisher = self.publisher_at(&record.endpoint)?;
        self.check_understood(&record.endpoint.network, &publisher, specs, true)?;
        self.have(mine, record, all)
    }

    /// Makes an attachment publish exactly these ports.
    pub(crate) fn have(&self, mine: &Mine, record: &Record, ports: Vec<Value>) -> Result<(), Error> {
        let endpoint = &record.endpoint;
        let publisher = self.publisher_at(endpoint)?;
        let cache = self.runtime.cache();
        let mut attachment =
            Attachment::new(endpoint.container.clone(), record.netns.clone(), endpoint.ifname.clone());
        attachment.capability_args = cache.capability_args(endpoint);
        attachment.capability_args.remove(CAPABILITY);
        attachment.conf_args.insert("weft".into(), record.attach.clone());
        let verb = if ports.is_empty() { Verb::Del } else { Verb::Add };
        if verb == Verb::Add {
            attachment.capability_args.insert(CAPABILITY.into(), json!(ports));
        }
        let result = cache.result(endpoint).or_else(|| record.result.clone()).unwrap_or_default();
        let renew = || self.runtime.renew(&publisher.list, &publisher.plugin, verb, &attachment, &result);
        Ok(mine.lent(renew)?)
    }

    /// Returns what to ask a new attachment's plugins for, where all of a container's ports will stand there.
    ///
    /// # Errors
    ///
    /// When the network publishes nothing or has no address that a port could lead to.
    pub(crate) fn ports_of_new(
        &self,
        stored: &Stored,
        container: &ContainerId,
        specs: &[PublishSpec],
    ) -> Result<Vec<Value>, Error> {
        check_twice(specs)?;
        let publisher = self.publisher(stored)?;
        self.check_understood(&stored.network.name, &publisher, specs, false)?;
        let ways = Ways::of_network(&stored.network);
        let mut room = Room::default();
        for spec in specs {
            ways.lead(spec).then_some(()).ok_or_else(|| unreachable_by(container, spec))?;
            let families: Vec<IpAddr> = ways.families(spec).map(|(any, _)| any).collect();
            publisher.check_spec(spec, &families)?;
            room.take(spec, publisher.chooses(spec, &families), &families)?;
        }
        Ok(specs.iter().flat_map(|spec| ways.entries(0, spec, &[])).collect())
    }
}

fn by_name(a: &Endpoint, b: &Endpoint) -> std::cmp::Ordering {
    order::natural(a.container.as_str(), b.container.as_str())
        .then_with(|| order::natural(a.ifname.as_str(), b.ifname.as_str()))
}

fn unreachable_by(container: &ContainerId, spec: &PublishSpec) -> Error {
    Error::Unreachable { container: container.clone(), ports: spec.to_string() }
}

/// Refuses a request that asks for a port of the host twice.
pub(crate) fn check_twice(specs: &[PublishSpec]) -> Result<(), Error> {
    for (index, spec) in specs.iter().enumerate() {
        if specs[..index].iter().any(|other| mapping::clash(spec, other)) {
            return Err(Error::PublishedTwice(spec.to_string()));
        }
    }
    Ok(())
}

/// The ports of the host from which those are chosen that a request leaves to us. More than there are is refused before each is
/// asked for by itself, which takes a second for all of them.
#[derive(Default)]
struct Room {
    /// How many there are; looked up when the first is wanted.
    there: Option<(PortRange, usize)>,
    /// How many are wanted of a protocol at these addresses of the host: at others there are as many again.
    taken: BTreeMap<(Protocol, Vec<IpAddr>), usize>,
}

impl Room {
    fn take(&mut self, spec: &PublishSpec, count: usize, at: &[IpAddr]) -> Result<(), Error> {
        if count == 0 {
            return Ok(());
        }
        let (among, there) = *self.there.get_or_insert_with(|| {
            let (among, reserved) = weft_state::ports::ephemeral_ports();
            let free = |port: &u16| !reserved.iter().any(|range| range.contains(*port));
            (among, among.ports().filter(free).count())
        });
        let taken = self.taken.entry((spec.protocol, at.to_vec())).or_default();
        *taken += count;
        match *taken > there {
            true => Err(Error::NoRoom { ports: spec.to_string(), wanted: *taken, there, among }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_look_like_dockers() {
        let port = |json: Value, translated| {
            Port { publication: serde_json::from_value(json).unwrap(), translated }.to_string()
        };
        let v4 = json!({"protocol": "tcp", "host": "0.0.0.0", "hostPorts": "8080", "target": "10.1.0.2", "targetPorts": "80"});
        let v6 = json!({"protocol": "udp", "host": "::", "hostPorts": "8000-8009", "target": "fd00::2", "targetPorts": "1-10"});
        assert_eq!(port(v4.clone(), true), "0.0.0.0:8080->80/tcp");
        assert_eq!(port(v6.clone(), true), "[::]:8000-8009->1-10/udp");
        assert_eq!(port(v4, false), "10.1.0.2:80/tcp");
        assert_eq!(port(v6, false), "[fd00::2]:1-10/udp");
    }
}
