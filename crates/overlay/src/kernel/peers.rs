//! The ways to a network's peers: for each a neighbour, a forwarding entry, and a route for each of its blocks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::Mac;
use weft_netlink::neighbour::{self, Neighbour, NeighbourTable};
use weft_netlink::route::{self, RouteInfo, RouteKind};
use weft_netlink::{Error, Request, Socket};

use super::PROTOCOL;
use crate::desired::DesiredNetwork;
use crate::records::Fastpath;

/// Entries and routes of one VXLAN device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ways {
    /// By table and by what the kernel tells them apart by.
    entries: BTreeMap<Place, Neighbour>,
    routes: BTreeMap<IpNetwork, RouteInfo>,
}

/// What the kernel tells entries apart by: a neighbour's address, a forwarding entry's Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Neighbour(IpAddr),
    Forwarding([u8; 6]),
}

/// What a difference between the kernel and what is desired is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A device, what it has besides ways to peers, or the guard.
    Device,
    /// A route to a peer's addresses.
    Route(IpNetwork),
    /// The neighbour that such a route leads by.
    Neighbour(IpAddr),
    /// The entry that says behind which host a neighbour is.
    Forwarding(Mac),
    /// An address behind a peer that the host answers for on the network's bridge.
    Answer(IpAddr),
    /// That packets pass by the firewall. Without, they arrive all the same.
    Shortcut,
    /// That this kernel does not have what is desired, so that nothing mends it.
    Incapable,
}

impl Subject {
    /// Tells whether it is no part of the way to one peer, so that every way needs it.
    pub fn is_of_all_peers(self) -> bool {
        matches!(self, Self::Device | Self::Answer(_))
    }

    fn of(entry: &Neighbour) -> Self {
        match entry.table {
            NeighbourTable::Address => Self::Neighbour(entry.address),
            NeighbourTable::Forwarding => Self::Forwarding(entry.mac),
            NeighbourTable::Proxy => Self::Answer(entry.address),
        }
    }
}

/// One thing to do, and what it is about.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) request: Request,
    pub(crate) subject: Subject,
    pub(crate) what: String,
    /// Whether something is taken away.
    pub(crate) removes: bool,
    /// Whether it is something of ours that is there already, and is another now.
    pub(crate) changes: bool,
}

impl Ways {
    /// Returns what should be there.
    pub(crate) fn wanted(network: &DesiredNetwork, index: u32) -> Self {
        let mut wanted = Self::default();
        let source = |v4: bool| {
            let of_family = |block: &&crate::local::LocalBlock| block.cidr.is_ipv4() == v4;
            network.local.blocks.iter().find(of_family).map(|block| block.gateway)
        };
        let sources = [source(false), source(true)];
        for peer in &network.peers {
            let entry =
                |table, address| Neighbour { index, table, mac: peer.mac, address, protocol: PROTOCOL };
            let forwarding = entry(NeighbourTable::Forwarding, peer.outer);
            wanted.entries.insert(Place::of(&forwarding), forwarding);
            for route in &peer.routes {
                let Some(hop) = peer.next_hop(route.is_ipv4()) else { continue };
                let neighbour = entry(NeighbourTable::Address, hop);
                wanted.entries.insert(Place::of(&neighbour), neighbour);
                let info = RouteInfo {
                    dst: *route,
                    gateway: Some(hop),
                    src: sources[usize::from(route.is_ipv4())],
                    index,
                    metric: None,
                    table: route::MAIN,
                    scope: 0,
                    mtu: peer.mtu.map(weft_model::Mtu::get),
                    mtu_locked: network.local.fastpath != Fastpath::Never && peer.mtu.is_some(),
                    advmss: None,
                    kind: RouteKind::Unicast,
                    protocol: PROTOCOL,
                    onlink: true,
                };
                wanted.routes.insert(*route, info);
            }
        }
        wanted
    }

    /// Returns what is there.
    pub(crate) fn observed(socket: &mut Socket, index: u32) -> Result<Self, Error> {
        let entries = neighbour::of_link(socket, index)?;
        let routes = route::of_protocol(socket, PROTOCOL)?;
        let ours =
            routes.into_iter().filter(|route| route.index == index && route.kind == RouteKind::Unicast);
        Ok(Self {
            entries: entries.into_iter().map(|entry| (Place::of(&entry), entry)).collect(),
            routes: ours.map(|route| (route.dst, route)).collect(),
        })
    }

