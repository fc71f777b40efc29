//! What this host should have in its kernel, from what all hosts know. Pure: nothing is asked and nothing changed.

mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_firewall::Tunnels;
use weft_model::{IfName, Mac, Mtu, NetworkName};
use weft_state::boot;

use crate::blocks::{self, gateway, next_hop};
use crate::ids::{HostId, NetworkId, Vni, vtep_mac};
use crate::kernel::{leads_outside, pair};
use crate::keys::Key;
use crate::local::{LocalBlock, LocalNetwork, Outer};
use crate::records::{Borrow, Cluster, Encryption, Host, Network, Underlay};
use crate::snapshot::Snapshot;

pub(crate) use routes::lies_in;

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

/// Returns the least MTU of an underlay that any network could be had on.
pub const fn least_underlay(underlay_v4: bool) -> u32 {
    LEAST[0] + overhead(false, underlay_v4)
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
    /// Whether something is known to be missing, so that nothing may be taken away.
    pub partial: bool,
    /// What others say that is not gone by, and why.
    pub passed_over: Vec<PassedOver>,
    /// What its firewall should know of the outer packets; `None` as long as no cluster is known, and then there may be no network.
    pub tunnels: Option<Tunnels>,
}

/// A record, good in itself, that does not fit the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Which.
    pub key: Key,
    /// Why nothing follows from it.
    pub why: String,
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
        let mut desired = Self::default();
        let Some(cluster) = snapshot.cluster() else { return desired };
        let own_networks = || snapshot.networks().filter(|network| snapshot.is_member(network.id, host));
        // One that cannot be had may have a device from before: its packets are nobody's either.
        let plain = own_networks().filter(|network| network.encryption == Encryption::None);
        desired.tunnels = Some(tunnels(snapshot, cluster, plain.map(|network| network.vni.get()).collect()));
        let Some(own) = snapshot.host(host) else { return desired };
        desired.known = true;
        let mut known = Known::of(snapshot, host);
        desired.passed_over = std::mem::take(&mut known.passed_over);
        for network in own_networks() {
            match known.network(cluster, own, network, &mut desired.passed_over) {
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
        let uplinks = desired.networks.iter().any(|network| leads_outside(&network.local));
        desired.tunnels.iter_mut().for_each(|tunnels| tunnels.uplinks = uplinks);
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
fn tunnels(snapshot: &Snapshot, cluster: &Cluster, vnis: BTreeSet<u32>) -> Tunnels {
    let slots = snapshot.hosts().flat_map(|host| [host.wireguard.a, host.wireguard.b]).flatten();
    let ports = [cluster.wireguard_ports.a, cluster.wireguard_ports.b];
    Tunnels {
        plain_port: cluster.plain_port,
        secure_port: cluster.secure_port,
        mesh_ports: slots.map(|slot| slot.port).chain(ports).collect(),
        mesh_links: MESH_LINKS,
        vnis,
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
    /// Whether each host is met by IPv4 by all others of the cluster, which the mesh's MTU depends on.
    met_by_v4: BTreeMap<HostId, bool>,
    passed_over: Vec<PassedOver>,
}

impl<'a> Known<'a> {
    fn of(snapshot: &'a Snapshot, own: HostId) -> Self {
        let hosts: BTreeMap<HostId, &Host> =
            snapshot.hosts().filter(is_in).map(|host| (host.id, host)).collect();
        let (given, passed_over) = routes::of(snapshot, own);
        let mut known = Self {
            members: BTreeMap::new(),
            routes: given.blocks,
            borrowed: given.borrowed,
            lent: BTreeMap::new(),
            met_by_v4: met_by_v4(&hosts),
            passed_over,
        };
        for member in snapshot.members() {
            let host = hosts.get(&member.host).copied();
            known.members.entry(member.network).or_default().extend(host);
        }
        for borrow in snapshot.borrows() {
            let blocks = known.routes.get(&(borrow.network, own)).map(Vec::as_slice).unwrap_or_default();
            if borrow.is_out_of(own, blocks) {
                known.lent.entry(borrow.network).or_default().push(borrow);
            }
        }
        known
    }

    fn network(
        &self,
        cluster: &Cluster,
        own: &Host,
        network: &Network,
        passed_over: &mut Vec<PassedOver>,
    ) -> Result<DesiredNetwork, Refused> {
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
        let outside = |host: &Host| match secure {
            true => self.met_by_v4.get(&host.id).copied().unwrap_or(true),
            false => v4,
        };
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
        if let Some(why) = covers_underlay(network, own) {
            return Err(refuse(why, "choose another subnet"));
        }
        let mtu_of = |host: &Host| mtu(network, host, overhead(secure, outside(host)));
        let too_small = network.mtu.is_some_and(|asked| asked.get() < least(network));
        let mend = if too_small {
            "give another -o mtu"
        } else {
            "raise the underlay's MTU: ip link set LINK mtu N"
        };
        let mtu = mtu_of(own).map_err(|why| refuse(why, mend))?;
        let mut peers: Vec<Peer> = Vec::new();
        for host in members.iter().filter(|host| host.id != own.id) {
            // Packets to it would go into the tunnel that leads to it. That is its trouble, and not this network's.
            if let Some(why) = covers_underlay(network, host) {
                passed_over.push(PassedOver { key: Key::Member(network.id, host.id), why });
                continue;
            }
            let less = mtu_of(host).ok().filter(|theirs| theirs.get() < mtu.get());
            peers.extend(outer_of(host).and_then(|outer| self.peer(network, host, outer, less)));
        }
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
            fastpath: network.fastpath(),
            underlay: own.underlay,
            closing: false,
        };
        let behind = lent.iter().filter(|borrow| borrow.is_active()).map(|borrow| borrow.address);
        Ok(DesiredNetwork { local, peers, behind: behind.collect() })
    }

    fn peer(&self, network: &Network, host: &Host, outer: IpAddr, mtu: Option<Mtu>) -> Option<Peer> {
        let of = (network.id, host.id);
        let mut routes = self.routes.get(&of).cloned().unwrap_or_default();
        // A block's first address is the next hop, so blocks come before addresses that were borrowed.
        routes.extend(self.borrowed.get(&of).into_iter().flatten().map(|address| IpNetwork::from(*address)));
        if routes.is_empty() {
            return None;
        }
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

/// Returns for each host whether all others meet it by IPv4.
fn met_by_v4(hosts: &BTreeMap<HostId, &Host>) -> BTreeMap<HostId, bool> {
    // Who has IPv4 is met by it, unless somebody has IPv6 alone; that one's own answer does not depend on itself.
    let by_v6_alone = |underlay: &Underlay| underlay.v4.is_none() && underlay.v6.is_some();
    let without = hosts.values().map(|host| host.underlay).find(by_v6_alone);
    let by_v4 = |host: &Host| host.underlay.meets_by_v4(without.into_iter());
    hosts.iter().map(|(id, host)| (*id, by_v4(host))).collect()
}

/// Returns the name of a device of a network.
fn device(prefix: &str, vni: Vni) -> IfName {
    let name = format!("{prefix}{:x}", vni.get());
    name.parse().unwrap_or_else(|_| IfName::derived(&[&name]))
}

/// Returns the MTU that a network has on a host.
fn mtu(network: &Network, host: &Host, outer: u32) -> Result<Mtu, String> {
    let room = host.mtu.saturating_sub(outer);
    let wanted = network.mtu.map_or(room, Mtu::get);
    let least = least(network);
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

/// Returns the least MTU that a network's links may have.
fn least(network: &Network) -> u32 {
    LEAST[usize::from(network.subnets.iter().any(IpNetwork::is_ipv6))]
}

/// Says that a host's underlay address is in a subnet of the network: packets to that host would go into the tunnel to it.
fn covers_underlay(network: &Network, host: &Host) -> Option<String> {
    if network.isolated {
        return None;
    }
    host.underlay.addresses().find_map(|address| {
        let covers = |subnet: &&IpNetwork| blocks::overlap(**subnet, address.into());
        let subnet = network.subnets.iter().find(covers)?;
        Some(format!("subnet {subnet} overlaps the underlay: host {} is {address}", host.name))
    })
}

#[cfg(test)]
mod tests;
