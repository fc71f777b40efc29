//! The devices of a network on this host, as a plan.

use weft_firewall::{Backend, Fragment, Guard, Hairpin, Isolation};
use weft_model::{GatewayMode, Gateways, IfName};
use weft_plan::{Address, Blackhole, Conflict, Link, Plan, Sysctl, VxlanOptions};
use weft_state::Root;

use super::{ALIAS, LAST, PROTOCOL, uplink};
use crate::ids::vtep_mac;
use crate::local::LocalNetwork;
use crate::records::{Egress, Fastpath};

/// Returns what a network has on this host besides the ways to its peers.
///
/// Containers are on the bridge, whose addresses are their gateways; the VXLAN device is no port of it but a link that
/// the host routes to, so that what one host keeps for another is one route and not one entry for each container.
pub fn devices(local: &LocalNetwork, root: &Root) -> Plan {
    let mut plan = Plan::new();
    plan.network(Link::bridge(&local.bridge).mtu(Some(local.mtu)).up(true));
    // As on any bridge of ours: containers advertise no routes to the host, and nobody waits for the bridge's own
    // link-local address.
    for key in ["accept_ra", "accept_dad"] {
        plan.network(Sysctl::attempt(format!("net/ipv6/conf/{}/{key}", local.bridge), "0"));
    }
    plan.network(
        Link::vxlan(&local.vxlan, vxlan(local))
            .mac(Some(vtep_mac(local.host, local.id)))
            .mtu(Some(local.mtu))
            .up(true),
    );
    if local.blocks.iter().any(|block| block.cidr.is_ipv6()) {
        plan.network(Sysctl::attempt(format!("net/ipv6/conf/{}/disable_ipv6", local.bridge), "0"));
    }
    if !local.lent.is_empty() {
        let keys =
            ["net/ipv6/conf/{}/proxy_ndp", "net/ipv4/neigh/{}/proxy_delay", "net/ipv6/neigh/{}/proxy_delay"];
        for (key, value) in keys.into_iter().zip(["1", "0", "0"]) {
            // KERNEL: an answer for somebody else is put off by up to 0.8 s, for whoever is nearer (pneigh_enqueue).
            plan.network(Sysctl::attempt(key.replace("{}", local.bridge.as_str()), value));
        }
    }
    let mut families = [("net/ipv4/ip_forward", false), ("net/ipv6/conf/all/forwarding", false)];
    for block in &local.blocks {
        if let Ok(address) = ipnetwork::IpNetwork::new(block.gateway, block.cidr.prefix()) {
            plan.network(Address::on(&local.bridge, address).conflict(Conflict::Allow));
        }
        // What nobody has is not sent to the default route, from where it would come back.
        plan.network(Blackhole { dst: block.cidr, metric: LAST, protocol: PROTOCOL });
        families[usize::from(block.cidr.is_ipv6())].1 = true;
    }
    for (key, _) in families.into_iter().filter(|(_, wanted)| *wanted) {
        plan.network(Sysctl::set(key, "1"));
    }
    if !local.isolated {
        plan.extend(fences(local, root).steps);
    } else if uplink::leads_outside(local) {
        plan.network(uplink::masquerade(local, root));
    }
    plan
}

fn vxlan(local: &LocalNetwork) -> VxlanOptions {
    VxlanOptions {
        vni: local.vni.get(),
        port: local.outer.port,
        local: local.outer.local,
        // What WireGuard carries has been authenticated.
        checksum: !local.secure,
        alias: format!("{ALIAS}{}", local.id),
    }
}

/// What keeps others out. In a namespace of its own there are no others.
fn fences(local: &LocalNetwork, root: &Root) -> Plan {
    let mut plan = Plan::new();
    let claims = root.masquerade_dir();
    plan.network(Fragment::Isolation(Isolation {
        network: local.name.clone(),
        bridge: local.bridge.clone(),
        links: vec![local.vxlan.clone()],
        internal: local.egress == Egress::None,
        backend: Backend::Weft,
        claims: claims.clone(),
    }));
    let mode = match local.egress {
        Egress::Nat => GatewayMode::Nat,
        Egress::Routed => GatewayMode::NatUnprotected,
        Egress::None => GatewayMode::Isolated,
    };
    let guard = |link: &IfName| {
        Fragment::Guard(Guard {
            network: local.name.clone(),
            bridge: link.clone(),
            gateways: Gateways { ipv4: mode, ipv6: mode },
            icc: true,
            backend: Backend::Weft,
            claims: claims.clone(),
        })
    };
    plan.network(guard(&local.bridge)).network(guard(&local.vxlan));
    if local.fastpath != Fastpath::Never {
        // What a container answers takes the shortcut, past what would translate it back: so whoever calls a port that is
        // published here gets the gateway's address, which answers go to by the host.
        plan.network(Fragment::Hairpin(Hairpin {
            network: local.name.clone(),
            subnets: local.subnets.clone(),
            backend: Backend::Weft,
            claims,
        }));
    }
    plan
}

/// Returns whether packets from the network to anything else get the host's address.
pub fn outside(local: &LocalNetwork) -> bool {
    !local.isolated && local.egress == Egress::Nat
}
