//! The way outside of an isolated network: a pair of links between its namespace and the host.
//!
//! What leaves gets the address of the namespace's end, and then the host's own (`table inet weft_tunnels`), so two networks with
//! the same subnets stay apart. Nothing enters by it but answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weft_firewall::{Backend, Fragment, Masquerade, UPLINKS};
use weft_model::IfName;
use weft_plan::{Address, Link, Peer, Plan, Route, Sysctl};
use weft_state::Root;

use crate::local::LocalNetwork;
use crate::records::Egress;

/// The end inside the namespace.
const INSIDE: &str = "up0";
/// 169.254.64.0/18 (RFC 3927): away from what clouds and clusters put into the rest of 169.254.0.0/16.
const V4: u32 = 0xa9fe_4000;
/// How many pairs of addresses there are in it.
const PAIRS: u32 = 1 << 13;
/// fd77:6566:7475::/48 (RFC 4193), for every host alike: it never leaves one.
const V6: u128 = 0xfd77_6566_7475 << 80;

/// Returns whether a network of its own namespace reaches the outside by its hosts.
pub fn leads_outside(local: &LocalNetwork) -> bool {
    local.isolated && local.egress == Egress::Nat
}

/// Returns which of the pairs of IPv4 addresses is a network's. Two networks of one pair cannot be on one host.
pub(crate) fn pair(local: &LocalNetwork) -> u32 {
    local.vni.get() % PAIRS
}

/// Returns the addresses of both ends, the host's first, and the length of their prefix.
fn ends(local: &LocalNetwork, v4: bool) -> Option<[IpNetwork; 2]> {
    let ends: [IpAddr; 2] = if v4 {
        let first = V4 + pair(local) * 2;
        [Ipv4Addr::from_bits(first).into(), Ipv4Addr::from_bits(first + 1).into()]
    } else {
        let first = V6 + u128::from(local.vni.get()) * 2;
        [Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(first + 1).into()]
    };
    let [host, inside] = ends.map(|end| IpNetwork::new(end, if v4 { 31 } else { 127 }).ok());
    Some([host?, inside?])
}

/// Returns the pair of links with their addresses, for the host and, in the container's place, the network's namespace.
/// Empty for a network that needs none.
pub(crate) fn uplink(local: &LocalNetwork) -> Plan {
    let mut plan = Plan::new();
    let names = (format!("{UPLINKS}{:x}", local.vni.get()).parse::<IfName>(), INSIDE.parse::<IfName>());
    let (Ok(outer), Ok(inner)) = names else { return plan };
    if !leads_outside(local) {
        return plan;
    }
    plan.host(Link::veth(&outer, Peer::container(&inner)).mtu(Some(local.mtu)).up(true));
    plan.container(Link::existing(&inner).up(true));
    for v4 in [true, false] {
        let wanted = local.blocks.iter().any(|block| block.cidr.is_ipv4() == v4);
        let Some([host, inside]) = ends(local, v4).filter(|_| wanted) else { continue };
        plan.host(Address::on(&outer, host)).container(Address::on(&inner, inside));
        let any = if v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        if let Ok(any) = IpNetwork::new(any, 0) {
            plan.container(Route::to(any, &inner).via(Some(host.ip())));
        }
        plan.host(Sysctl::set(if v4 { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" }, "1"));
    }
    plan
}

/// Returns what gives packets that leave the namespace its own address. Its books are the network's alone, as its firewall is.
pub(crate) fn masquerade(local: &LocalNetwork, root: &Root) -> Fragment {
    Fragment::Masquerade(Masquerade {
        network: local.name.clone(),
        subnets: local.subnets.clone(),
        endpoint: None,
        addresses: Vec::new(),
        backend: Backend::Weft,
        claims: root.overlay_run_dir().join("claims").join(local.name.as_str()),
    })
}
