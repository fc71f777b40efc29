//! What a container at the end of a veth pair needs, as plans.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::{Code, Failure, IpConfig};
use weft_model::Endpoint;
use weft_plan::{Address, Link, Peer, Plan, Rivals, Route, Sysctl};
use weft_plugin::{Leases, Masqueraded};

use crate::conf::Settings;

/// The scope of a route that leads to one container, as the reference plugin writes it (RT_SCOPE_HOST).
const SCOPE_HOST: u8 = 254;
/// The scope of the way to the gateway (RT_SCOPE_LINK).
const SCOPE_LINK: u8 = 253;

/// Returns what needs no address: the pair.
pub(crate) fn links(settings: &Settings, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    let host_end = endpoint.host_ifname();
    let peer = Peer::container(&endpoint.ifname).mac(settings.mac);
    plan.host(Link::veth(&host_end, peer).mtu(settings.mtu).up(true));
    // A router advertisement from a container must not reconfigure the host (CVE-2020-13401).
    plan.host(Sysctl::attempt(format!("net/ipv6/conf/{host_end}/accept_ra"), "0"));
    plan
}

/// Completes what the IPAM plugin returned.
pub(crate) fn resolve(leases: Leases) -> Result<Leases, Failure> {
    for IpConfig { address, gateway, .. } in &leases.ips {
        if gateway.is_none() {
            let text = format!("IPAM plugin returned no gateway for {address}: the host's end needs one");
            let hint = "give the range a \"gateway\"";
            return Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint.into())));
        }
    }
    Ok(leases)
}

/// Returns what is built on the pair once addresses are known.
pub(crate) fn addresses(settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    let ifname = &endpoint.ifname;
    let v6 = leases.ips.iter().any(|ip| ip.address.is_ipv6());
    plan.extend(forwarding(leases).steps);
    if v6 {
        // Usable at once: nobody else is on the link.
        plan.container(Sysctl::attempt(format!("net/ipv6/conf/{ifname}/accept_dad"), "0"));
    }
    plan.container(Link::existing(ifname).up(true));
    // Only the gateway is on the link, whatever the length of the prefix says.
    leases.configure_addresses(&mut plan, ifname, Address::without_prefix_route);
    for ip in &leases.ips {
        plan.extend(ways_out(ip, endpoint).steps);
    }
    leases.configure_routes(&mut plan, ifname);
    plan.extend(host_side(endpoint, leases).steps);
    if let Some(backend) = settings.masquerade {
        let translated = Masqueraded { network: &settings.network, claims: &settings.claims, backend };
        plan.host(translated.fragment(Some(endpoint), &leases.addresses()));
    }
    plan
}

/// Returns what the network's containers share, for its removal.
pub(crate) fn network(settings: &Settings) -> Plan {
    let mut plan = Plan::new();
    if let Some(backend) = settings.masquerade {
        let translated = Masqueraded { network: &settings.network, claims: &settings.claims, backend };
        plan.network(translated.fragment(None, &[]));
    }
    plan
}

/// The host routes for the families there are addresses of.
fn forwarding(leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    let has = |v4| leases.ips.iter().any(|ip| ip.address.is_ipv4() == v4);
    for (v4, key) in [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")] {
        if has(v4) {
            plan.network(Sysctl::set(key, "1"));
        }
    }
    plan
}

/// The container's way to the gateway and, by it, to the rest of its network.
fn ways_out(ip: &IpConfig, endpoint: &Endpoint) -> Plan {
    let mut plan = Plan::new();
    let Some(gateway) = ip.gateway else { return plan };
    let src = Some(ip.address.ip());
    let to = |dst: IpNetwork| Route::to(dst, &endpoint.ifname).src(src).rivals(Rivals::Join);
    plan.container(to(IpNetwork::from(gateway)).scope(Some(SCOPE_LINK)));
    if let Ok(network) = IpNetwork::new(ip.address.network(), ip.address.prefix())
        && !is_one_address(&network)
    {
        plan.container(to(network).via(Some(gateway)));
    }
    plan
}

/// The gateway's addresses on the host's end, and the ways to the container's.
fn host_side(endpoint: &Endpoint, leases: &Leases) -> Plan {
    let mut plan = Plan::new();
    let host_end = endpoint.host_ifname();
    let gateways = || leases.ips.iter().filter_map(|ip| ip.gateway);
    if gateways().any(|gateway| gateway.is_ipv6()) {
        plan.host(Sysctl::attempt(format!("net/ipv6/conf/{host_end}/disable_ipv6"), "0"));
    }
    let mut given: Vec<IpAddr> = Vec::new();
    for gateway in gateways() {
        // Several addresses may have one gateway.
        if !given.contains(&gateway) {
            given.push(gateway);
            plan.host(Address::on(&host_end, IpNetwork::from(gateway)));
        }
    }
    for ip in &leases.ips {
        // A route that leads to the address somewhere else is that of a container that is gone: the address was
        // just given to this one.
        let route = Route::to(IpNetwork::from(ip.address.ip()), &host_end);
        plan.host(route.scope(Some(SCOPE_HOST)).rivals(Rivals::Replace));
    }
    plan
}

