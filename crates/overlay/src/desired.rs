//! What this host should have in its kernel, from what all hosts know. Pure: nothing is asked and nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_firewall::Tunnels;
use weft_model::{IfName, Mac, Mtu, NetworkName};
use weft_state::boot;

use crate::blocks::{self, gateway, next_hop};
use crate::ids::{HostId, NetworkId, Vni, vtep_mac};
use crate::kernel::{leads_outside, pair};
use crate::local::{LocalBlock, LocalNetwork, Outer};
use crate::records::{BlockState, Borrow, Cluster, Encryption, Host, Network};
use crate::snapshot::Snapshot;

/// What the names of the mesh's devices start with.
pub const MESH_LINKS: &str = "weftwg";
/// The least MTU of a link with IPv6 (RFC 8200, section 5), and of one with IPv4 that is of any use (RFC 791: 576).
const LEAST: [u32; 2] = [576, 1280];

/// Bytes that encapsulation adds to a packet: inner Ethernet (14), VXLAN (8) and UDP (8) headers, and the outer IP header
/// (20 or 40). Inside the mesh the outer header is IPv6, and WireGuard adds its header and tag (32), UDP (8) and another
/// IP header.
pub const fn overhead(secure: bool, underlay_v4: bool) -> u32 {
    match (secure, underlay_v4) {
        (false, true) => 50,
        (false, false) => 70,
        (true, true) => 130,
        (true, false) => 150,
    }
}

/// What this host should have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Whether this host is known at all. If not, nothing follows from a network's absence.
    pub known: bool,
    /// Its networks.
    pub networks: Vec<DesiredNetwork>,
    /// Networks it takes part in and cannot have, and why not.
    pub refused: Vec<Refused>,
    /// What its firewall should know of the outer packets.
    pub tunnels: Tunnels,
}

/// A network of this host.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredNetwork {
    /// What an ADD reads of it, and the devices.
    pub local: LocalNetwork,
    /// The other hosts.
    pub peers: Vec<Peer>,
    /// Addresses of this host's blocks that are behind its peers: containers here ask for them on their link, and the host answers.
    pub behind: Vec<IpAddr>,
}

/// Another host, as far as one network goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub host: HostId,
    /// Its name, for people.
    pub name: String,
    /// The Ethernet address of its VXLAN device.
    pub mac: Mac,
    /// Where outer packets to it go: its underlay address, or its address in the mesh.
    pub outer: IpAddr,
    /// The MTU of the way there, when it is less than that of our own device.
    pub mtu: Option<Mtu>,
    /// Its blocks and the addresses it has borrowed, in order.
    pub routes: Vec<IpNetwork>,
}

impl Peer {
    /// Returns the next hop for its addresses of a family: the first address of its first block, which nobody has.
    pub fn next_hop(&self, v4: bool) -> Option<IpAddr> {
        self.routes.iter().find(|route| route.is_ipv4() == v4).map(|route| next_hop(*route))
    }
}

/// A network that this host cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub network: NetworkName,
    /// Its id.
    pub id: NetworkId,
    /// Why not.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

impl Desired {
    /// Returns what a host should have, as far as is known.
    pub fn of(snapshot: &Snapshot, host: HostId) -> Self {
        let mut desired = Self { tunnels: tunnels(snapshot), ..Self::default() };
        let (Some(cluster), Some(own)) = (snapshot.cluster(), snapshot.host(host)) else { return desired };
        desired.known = true;
        let known = Known::of(snapshot, host);
        for network in snapshot.networks().filter(|network| snapshot.is_member(network.id, host)) {
            match known.network(cluster, own, network) {
                Ok(found) => match desired.rival(&found.local) {
                    None => desired.networks.push(found),
                    Some(other) => desired.refused.push(Refused {
                        why: format!("network {other} leads outside by the same addresses"),
                        hint: "create one of them with another vni".into(),
                        network: network.name.clone(),
                        id: network.id,
                    }),
                },
                Err(refused) => desired.refused.push(refused),
            }
        }
        let plain = desired.networks.iter().filter(|network| !network.local.secure);
        desired.tunnels.uplinks = desired.networks.iter().any(|network| leads_outside(&network.local));
        desired.tunnels.vnis = plain.map(|network| network.local.vni.get()).collect();
        desired
    }

    /// Returns whether this host is to have no network at all, and nothing keeps it from one.
    pub fn is_empty(&self) -> bool {
        self.known && self.networks.is_empty() && self.refused.is_empty()
    }

