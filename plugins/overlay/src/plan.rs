//! What a container on an overlay needs, as plans.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::{Code, Failure, Route};
use weft_firewall::{Backend, Fragment, Masquerade};
use weft_model::Endpoint;
use weft_overlay::kernel::{devices, leads_outside as uplink, outgoing_shortcut, outside};
use weft_overlay::local::LocalNetwork;
use weft_overlay::records::Egress;
use weft_plan::{Link, Peer, Plan, Port, Sysctl};
use weft_plugin::Leases;

use crate::Settings;

/// Returns what needs no address: the network's devices and the container's veth pair.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    let peer = Peer::container(&endpoint.ifname).mac(settings.mac);
    let pair = Link::veth(&endpoint.host_ifname(), peer);
    let Some(local) = &settings.local else {
        plan.host(pair);
        return plan;
    };
    plan.extend(devices(local, &settings.root).steps);
    plan.host(pair.mtu(Some(local.mtu)).port(Port::of(&local.bridge)).up(true));
    if let Some(shortcut) = outgoing_shortcut(local, &endpoint.host_ifname()) {
        plan.host(shortcut);
    }
    plan
}

/// Completes what the IPAM plugin returned: containers reach the whole network by their gateway, and the outside if
/// the network leads there.
pub(crate) fn resolve(settings: &Settings, mut leases: Leases) -> Result<Leases, Failure> {
    let local = settings.required()?;
    for ip in &mut leases.ips {
        let address = ip.address.ip();
        let own = local.blocks.iter().find(|block| block.cidr.contains(address));
        let gateway =
            own.or_else(|| local.blocks.iter().find(|block| block.cidr.is_ipv4() == address.is_ipv4()));
        let gateway = gateway.ok_or_else(|| homeless(local, address))?.gateway;
        ip.gateway = Some(gateway);
        // Around an address that was borrowed are those of other hosts.
        if own.is_none() {
            ip.address = IpNetwork::from(address);
        }
    }
    for v4 in [true, false] {
        let gateway = leases.ips.iter().filter(|ip| ip.address.is_ipv4() == v4).find_map(|ip| ip.gateway);
        let Some(gateway) = gateway else { continue };
        let subnets = local.subnets.iter().filter(|subnet| subnet.is_ipv4() == v4);
        leases.routes.extend(subnets.map(|subnet| Route::new(*subnet, Some(gateway))));
        let given = |route: &Route| route.dst.prefix() == 0 && route.dst.is_ipv4() == v4;
        if leads_outside(local) && !leases.routes.iter().any(given) {
            leases.routes.extend(any(v4).map(|any| Route::new(any, Some(gateway))));
        }
    }
    Ok(leases)
}

fn homeless(local: &LocalNetwork, address: IpAddr) -> Failure {
    let text = format!("this host has no block of network {}, and so no gateway for {address}", local.name);
    Failure::text(Code::TryAgainLater, text)
        .with_hint(Some("weft overlay status shows this host's blocks".into()))
}

fn leads_outside(local: &LocalNetwork) -> bool {
    uplink(local) || (!local.isolated && local.egress != Egress::None)
}

fn any(v4: bool) -> Option<IpNetwork> {
    let any: IpAddr = if v4 { [0; 4].into() } else { [0; 16].into() };
    IpNetwork::new(any, 0).ok()
}

/// Returns what is built on the links once addresses are known.
pub(crate) fn addresses(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    let ifname = &endpoint.ifname;
    plan.container(Sysctl::attempt(format!("net/ipv4/conf/{ifname}/arp_notify"), "1"));
    let v6 = leases.ips.iter().any(|ip| ip.address.is_ipv6());
    if v6 {
        plan.container(Sysctl::attempt(format!("net/ipv6/conf/{ifname}/accept_dad"), "0"));
    }
    plan.container(Link::existing(ifname).link_local(v6).up(true));
    leases.configure_addresses(&mut plan, ifname, |address| address);
    let Some(local) = &settings.local else { return plan };
    for ip in &leases.ips {
        let address = ip.address.ip();
        if local.blocks.iter().any(|block| block.cidr.contains(address)) {
            continue;
        }
        // Its block is another host's, or nobody's.
        plan.host(weft_plan::Route::to(ip.address, &local.bridge));
        if let Some(gateway) = ip.gateway {
            plan.container(weft_plan::Route::to(IpNetwork::from(gateway), ifname));
        }
    }
    leases.configure_routes(&mut plan, ifname);
    if outside(local) {
        plan.host(masquerade(settings, local, Some(endpoint), leases.addresses()));
    }
    plan
}

/// Packets to any host's part of the network keep the container's address.
fn masquerade(
    settings: &Settings,
    local: &LocalNetwork,
    endpoint: Option<&Endpoint>,
    addresses: Vec<IpNetwork>,
) -> Fragment {
    Fragment::Masquerade(Masquerade {
        network: local.name.clone(),
        subnets: local.subnets.clone(),
        endpoint: endpoint.cloned(),
        addresses,
        backend: Backend::Weft,
        claims: settings.root.masquerade_dir(),
    })
}

/// Returns what the network's containers share, for its removal.
pub(crate) fn network(settings: &Settings) -> Plan {
    let mut plan = Plan::new();
    let Some(local) = &settings.local else { return plan };
    plan.extend(devices(local, &settings.root).steps);
    if outside(local) {
        plan.network(masquerade(settings, local, None, Vec::new()));
    }
    plan
}

#[cfg(test)]
mod tests;
