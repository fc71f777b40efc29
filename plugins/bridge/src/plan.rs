//! What a container on a bridge needs, as plans.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::{Failure, IpConfig, Route};
use weft_firewall::{APART, Backend, Fragment, Guard, Isolation, SourceAddress, SpoofCheck};
use weft_model::{Endpoint, GatewayMode, IfName, VlanId};
use weft_plan::{Address, BridgeVlan, Conflict, Link, Peer, Plan, Port, Sysctl, VlanRange};
use weft_plugin::{Leases, Masqueraded};

use crate::conf::{Gateway, Settings, Vlans};

/// Returns what needs no address: the bridge and the container's veth pair.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    plan.network(bridge(settings));
    // A router advertisement from a container must not reconfigure the host (CVE-2020-13401).
    plan.network(Sysctl::attempt(format!("net/ipv6/conf/{}/accept_ra", settings.bridge), "0"));
    if !settings.dad {
        // Its own link-local address is not probed either: until that is over, nothing answers for the gateway,
        // and the first packets from outside are lost. The address follows from a random MAC address of ours.
        plan.network(Sysctl::attempt(format!("net/ipv6/conf/{}/accept_dad", settings.bridge), "0"));
    }
    let host_end = endpoint.host_ifname();
    let port = Port {
        bridge: settings.bridge.clone(),
        hairpin: settings.hairpin,
        isolated: settings.port_isolation,
        group: settings.keeps_apart().then_some(APART),
    };
    let peer = Peer::container(&endpoint.ifname).mac(settings.mac);
    plan.host(Link::veth(&host_end, peer).mtu(settings.mtu).port(port).up(true));
    if let Vlans::Port { untagged, tagged, keep_default } = &settings.vlans {
        plan.host(BridgeVlan::port(&host_end, ranges(*untagged, tagged)).keep_default(*keep_default));
    }
    // Behind the pair: whoever undoes an ADD sees by the port that this network is in use.
    plan.extend(fences(settings).steps);
    if settings.spoof_check {
        plan.host(Fragment::SpoofCheck(SpoofCheck {
            host_ifname: host_end,
            mac: settings.mac,
            endpoint: endpoint.clone(),
            claims: settings.claims.clone(),
        }));
    }
    plan
}

/// Completes what the IPAM plugin returned.
pub(crate) fn resolve(settings: &Settings, mut leases: Leases) -> Result<Leases, Failure> {
    if settings.gateway != Gateway::None {
        for ip in &mut leases.ips {
            ip.gateway = ip.gateway.or_else(|| first_host(ip.address));
        }
    }
    for ip in &mut leases.ips {
        // DOCKER: the host has no address on the network, and nothing leads out of it.
        ip.gateway = ip.gateway.filter(|_| settings.gateways.of(ip.address.ip()) != GatewayMode::Isolated);
    }
    if settings.gateway == Gateway::DefaultRoute {
        for v4 in [true, false] {
            leases.routes.extend(default_route(&leases, v4));
        }
    }
    Ok(leases)
}

/// The default route of one family, unless the IPAM plugin has given one with a gateway.
fn default_route(leases: &Leases, v4: bool) -> Option<Route> {
    let given = |route: &Route| route.dst.prefix() == 0 && route.dst.is_ipv4() == v4 && route.gw.is_some();
    if leases.routes.iter().any(given) {
        return None;
    }
    let gateway = leases.ips.iter().filter(|ip| ip.address.is_ipv4() == v4).find_map(|ip| ip.gateway)?;
    let any = if v4 { IpNetwork::new([0; 4].into(), 0) } else { IpNetwork::new([0; 16].into(), 0) };
    Some(Route::new(any.ok()?, Some(gateway)))
}

/// Returns what is built on the links once addresses are known.
pub(crate) fn addresses(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    let ifname = &endpoint.ifname;
    if settings.container_up {
        if settings.addressed {
            plan.container(Sysctl::attempt(format!("net/ipv4/conf/{ifname}/arp_notify"), "1"));
        }
        if leases.ips.iter().any(|ip| ip.address.is_ipv6()) {
            // Without probing, the link-local address is usable at once, too.
            let probes = if settings.dad { "1" } else { "0" };
            for key in
                ["enhanced_dad", "accept_dad"].into_iter().filter(|key| settings.dad || *key == "accept_dad")
            {
                plan.container(Sysctl::attempt(format!("net/ipv6/conf/{ifname}/{key}"), probes));
            }
        }
        plan.container(Link::existing(ifname).link_local(needs_link_local(settings, leases)).up(true));
    }
    leases.configure(&mut plan, ifname, settings.dad);
    plan.extend(gateway(settings, leases).steps);
    if let Some(backend) = settings.masquerade {
        let mut addresses = leases.addresses();
        addresses.retain(|address| settings.gateways.of(address.ip()).translates());
        if !addresses.is_empty() {
            plan.extend(source(settings, backend, &addresses).steps);
            plan.host(masquerade(settings, backend, Some(endpoint), &addresses));
        }
    }
    plan
}

/// Returns whether the container's end takes a link-local IPv6 address. One that is routed by the host and has IPv4
/// addresses alone has nobody to speak IPv6 to, and announcing itself goes to every port of the bridge: that is
/// what makes the thousandth container dearer than the first.
fn needs_link_local(settings: &Settings, leases: &Leases) -> bool {
    settings.gateway == Gateway::None
        || leases.ips.is_empty()
        || leases.ips.iter().any(|ip| ip.address.is_ipv6())
}