    /// Returns what makes `observed` what is wanted: first what a route needs, then the routes; taking away goes the
    /// other way.
    pub(crate) fn steps_from(&self, observed: &Self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (dst, route) in &observed.routes {
            if !self.routes.contains_key(dst) {
                steps.push(Step::remove(route::delete(route), About::route(route)));
            }
        }
        for (place, entry) in &self.entries {
            let found = observed.entries.get(place);
            if !found.is_some_and(|found| same(entry, found)) {
                steps.push(Step::make(neighbour::replace(entry), About::entry(entry), found.is_some()));
            }
        }
        for (dst, route) in &self.routes {
            match observed.routes.get(dst) {
                Some(found) if meets(route, found) => {}
                Some(_) => steps.push(Step::make(route::replace(route), About::route(route), true)),
                None => steps.push(Step::make(route::add(route, false), About::route(route), false)),
            }
        }
        for (place, entry) in observed.entries.iter().rev() {
            if !self.entries.contains_key(place) && entry.is_ours() {
                steps.push(Step::remove(neighbour::delete(entry), About::entry(entry)));
            }
        }
        steps
    }
}

/// Returns what makes the host answer on a network's bridge for addresses that are behind its peers, and for no others.
///
/// Around such an address containers have neighbours on their link, so they ask for it there.
pub(crate) fn answers(socket: &mut Socket, bridge: u32, behind: &[IpAddr]) -> Result<Vec<Step>, Error> {
    let observed = neighbour::proxies_of_link(socket, bridge)?;
    let entry = |address: &IpAddr| Neighbour {
        index: bridge,
        table: NeighbourTable::Proxy,
        mac: Mac([0; 6]),
        address: *address,
        protocol: PROTOCOL,
    };
    let is_there = |address: &&IpAddr| observed.iter().any(|found| found.address == **address);
    let missing = behind.iter().filter(|address| !is_there(address)).map(entry);
    let over = observed.iter().filter(|found| found.is_ours() && !behind.contains(&found.address));
    let make = |entry: Neighbour| Step::make(neighbour::replace(&entry), About::entry(&entry), false);
    let remove = |entry: &Neighbour| Step::remove(neighbour::delete(entry), About::entry(entry));
    Ok(missing.map(make).chain(over.map(remove)).collect())
}

impl Place {
    fn of(entry: &Neighbour) -> Self {
        match entry.table {
            NeighbourTable::Address | NeighbourTable::Proxy => Self::Neighbour(entry.address),
            NeighbourTable::Forwarding => Self::Forwarding(entry.mac.0),
        }
    }
}

/// What a step is about, for programs and for people.
struct About(Subject, String);

impl About {
    fn route(route: &RouteInfo) -> Self {
        Self(Subject::Route(route.dst), route_text(route))
    }

    fn entry(entry: &Neighbour) -> Self {
        Self(Subject::of(entry), entry_text(entry))
    }
}

impl Step {
    fn make(request: Request, About(subject, what): About, changes: bool) -> Self {
        Self { request, subject, what, removes: false, changes }
    }

    fn remove(request: Request, About(subject, what): About) -> Self {
        Self { request, subject, what, removes: true, changes: false }
    }
}

trait Owned {
    fn is_ours(&self) -> bool;
}

impl Owned for Neighbour {
    /// KERNEL: a VXLAN device's forwarding entries do not keep who made them (vxlan_fdb_info): the whole device is
    /// ours by its alias. Neighbours do.
    fn is_ours(&self) -> bool {
        self.table == NeighbourTable::Forwarding || self.protocol == PROTOCOL
    }
}

fn same(wanted: &Neighbour, found: &Neighbour) -> bool {
    (wanted.mac, wanted.address) == (found.mac, found.address)
}

fn meets(wanted: &RouteInfo, found: &RouteInfo) -> bool {
    let more = |route: &RouteInfo| (route.mtu, route.mtu_locked, route.src, route.onlink);
    wanted.is_met_by(found) && more(wanted) == more(found)
}

fn route_text(route: &RouteInfo) -> String {
    let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let mtu = route.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    format!("route {}{gateway}{mtu}", route.dst)
}

fn entry_text(entry: &Neighbour) -> String {
    match entry.table {
        NeighbourTable::Address => format!("neighbour {} lladdr {}", entry.address, entry.mac),
        NeighbourTable::Forwarding => format!("fdb {} dst {}", entry.mac, entry.address),
        NeighbourTable::Proxy => format!("answer for {}", entry.address),
    }
}