fn is_one_address(network: &IpNetwork) -> bool {
    network.prefix() == if network.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use weft_firewall::Backend;
    use weft_model::Mtu;

    use super::*;

    fn settings(masquerade: Option<Backend>) -> Settings {
        Settings {
            network: "net".parse().unwrap(),
            masquerade,
            claims: PathBuf::new(),
            mtu: Some(Mtu::ETHERNET),
            mac: Some("02:00:00:00:00:07".parse().unwrap()),
        }
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            network: "net".parse().unwrap(),
            container: "red".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn ip(address: &str, gateway: &str) -> IpConfig {
        IpConfig { address: address.parse().unwrap(), gateway: gateway.parse().ok(), interface: None }
    }

    fn whole(settings: &Settings, leases: Leases) -> String {
        let leases = resolve(leases).unwrap();
        format!("{}--\n{}", links(settings, &endpoint()), addresses(settings, &endpoint(), &leases))
    }

    #[test]
    fn one_address_with_a_default_route() {
        let routes = vec![weft_cni::Route::new("0.0.0.0/0".parse().unwrap(), None)];
        let leases = Leases { ips: vec![ip("10.1.2.5/24", "10.1.2.1")], routes, ..Leases::default() };
        insta::assert_snapshot!(whole(&settings(Some(Backend::Weft)), leases), @r#"
        host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 up
        host       sysctl net/ipv6/conf/veth6355b07527c/accept_ra = 0 if present
        --
        network    sysctl net/ipv4/ip_forward = 1
        container  link eth0 up
        container  addr 10.1.2.5/24 dev eth0 noprefixroute
        container  route 10.1.2.1/32 dev eth0 src 10.1.2.5 scope 253 append
        container  route 10.1.2.0/24 via 10.1.2.1 dev eth0 src 10.1.2.5 append
        container  route default via 10.1.2.1 dev eth0 append
        host       addr 10.1.2.1/32 dev veth6355b07527c
        host       route 10.1.2.5/32 dev veth6355b07527c scope 254 replacing others
        host       masquerade 10.1.2.0/24 of net by weft
        "#);
    }

    #[test]
    fn both_families_and_two_addresses_with_one_gateway() {
        let ips = vec![
            ip("10.1.2.5/24", "10.1.2.1"),
            ip("10.1.2.6/32", "10.1.2.1"),
            ip("2001:db8::5/64", "2001:db8::1"),
        ];
        let leases = Leases { ips, ..Leases::default() };
        insta::assert_snapshot!(whole(&settings(None), leases), @r#"
        host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 up
        host       sysctl net/ipv6/conf/veth6355b07527c/accept_ra = 0 if present
        --
        network    sysctl net/ipv4/ip_forward = 1
        network    sysctl net/ipv6/conf/all/forwarding = 1
        container  sysctl net/ipv6/conf/eth0/accept_dad = 0 if present
        container  link eth0 up
        container  sysctl net/ipv6/conf/lo/disable_ipv6 = 0 if present
        container  sysctl net/ipv6/conf/eth0/disable_ipv6 = 0 if present
        container  sysctl net/ipv6/conf/eth0/keep_addr_on_down = 1 if present
        container  addr 10.1.2.5/24 dev eth0 noprefixroute
        container  addr 10.1.2.6/32 dev eth0 noprefixroute
        container  addr 2001:db8::5/64 dev eth0 noprefixroute
        container  route 10.1.2.1/32 dev eth0 src 10.1.2.5 scope 253 append
        container  route 10.1.2.0/24 via 10.1.2.1 dev eth0 src 10.1.2.5 append
        container  route 10.1.2.1/32 dev eth0 src 10.1.2.6 scope 253 append
        container  route 2001:db8::1/128 dev eth0 src 2001:db8::5 scope 253 append
        container  route 2001:db8::/64 via 2001:db8::1 dev eth0 src 2001:db8::5 append
        host       sysctl net/ipv6/conf/veth6355b07527c/disable_ipv6 = 0 if present
        host       addr 10.1.2.1/32 dev veth6355b07527c
        host       addr 2001:db8::1/128 dev veth6355b07527c
        host       route 10.1.2.5/32 dev veth6355b07527c scope 254 replacing others
        host       route 10.1.2.6/32 dev veth6355b07527c scope 254 replacing others
        host       route 2001:db8::5/128 dev veth6355b07527c scope 254 replacing others
        "#);
    }

    #[test]
    fn an_address_needs_a_gateway() {
        let refused = resolve(Leases { ips: vec![ip("10.1.2.5/24", "")], ..Leases::default() }).unwrap_err();
        assert_eq!(
            (refused.code, refused.msg.as_str()),
            (
                Code::InvalidConfig,
                "IPAM plugin returned no gateway for 10.1.2.5/24: the host's end needs one"
            )
        );
    }

    #[test]
    fn what_the_network_owns() {
        assert_eq!(network(&settings(None)).to_string(), "");
        insta::assert_snapshot!(network(&settings(Some(Backend::Weft))), @r#"
        network    masquerade of net by weft
        "#);
    }
}