    /// Returns a network whose way outside is that of another one as well: addresses for it are few.
    fn rival(&self, local: &LocalNetwork) -> Option<&NetworkName> {
        let others = self.networks.iter().map(|network| &network.local).filter(|other| leads_outside(other));
        others
            .filter(|_| leads_outside(local))
            .find(|other| pair(other) == pair(local))
            .map(|other| &other.name)
    }

    /// Returns what is desired of one network, or why this host cannot have it.
    pub fn network(&self, name: &NetworkName) -> Option<Result<&DesiredNetwork, &Refused>> {
        let found = self.networks.iter().find(|network| network.local.name == *name).map(Ok);
        found.or_else(|| self.refused.iter().find(|refused| refused.network == *name).map(Err))
    }
}

/// The firewall of a host of the cluster. Ports and hosts are the same for all networks.
fn tunnels(snapshot: &Snapshot) -> Tunnels {
    let Some(cluster) = snapshot.cluster() else { return Tunnels::default() };
    let slots = snapshot.hosts().flat_map(|host| [host.wireguard.a, host.wireguard.b]).flatten();
    let ports = [cluster.wireguard_ports.a, cluster.wireguard_ports.b];
    Tunnels {
        plain_port: cluster.plain_port,
        secure_port: cluster.secure_port,
        mesh_ports: slots.map(|slot| slot.port).chain(ports).collect(),
        mesh_links: MESH_LINKS,
        vnis: BTreeSet::new(),
        uplinks: false,
        hosts: snapshot.hosts().filter(is_in).flat_map(|host| host.underlay.addresses()).collect(),
    }
}

fn is_in(host: &&Host) -> bool {
    host.superseded_by.is_none()
}

/// The snapshot by network and host: with 500 hosts, going through all blocks for each would be quadratic.
struct Known<'a> {
    members: BTreeMap<NetworkId, Vec<&'a Host>>,
    routes: BTreeMap<(NetworkId, HostId), Vec<IpNetwork>>,
    borrowed: BTreeMap<(NetworkId, HostId), Vec<IpAddr>>,
    /// Of this host's blocks.
    lent: BTreeMap<NetworkId, Vec<&'a Borrow>>,
}

impl<'a> Known<'a> {
    fn of(snapshot: &'a Snapshot, own: HostId) -> Self {
        let hosts: BTreeMap<HostId, &Host> =
            snapshot.hosts().filter(is_in).map(|host| (host.id, host)).collect();
        let mut known = Self {
            members: BTreeMap::new(),
            routes: BTreeMap::new(),
            borrowed: BTreeMap::new(),
            lent: BTreeMap::new(),
        };
        for member in snapshot.members() {
            let host = hosts.get(&member.host).copied();
            known.members.entry(member.network).or_default().extend(host);
        }
        for block in snapshot.blocks().filter(|block| block.state == BlockState::Active) {
            known.routes.entry((block.network, block.host)).or_default().push(block.cidr);
        }
        for borrow in snapshot.borrows() {
            if borrow.is_active() {
                known.borrowed.entry((borrow.network, borrow.host)).or_default().push(borrow.address);
            }
            let blocks = known.routes.get(&(borrow.network, own)).map(Vec::as_slice).unwrap_or_default();
            if borrow.is_out_of(own, blocks) {
                known.lent.entry(borrow.network).or_default().push(borrow);
            }
        }
        for routes in known.routes.values_mut() {
            routes.sort_unstable();
        }
        known
    }

