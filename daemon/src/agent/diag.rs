//! The way to a container's address, link by link, up to the first that is broken.
//!
//! It needs no agent: where none runs, what the last one has written says what should be there, and the kernel what is.

mod kernelside;
mod tunnel;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use tokio::task::spawn_blocking;
use weft_manager::Kind;
use weft_manager::overlay;
use weft_manager::overlay::protocol::{Link, Refusal};
use weft_overlay::desired::Desired;
use weft_overlay::records::{BlockState, Host, Network};
use weft_overlay::{HostId, NetworkId, Snapshot};
use weft_state::Root;

use super::agent::Agent;
use super::kernel::Kernel;
use super::known::out_of;
use super::membership::MembershipFile;
use super::mesh::Mesh;
use kernelside::Kernelside;

/// What puts back whatever is missing, with an agent.
const APPLY: &str = "weft overlay apply";

/// The links that were found sound, and at most one that is not.
#[derive(Default)]
struct Way(Vec<Link>);

impl Way {
    fn sound(&mut self, link: &str, found: impl Into<String>) {
        self.0.push(Link { link: link.into(), sound: true, found: found.into(), mend: None });
    }

    fn broken(mut self, link: &str, found: impl Into<String>, mend: impl Into<String>) -> Broken {
        self.0.push(Link { link: link.into(), sound: false, found: found.into(), mend: Some(mend.into()) });
        Broken::Here(self.0)
    }
}

/// Why a way was not walked to its end.
enum Broken {
    /// A link is broken.
    Here(Vec<Link>),
    /// It cannot be told.
    Unknown(Refusal),
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        Self::Unknown(refusal)
    }
}

/// What is known of a way that was walked up to the tunnel.
struct Ahead {
    way: Way,
    /// Who is at the other end of the tunnel, and its device on this host; nobody when there is nothing more to see.
    tunnel: Option<(Host, String)>,
}

/// What the host knows, when it is asked.
struct Ground {
    root: Root,
    own: HostId,
    snapshot: Snapshot,
    desired: Desired,
    /// Networks that cannot be had here, and why.
    refused: BTreeMap<NetworkId, String>,
    /// Why this host is out of the cluster, if it is.
    out: Option<String>,
    mesh: Mesh,
    /// Whether an agent runs: without one nobody says who is alive.
    attended: bool,
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
    name: Option<String>,
) -> Result<Vec<Link>, Refusal> {
    let own = agent.membership()?.host;
    let ground = agent.with(|inner| Ground {
        root: agent.root.clone(),
        own,
        snapshot: inner.snapshot.clone(),
        desired: inner.desired().unwrap_or_default(),
        refused: inner.all_refused().map(|(id, why)| (id, why.clone())).collect(),
        out: inner.is_out(),
        mesh: agent.mesh.clone(),
        attended: true,
    });
    let ground = Arc::new(ground);
    let failed = |error: tokio::task::JoinError| Refusal::new(Kind::Failed, error);
    let turn = kernel.turn().await;
    let first = Arc::clone(&ground);
    let walked = spawn_blocking(move || first.walk(address, name.as_deref())).await.map_err(failed)?;
    // A peer may take its time to answer.
    drop(turn);
    spawn_blocking(move || ground.finish(walked)).await.map_err(failed)?
}

/// As [`walk`], where no agent runs.
///
/// # Errors
///
/// As [`walk`]; when this host is of no cluster, or what is on disk cannot be used.
pub(crate) fn alone(root: &Root, address: IpAddr, name: Option<&str>) -> Result<Vec<Link>, Refusal> {
    let ground = Ground::kept(root)?;
    ground.finish(ground.walk(address, name))
}

impl Ground {
    /// Returns what the last agent has written.
    fn kept(root: &Root) -> Result<Self, Refusal> {
        let read = MembershipFile::new(root).load();
        let membership = read.map_err(|error| Refusal::new(Kind::Failed, error))?;
        let own = membership.ok_or_else(super::agent::of_no_cluster)?.host;
        let snapshot = Snapshot::last(root).map_err(|error| Refusal::new(Kind::Failed, error))?;
        let snapshot = snapshot.ok_or_else(|| {
            Refusal::new(Kind::Failed, "the cluster was never heard of").hint(overlay::START)
        })?;
        let desired = Desired::of(&snapshot, own);
        Ok(Self {
            root: root.clone(),
            own,
            refused: desired.refused.iter().map(|one| (one.id, one.why.clone())).collect(),
            out: out_of(&snapshot, own),
            snapshot,
            desired,
            mesh: Mesh::default(),
            attended: false,
        })
    }

    /// Returns what puts back what is missing.
    fn mend(&self) -> &'static str {
        if self.attended { APPLY } else { overlay::START }
    }

    fn walk(&self, address: IpAddr, name: Option<&str>) -> Result<Ahead, Broken> {
        let network = meant(&self.snapshot, address, name)?;
        let mut way = Way::default();
        if let Some(why) = self.out.as_ref().or_else(|| self.refused.get(&network.id)) {
            return Err(way.broken("network", why, "weft overlay status"));
        }
        let Some((host, part)) = holder(&self.snapshot, &network, address) else {
            let found = format!("{}, vni {}: no host has a block with {address}", network.name, network.vni);
            return Err(way.broken("network", found, format!("weft network inspect {}", network.name)));
        };
        let record = self.snapshot.host(host);
        let of = record.map_or_else(|| host.short(), |record| record.name.clone());
        way.sound("network", format!("{}, vni {}, {part} of {of}", network.name, network.vni));
        if host == self.own {
            way.sound("host", "this one: nothing lies between");
            return Ok(Ahead { way, tunnel: None });
        }
        let Some(record) = record else {
            return Err(way.broken("host", format!("{host} is not in the cluster"), "weft overlay peers"));
        };
        way.sound("host", self.described(record));
        let ours = self.desired.networks.iter().find(|known| known.local.id == network.id);
        let peer = ours.and_then(|known| known.peers.iter().find(|peer| peer.host == host));
        let (Some(ours), Some(peer)) = (ours, peer) else {
            let found =
                format!("this host does not take part in {}, or {} does not", network.name, record.name);
            return Err(way.broken("device", found, format!("weft network inspect {}", network.name)));
        };
        let (way, by) = Kernelside { ground: self, ours, peer, part, address }.walk(way)?;
        Ok(Ahead { way, tunnel: ours.local.secure.then(|| (record.clone(), by)) })
    }

    fn described(&self, host: &Host) -> String {
        let addresses: Vec<String> = host.underlay.addresses().map(|address| address.to_string()).collect();
        let state = match (self.attended, self.snapshot.alive(host.id)) {
            (false, _) => "as it was heard of last",
            (true, Some(_)) => "alive",
            (true, None) => "suspect: its agent is not heard of, which stops no traffic",
        };
        format!("{} at {}, {state}", host.name, addresses.join(", "))
    }

    /// Goes on through the tunnel, if there is one on the way.
    fn finish(&self, walked: Result<Ahead, Broken>) -> Result<Vec<Link>, Refusal> {
        let walked = walked.and_then(|ahead| match &ahead.tunnel {
            Some((host, device)) => tunnel::walk(self, ahead.way, host, device),
            None => Ok(ahead.way),
        });
        match walked {
            Ok(way) => Ok(way.0),
            Err(Broken::Here(links)) => Ok(links),
            Err(Broken::Unknown(refusal)) => Err(refusal),
        }
    }
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
