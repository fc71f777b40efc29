//! What tests publish.

use std::net::IpAddr;

use weft_firewall::{Backend, Fragment, Guard, Hairpin, Publish};
use weft_model::port::{Publication, allowed_of};
use weft_model::{Endpoint, GatewayMode, Gateways};

use crate::lab::{claims, endpoint};

/// Returns what an attachment to the network `n1` publishes; each is `tcp 0.0.0.0:8080 -> 10.1.0.2:80`.
pub(crate) fn publish(container: &str, publications: &[&str]) -> Publish {
    publish_on(&endpoint("n1", container, "eth0"), publications)
}

pub(crate) fn publish_on(endpoint: &Endpoint, publications: &[&str]) -> Publish {
    let nothing = Publish::nothing(
        endpoint.clone(),
        Backend::Weft,
        "/run/weft/ports".into(),
        "/run/weft/locks".into(),
        claims(),
    );
    Publish {
        publications: publications.iter().map(|text| publication(text)).collect(),
        subnets: vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        snat: true,
        ..nothing
    }
}

/// Reads what a publication prints, with `from A,B` after it.
pub(crate) fn publication(text: &str) -> Publication {
    let (text, from) = text.split_once(" from ").unwrap_or((text, ""));
    let (protocol, rest) = text.split_once(' ').unwrap();
    let (host, target) = rest.split_once(" -> ").unwrap();
    let split = |text: &str| -> (IpAddr, String) {
        let (address, ports) = text.rsplit_once(':').unwrap();
        (address.trim_matches(['[', ']']).parse().unwrap(), ports.to_string())
    };
    let ((host, host_ports), (target, target_ports)) = (split(host), split(target));
    let from: Vec<_> =
        from.split(',').filter(|one| !one.is_empty()).map(|one| one.parse().unwrap()).collect();
    let publication = Publication {
        protocol: protocol.parse().unwrap(),
        host,
        host_ports: host_ports.parse().unwrap(),
        target,
        target_ports: target_ports.parse().unwrap(),
        from: allowed_of(&from, host).unwrap(),
    };
    publication.checked().unwrap()
}

pub(crate) fn fragment(publish: Publish) -> Fragment {
    Fragment::Publish(Box::new(publish))
}

pub(crate) fn guard(network: &str, bridge: &str, mode: GatewayMode) -> Fragment {
    Fragment::Guard(Guard {
        network: network.parse().unwrap(),
        bridge: bridge.parse().unwrap(),
        gateways: Gateways { ipv4: mode, ipv6: mode },
        icc: true,
        backend: Backend::Weft,
        claims: claims(),
    })
}

/// Returns what the removal of a network asks for.
pub(crate) fn hairpin(network: &str) -> Fragment {
    Fragment::Hairpin(Hairpin {
        network: network.parse().unwrap(),
        subnets: Vec::new(),
        backend: Backend::Weft,
        claims: claims(),
    })
}