    fn network(&self, cluster: &Cluster, own: &Host, network: &Network) -> Result<DesiredNetwork, Refused> {
        let refuse = |why: String, hint: &str| Refused {
            network: network.name.clone(),
            id: network.id,
            why,
            hint: hint.into(),
        };
        let members = self.members.get(&network.id).map(Vec::as_slice).unwrap_or_default();
        let secure = network.encryption == Encryption::Wireguard;
        // A device has peers of one family, which has to be everybody's.
        let v4 = members.iter().all(|host| host.underlay.v4.is_some())
            || !members.iter().all(|host| host.underlay.v6.is_some());
        let outer_of = |host: &Host| match (secure, v4) {
            (true, _) => Some(cluster.mesh_address(host.mesh).into()),
            (false, true) => host.underlay.v4.map(IpAddr::V4),
            (false, false) => host.underlay.v6.map(IpAddr::V6),
        };
        let local = outer_of(own).ok_or_else(|| {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let why =
                format!("the network's hosts speak {family} to each other, and this one has no such address");
            refuse(why, "join with an underlay address of each family")
        })?;
        clear_of_underlay(network, members).map_err(|why| refuse(why, "choose another subnet"))?;
        let mtu = mtu(network, own, secure).map_err(|why| refuse(why, "raise the underlay's MTU"))?;
        let mut peers: Vec<Peer> = members
            .iter()
            .filter(|host| host.id != own.id)
            .filter_map(|host| self.peer(network, host, outer_of(host)?, mtu, secure))
            .collect();
        peers.sort_unstable_by_key(|peer| peer.host);
        let port = if secure { cluster.secure_port } else { cluster.plain_port };
        let blocks = self.routes.get(&(network.id, own.id)).into_iter().flatten();
        let lent = self.lent.get(&network.id).map(Vec::as_slice).unwrap_or_default();
        let local = LocalNetwork {
            schema: LocalNetwork::SCHEMA,
            boot: boot::id().unwrap_or_default(),
            id: network.id,
            name: network.name.clone(),
            generation: network.generation,
            vni: network.vni,
            host: own.id,
            bridge: device("ovb", network.vni),
            vxlan: device("ov", network.vni),
            mtu,
            subnets: network.subnets.clone(),
            blocks: blocks
                .filter_map(|cidr| Some(LocalBlock { cidr: *cidr, gateway: gateway(*cidr)? }))
                .collect(),
            borrowed: self.borrowed.get(&(network.id, own.id)).cloned().unwrap_or_default(),
            lent: lent.iter().map(|borrow| borrow.address).collect(),
            outer: Outer { local, port },
            secure,
            isolated: network.isolated,
            egress: network.egress,
            underlay: own.underlay,
            closing: false,
        };
        let behind = lent.iter().filter(|borrow| borrow.is_active()).map(|borrow| borrow.address);
        Ok(DesiredNetwork { local, peers, behind: behind.collect() })
    }

    fn peer(
        &self,
        network: &Network,
        host: &Host,
        outer: IpAddr,
        own_mtu: Mtu,
        secure: bool,
    ) -> Option<Peer> {
        let of = (network.id, host.id);
        let mut routes = self.routes.get(&of).cloned().unwrap_or_default();
        // A block's first address is the next hop, so blocks come before addresses that were borrowed.
        routes.extend(self.borrowed.get(&of).into_iter().flatten().map(|address| IpNetwork::from(*address)));
        if routes.is_empty() {
            return None;
        }
        let mtu = mtu(network, host, secure).ok().filter(|mtu| mtu.get() < own_mtu.get());
        Some(Peer {
            host: host.id,
            name: host.name.clone(),
            mac: vtep_mac(host.id, network.id),
            outer,
            mtu,
            routes,
        })
    }
}

/// Returns the name of a device of a network.
fn device(prefix: &str, vni: Vni) -> IfName {
    let name = format!("{prefix}{:x}", vni.get());
    name.parse().unwrap_or_else(|_| IfName::derived(&[&name]))
}

/// Returns the MTU that a network has on a host.
fn mtu(network: &Network, host: &Host, secure: bool) -> Result<Mtu, String> {
    let outer = overhead(secure, host.underlay.v4.is_some());
    let room = host.mtu.saturating_sub(outer);
    let wanted = network.mtu.map_or(room, Mtu::get);
    let least = LEAST[usize::from(network.subnets.iter().any(IpNetwork::is_ipv6))];
    let refused = |what: String| {
        Err(format!(
            "{what}: the underlay of host {} has an MTU of {}, and encapsulation takes {outer} of it",
            host.name, host.mtu
        ))
    };
    if wanted > room {
        return refused(format!("an MTU of {wanted} does not fit"));
    }
    if wanted < least {
        return refused(format!("an MTU of {wanted} is less than the {least} that the network needs"));
    }
    Mtu::try_from(i64::from(wanted)).map_err(|error| error.to_string())
}

/// Says whose underlay address is in a subnet of the network: packets to that host would go into the tunnel to it.
fn clear_of_underlay(network: &Network, members: &[&Host]) -> Result<(), String> {
    if network.isolated {
        return Ok(());
    }
    for host in members {
        for address in host.underlay.addresses() {
            let covers = |subnet: &&IpNetwork| blocks::overlap(**subnet, address.into());
            if let Some(subnet) = network.subnets.iter().find(covers) {
                return Err(format!(
                    "subnet {subnet} overlaps the underlay: host {} is {address}",
                    host.name
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