/// What keeps the network apart, if anything does.
fn fences(settings: &Settings) -> Plan {
    let mut plan = Plan::new();
    let carrier = || {
        let carrier = settings.vlan_gateway_name().ok().flatten().map(|(carrier, _)| carrier);
        carrier.unwrap_or_else(|| settings.bridge.clone())
    };
    if let Some(isolation) = settings.isolation {
        plan.network(Fragment::Isolation(Isolation {
            network: settings.network.clone(),
            bridge: carrier(),
            links: Vec::new(),
            internal: isolation.internal,
            backend: isolation.backend,
            claims: settings.claims.clone(),
        }));
    }
    if let Some(backend) = settings.guard {
        plan.network(Fragment::Guard(Guard {
            network: settings.network.clone(),
            bridge: carrier(),
            gateways: settings.gateways,
            icc: !settings.port_isolation,
            backend,
            claims: settings.claims.clone(),
        }));
    }
    plan
}

/// The addresses of the host that packets leave with, if they were named.
fn source(settings: &Settings, backend: Backend, addresses: &[IpNetwork]) -> Plan {
    let mut plan = Plan::new();
    if !settings.sources.is_empty() || addresses.is_empty() {
        plan.network(Fragment::SourceAddress(SourceAddress {
            network: settings.network.clone(),
            subnets: addresses.iter().map(subnet).collect(),
            addresses: settings.sources.clone(),
            backend,
            claims: settings.claims.clone(),
        }));
    }
    plan
}

fn masquerade(
    settings: &Settings,
    backend: Backend,
    of: Option<&Endpoint>,
    addresses: &[IpNetwork],
) -> Fragment {
    Masqueraded { network: &settings.network, claims: &settings.claims, backend }.fragment(of, addresses)
}

/// The gateway's addresses on the bridge, or on a link of its own inside the containers' VLAN.
fn gateway(settings: &Settings, leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    if settings.gateway == Gateway::None {
        return plan;
    }
    let mut carrier = settings.bridge.clone();
    if let Ok(Some((name, vlan))) = settings.vlan_gateway_name() {
        plan.extend(vlan_link(settings, &name, vlan).steps);
        carrier = name;
    }
    let conflict = if settings.force_address { Conflict::Replace } else { Conflict::Refuse };
    let mut families = BTreeSet::new();
    for IpConfig { address, gateway, .. } in &leases.ips {
        let Some(network) = gateway.and_then(|ip| IpNetwork::new(ip, address.prefix()).ok()) else {
            continue;
        };
        if network.is_ipv6() && families.insert("net/ipv6/conf/all/forwarding") {
            plan.network(Sysctl::attempt(format!("net/ipv6/conf/{carrier}/disable_ipv6"), "0"));
        }
        plan.network(Address::on(&carrier, network).conflict(conflict));
        families.insert(if network.is_ipv4() {
            "net/ipv4/ip_forward"
        } else {
            "net/ipv6/conf/all/forwarding"
        });
    }
    for key in families {
        plan.network(Sysctl::set(key, "1"));
    }
    plan
}

/// A veth pair inside the host: `<bridge>.<vlan>` carries the address, its other end is a port in the VLAN.
fn vlan_link(settings: &Settings, carrier: &IfName, vlan: VlanId) -> Plan {
    let mut plan = Plan::new();
    let port_end = port_end_name(settings, carrier);
    let port = Port::of(&settings.bridge);
    plan.network(Link::veth(&port_end, Peer::host(carrier)).mtu(settings.mtu).port(port).up(true));
    let keep = matches!(settings.vlans, Vlans::Port { keep_default: true, .. });
    plan.network(BridgeVlan::port(&port_end, vec![VlanRange::access(vlan)]).keep_default(keep));
    plan.network(Link::existing(carrier).up(true));
    plan
}

/// Returns what the network's containers share, for its removal.
pub(crate) fn network(settings: &Settings) -> Plan {
    let mut plan = Plan::new();
    plan.network(bridge(settings));
    if let Ok(Some((carrier, vlan))) = settings.vlan_gateway_name() {
        plan.extend(vlan_link(settings, &carrier, vlan).steps);
    }
    plan.extend(fences(settings).steps);
    if let Some(backend) = settings.masquerade {
        plan.extend(source(settings, backend, &[]).steps);
        plan.network(masquerade(settings, backend, None, &[]));
    }
    plan
}

fn bridge(settings: &Settings) -> Link {
    Link::bridge(&settings.bridge)
        .mtu(settings.mtu)
        .vlan_filtering(settings.vlans != Vlans::Off)
        .promisc(settings.promisc)
        .up(true)
}

/// The port's VLANs as ranges: the untagged one, then the tagged ones, neighbours joined.
fn ranges(untagged: Option<VlanId>, tagged: &BTreeSet<VlanId>) -> Vec<VlanRange> {
    let mut ranges: Vec<VlanRange> = Vec::new();
    for &vlan in tagged.iter().filter(|vlan| Some(**vlan) != untagged) {
        match ranges.last_mut() {
            Some(range) if range.last.get() + 1 == vlan.get() => range.last = vlan,
            _ => ranges.push(VlanRange::tagged(vlan, vlan)),
        }
    }
    untagged.map(VlanRange::access).into_iter().chain(ranges).collect()
}

/// The other end of the VLAN's gateway link: derived, so that it is found again.
fn port_end_name(settings: &Settings, carrier: &IfName) -> IfName {
    IfName::derived(&[settings.bridge.as_str(), carrier.as_str()])
}

/// The network an address is in.
fn subnet(address: &IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(*address)
}

/// The first address after the network's own, which is the gateway where nobody names one.
fn first_host(address: IpNetwork) -> Option<IpAddr> {
    match address.network() {
        IpAddr::V4(network) => u32::from(network).checked_add(1).map(|ip| IpAddr::V4(ip.into())),
        IpAddr::V6(network) => u128::from(network).checked_add(1).map(|ip| IpAddr::V6(ip.into())),
    }
}

#[cfg(test)]
mod tests;
