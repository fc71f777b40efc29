//! The way to a container's address, link by link, up to the first that is broken.

use std::net::IpAddr;
use std::rc::Rc;

use ipnetwork::IpNetwork;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Link, Refusal};
use weft_netlink::{Socket, link, route};
use weft_overlay::desired::{DesiredNetwork, Peer};
use weft_overlay::kernel::{self, Drift};
use weft_overlay::records::{BlockState, Host, Network};
use weft_overlay::{HostId, Snapshot};
use weft_state::Root;

use super::agent::Agent;
use super::kernel::Kernel;
use super::known::Inner;
use super::mesh;

/// What puts back whatever is missing.
const APPLY: &str = "weft overlay apply";

/// The links that were found sound, and at most one that is not.
#[derive(Default)]
struct Way(Vec<Link>);

impl Way {
    fn sound(&mut self, link: &str, found: impl Into<String>) {
        self.0.push(Link { link: link.into(), sound: true, found: found.into(), mend: None });
    }

    fn broken(mut self, link: &str, found: impl Into<String>, mend: impl Into<String>) -> Vec<Link> {
        self.0.push(Link { link: link.into(), sound: false, found: found.into(), mend: Some(mend.into()) });
        self.0
    }
}

/// Walks the way to an address.
///
/// # Errors
///
/// When no network of the cluster has it, or several have.
pub(crate) async fn walk(
    agent: &Rc<Agent>,
    kernel: &Rc<Kernel>,
    address: IpAddr,
    name: Option<&str>,
) -> Result<Vec<Link>, Refusal> {
    let (membership, _) = agent.joined()?;
    let network = agent.with(|inner| meant(&inner.snapshot, address, name))?;
    let mut way = Way::default();
    if let Some(why) = agent.with(|inner| inner.is_out().or_else(|| inner.refused(network.id).cloned())) {
        return Ok(way.broken("network", why, "weft overlay status"));
    }
    let holder = agent.with(|inner| holder(&inner.snapshot, &network, address));
    let Some((host, part)) = holder else {
        let found = format!("{}, vni {}: no host has a block with {address}", network.name, network.vni);
        return Ok(way.broken("network", found, format!("weft network inspect {}", network.name)));
    };
    way.sound(
        "network",
        format!("{}, vni {}, {part} of {}", network.name, network.vni, name_of(agent, host)),
    );
    if host == membership.host {
        way.sound("host", "this one: nothing lies between");
        return Ok(way.0);
    }
    let Some(record) = agent.with(|inner| inner.snapshot.host(host).cloned()) else {
        return Ok(way.broken("host", format!("{host} is not in the cluster"), "weft overlay peers"));
    };
    let addresses: Vec<String> = record.underlay.addresses().map(|address| address.to_string()).collect();
    let alive = agent.with(|inner| inner.snapshot.alive(host).is_some());
    let state = if alive { "alive" } else { "suspect: its agent is not heard of, which stops no traffic" };
    way.sound("host", format!("{} at {}, {state}", record.name, addresses.join(", ")));
    let desired = agent.with(Inner::desired).unwrap_or_default();
    let ours = desired.networks.iter().find(|known| known.local.id == network.id);
    let peer = ours.and_then(|known| known.peers.iter().find(|peer| peer.host == host));
    let (Some(ours), Some(peer)) = (ours.cloned(), peer.cloned()) else {
        let found = format!("this host does not take part in {}, or {} does not", network.name, record.name);
        return Ok(way.broken("device", found, format!("weft network inspect {}", network.name)));
    };
    let turn = kernel.turn().await;
    let drifts = kernel.verify(desired).await?;
    drop(turn);
    let root = agent.root.clone();
    let way = Kernelside { ours: &ours, peer: &peer, part, address, root: &root }.walk(way, &drifts)?;
    match way {
        Ok(way) if ours.local.secure => {
            Ok(mesh::links(agent, &record).await.into_iter().fold(way.0, |mut links, link| {
                links.push(link);
                links
            }))
        }
        Ok(way) => Ok(way.0),
        Err(links) => Ok(links),
    }
}

/// What this host's kernel knows of the way.
struct Kernelside<'a> {
    ours: &'a DesiredNetwork,
    peer: &'a Peer,
    part: IpNetwork,
    address: IpAddr,
    root: &'a Root,
}

