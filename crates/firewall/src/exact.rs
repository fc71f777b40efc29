//! Ranges of ports whose translation has to be exact.
//!
//! KERNEL: from a range of ports to choose from, the kernel takes the next one where the one it wants is in use: by another
//! connection from the same port of the same client to the same port of the container (nf_nat_l4proto_unique_tuple,
//! net/netfilter/nf_nat_core.c). That connection came by another publication, so it happens where two lead to one port. A
//! single port is never given up for another: there the client's port is changed, which nobody sees.

use std::collections::BTreeSet;

use weft_model::port::{PortRange, Publication};

/// Returns publications that together are `one` of `all`, in the order of its ports: each port to which another one leads as
/// well stands alone.
pub(crate) fn parts(all: &[Publication], one: &Publication) -> Vec<Publication> {
    if one.host_ports.is_single() {
        return vec![one.clone()];
    }
    let shared = shared(all, one);
    if shared.is_empty() {
        return vec![one.clone()];
    }
    let mut parts: Vec<Publication> = Vec::new();
    let mut was_shared = true;
    for (host, target) in one.host_ports.ports().zip(one.target_ports.ports()) {
        let is_shared = shared.contains(&target);
        let joins = !is_shared && !was_shared;
        was_shared = is_shared;
        let [Ok(host), Ok(target)] = [host, target].map(PortRange::single) else { continue };
        match parts.last_mut().filter(|_| joins) {
            Some(last) => {
                last.host_ports = joined(last.host_ports, host);
                last.target_ports = joined(last.target_ports, target);
            }
            None => parts.push(Publication { host_ports: host, target_ports: target, ..one.clone() }),
        }
    }
    parts
}

/// Returns a publication's ports one by one.
pub(crate) fn singles(one: &Publication) -> impl Iterator<Item = Publication> {
    let ports = one.host_ports.ports().zip(one.target_ports.ports());
    ports.filter_map(|(host, target)| {
        let (host_ports, target_ports) = (PortRange::single(host).ok()?, PortRange::single(target).ok()?);
        Some(Publication { host_ports, target_ports, ..one.clone() })
    })
}

/// The container's ports to which other publications lead, too.
fn shared(all: &[Publication], one: &Publication) -> BTreeSet<u16> {
    let same =
        |other: &&Publication| (other.protocol, other.target) == (one.protocol, one.target) && *other != one;
    let (first, last) = (one.target_ports.first(), one.target_ports.last());
    let each = |other: &Publication| {
        let (from, to) = (other.target_ports.first().max(first), other.target_ports.last().min(last));
        from..=to
    };
    all.iter().filter(same).flat_map(each).collect()
}

fn joined(ports: PortRange, next: PortRange) -> PortRange {
    PortRange::new(ports.first(), next.last()).unwrap_or(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(text: &str) -> Publication {
        let [protocol, host, host_ports, target, target_ports] =
            text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        Publication {
            protocol: protocol.parse().unwrap(),
            host: host.parse().unwrap(),
            host_ports: host_ports.parse().unwrap(),
            target: target.parse().unwrap(),
            target_ports: target_ports.parse().unwrap(),
            from: Vec::new(),
        }
    }

    #[test]
    fn a_port_that_is_reached_twice_stands_alone() {
        let range = "tcp 0.0.0.0 9000-9009 10.1.0.2 80-89";
        let table: [(&[&str], &[&str]); 7] = [
            (&[], &["9000-9009 80-89"]),
            (&["tcp 0.0.0.0 8080 10.1.0.2 80"], &["9000 80", "9001-9009 81-89"]),
            (&["tcp 0.0.0.0 8080 10.1.0.2 84"], &["9000-9003 80-83", "9004 84", "9005-9009 85-89"]),
            (&["tcp 192.0.2.1 7000-7001 10.1.0.2 88-89"], &["9000-9007 80-87", "9008 88", "9009 89"]),
            (
                &["tcp 0.0.0.0 1-65535 10.1.0.2 1-65535"],
                &[
                    "9000 80", "9001 81", "9002 82", "9003 83", "9004 84", "9005 85", "9006 86", "9007 87",
                    "9008 88", "9009 89",
                ],
            ),
            (&["udp 0.0.0.0 8080 10.1.0.2 80", "tcp 0.0.0.0 8080 10.1.0.3 80"], &["9000-9009 80-89"]),
            (&["tcp 0.0.0.0 8080 10.1.0.2 90"], &["9000-9009 80-89"]),
        ];
        for (others, expected) in table {
            let all: Vec<_> = [range].iter().chain(others).map(|text| publication(text)).collect();
            let parts = parts(&all, &all[0]);
            let words: Vec<_> =
                parts.iter().map(|one| format!("{} {}", one.host_ports, one.target_ports)).collect();
            assert_eq!(words, expected, "{others:?}");
        }
    }

    #[test]
    fn the_last_port_ends_a_range() {
        let all = ["tcp 0.0.0.0 1-65535 10.1.0.2 1-65535", "tcp 127.0.0.1 1 10.1.0.2 65535"].map(publication);
        let parts = parts(&all, &all[0]);
        assert_eq!(
            parts.iter().map(|one| one.host_ports.to_string()).collect::<Vec<_>>(),
            ["1-65534", "65535"]
        );
    }
}