impl Kernelside<'_> {
    /// Goes on with a way; the inner error is a way that ended.
    fn walk(&self, mut way: Way, drifts: &[Drift]) -> Result<Result<Way, Vec<Link>>, Refusal> {
        let local = &self.ours.local;
        let hop = self.peer.next_hop(self.part.is_ipv4()).map(|hop| hop.to_string()).unwrap_or_default();
        let steps = [
            (
                "route",
                format!("route {} ", self.part),
                format!("{} via {hop} dev {}", self.part, local.vxlan),
            ),
            ("neighbour", format!("neighbour {hop} "), format!("{hop} is at {}", self.peer.mac)),
            (
                "fdb",
                format!("fdb {} ", self.peer.mac),
                format!("{} is behind {}", self.peer.mac, self.peer.outer),
            ),
        ];
        let of_ways =
            |what: &str| ["route ", "neighbour ", "fdb "].iter().any(|start| what.starts_with(start));
        let mine = |drift: &&Drift| drift.network.as_ref().is_none_or(|name| *name == local.name);
        let mut devices = drifts.iter().filter(mine).filter(|drift| !of_ways(&drift.what));
        if let Some(drift) = devices.next() {
            return Ok(Err(way.broken("device", drift.what.clone(), APPLY)));
        }
        way.sound("device", format!("{}, mtu {}", local.vxlan, local.mtu.get()));
        for (name, start, found) in steps {
            let broken =
                drifts.iter().filter(mine).find(|drift| format!("{} ", drift.what).starts_with(&start));
            if let Some(drift) = broken {
                return Ok(Err(way.broken(name, drift.what.clone(), APPLY)));
            }
            if name == "route"
                && let Some(other) = self.elsewhere()?
            {
                return Ok(Err(way.broken(name, other, format!("ip route show to match {}", self.address))));
            }
            way.sound(name, found);
        }
        Ok(self.underlay(way))
    }

    /// Returns where packets to the address go, if that is not the network's device.
    fn elsewhere(&self) -> Result<Option<String>, Refusal> {
        let local = &self.ours.local;
        let look = || -> Result<Option<String>, weft_netlink::Error> {
            let mut socket = Socket::open()?;
            let Some(path) = route::get(&mut socket, self.address)? else {
                return Ok(Some(format!("packets to {} go nowhere: another route takes them", self.address)));
            };
            let by = socket.link(link::get_index(path.index))?.map(|link| link.name).unwrap_or_default();
            Ok((by != local.vxlan.as_str()).then(|| format!("packets to {} leave by {by}", self.address)))
        };
        let failed = |error: &dyn std::fmt::Display| Refusal::new(Kind::Failed, error.to_string());
        match kernel::home(local, self.root, false).map_err(|error| failed(&error))? {
            Some(home) => home.run(look).map_err(|error| failed(&error))?.map_err(|error| failed(&error)),
            None => look().map_err(|error| failed(&error)),
        }
    }

    /// Looks whether outer packets have a way.
    fn underlay(&self, mut way: Way) -> Result<Way, Vec<Link>> {
        let outer = self.peer.outer;
        let found = Socket::open().and_then(|mut socket| {
            let path = route::get(&mut socket, outer)?;
            let index = path.map(|path| path.index).unwrap_or_default();
            Ok(socket.link(link::get_index(index))?.map(|link| link.name))
        });
        let name = if self.ours.local.secure { "mesh" } else { "underlay" };
        match found {
            Ok(Some(by)) => {
                way.sound(name, format!("{outer} by {by}"));
                Ok(way)
            }
            Ok(None) => {
                Err(way.broken(name, format!("no route to {outer}"), format!("ip route get {outer}")))
            }
            Err(error) => Err(way.broken(name, format!("{outer}: {error}"), format!("ip route get {outer}"))),
        }
    }
}

fn name_of(agent: &Agent, host: HostId) -> String {
    agent
        .with(|inner| inner.snapshot.host(host).map_or_else(|| host.short(), |host: &Host| host.name.clone()))
}

/// Returns the network that a person means by an address.
fn meant(snapshot: &Snapshot, address: IpAddr, name: Option<&str>) -> Result<Network, Refusal> {
    let covers = |network: &&Network| network.subnets.iter().any(|subnet| subnet.contains(address));
    let named = |network: &&Network| name.is_none_or(|name| network.name.as_str() == name);
    let found: Vec<&Network> = snapshot.networks().filter(covers).filter(named).collect();
    match &found[..] {
        [network] => Ok((*network).clone()),
        [] => {
            let why = format!("no network of the cluster has the address {address}");
            Err(Refusal::new(Kind::NotFound, why).hint("weft overlay status"))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|network| network.name.as_str()).collect();
            let why = format!("several networks have the address {address}: {}", names.join(", "));
            Err(Refusal::new(Kind::Usage, why)
                .hint(format!("weft overlay diag --network {} {address}", names[0])))
        }
    }
}

/// Returns who has an address, and as a part of what.
fn holder(snapshot: &Snapshot, network: &Network, address: IpAddr) -> Option<(HostId, IpNetwork)> {
    if let Some(borrow) = snapshot.borrow(network.id, address).filter(|borrow| borrow.is_active()) {
        return Some((borrow.host, address.into()));
    }
    let of_network = |block: &&weft_overlay::records::Block| {
        block.state == BlockState::Active && block.cidr.contains(address)
    };
    snapshot.blocks_of(network.id).find(of_network).map(|block| (block.host, block.cidr))
}
