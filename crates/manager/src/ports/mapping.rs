//! What the port plugin is told, and which ports a person means.
//!
//! CNI: the keys of `portMappings` are those of the capability's convention; `range` (how many ports in a row),
//! `choose` (the first free one of them) and `from` (who may come in) are our plugin's.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use weft_model::port::{
    HostPorts, PortRange, Protocol, Publication, PublishSpec, allowed_of, is_same_family,
};
use weft_state::ports::Asked;

/// Returns the entries that stand for ports as a person typed them. Where a port is to be chosen and `chosen` has it
/// for the other family, it is the same one; all others in a row are one entry, as where nothing is translated a row
/// is one range.
pub(super) fn of_spec(spec: &PublishSpec, host: Option<IpAddr>, chosen: &[Publication]) -> Vec<Value> {
    let entry = |ports: PortRange, host_ports| Entry {
        protocol: spec.protocol,
        host,
        host_ports,
        ports,
        from: &spec.from,
    };
    let known = |ports: PortRange| {
        let same = |one: &&Publication| one.protocol == spec.protocol && one.target_ports == ports;
        chosen.iter().find(same).map(|one| HostPorts::These(one.host_ports))
    };
    if matches!(spec.host_ports, HostPorts::These(_)) || chosen.is_empty() {
        return vec![entry(spec.ports, spec.host_ports).value()];
    }
    let each: Vec<_> = spec.ports.ports().filter_map(|port| PortRange::single(port).ok()).collect();
    let rows = each.chunk_by(|one, next| known(*one).is_none() && known(*next).is_none());
    let row = |ports: &[PortRange]| {
        let all = PortRange::new(ports.first()?.first(), ports.last()?.last()).ok()?;
        Some(entry(all, known(all).unwrap_or(spec.host_ports)).value())
    };
    rows.filter_map(row).collect()
}

/// Returns the entries that stand for what is published.
pub(super) fn of_asked(asked: &[Asked]) -> Vec<Value> {
    let entry = |one: &Asked| {
        let Publication { protocol, host, target_ports: ports, from, .. } = &one.publication;
        let (protocol, host, ports) = (*protocol, Some(*host), *ports);
        Entry { protocol, host, host_ports: one.host_ports, ports, from }.value()
    };
    asked.iter().map(entry).collect()
}

struct Entry<'a> {
    protocol: Protocol,
    host: Option<IpAddr>,
    host_ports: HostPorts,
    ports: PortRange,
    from: &'a [ipnetwork::IpNetwork],
}

impl Entry<'_> {
    fn value(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("protocol".into(), json!(self.protocol));
        entry.insert("containerPort".into(), json!(self.ports.first()));
        let in_a_row = match self.host_ports {
            HostPorts::These(ports) | HostPorts::FirstOf(ports) => {
                entry.insert("hostPort".into(), json!(ports.first()));
                ports
            }
            HostPorts::Any => self.ports,
        };
        if !in_a_row.is_single() {
            entry.insert("range".into(), json!(in_a_row.len()));
        }
        if !matches!(self.host_ports, HostPorts::These(_)) {
            entry.insert("choose".into(), json!(true));
        }
        if let Some(host) = self.host {
            entry.insert("hostIP".into(), json!(host));
        }
        if !self.from.is_empty() {
            entry.insert("from".into(), json!(self.from));
        }
        Value::Object(entry)
    }
}

/// Tells whether a person who types this means that published port. Who may come in does not matter, and where
/// nothing is `translated` the host's ports do not.
pub(super) fn means(spec: &PublishSpec, one: &Publication, translated: bool) -> bool {
    let inside =
        |whole: PortRange, part: PortRange| whole.contains(part.first()) && whole.contains(part.last());
    let of_container = inside(spec.ports, one.target_ports);
    let of_host = match spec.host_ports {
        _ if !translated => true,
        HostPorts::Any => true,
        HostPorts::FirstOf(ports) => inside(ports, one.host_ports),
        // A range may have been published in parts.
        HostPorts::These(ports) => {
            let from_start = |whole: PortRange, part: PortRange| part.first() - whole.first();
            inside(ports, one.host_ports)
                && of_container
                && from_start(ports, one.host_ports) == from_start(spec.ports, one.target_ports)
        }
    };
    spec.protocol == one.protocol && spec.host.is_none_or(|host| host == one.host) && of_container && of_host
}

/// Tells whether a person who types this means some ports of a range that was published as a whole.
pub(super) fn means_part(spec: &PublishSpec, one: &Publication, translated: bool) -> bool {
    let inside =
        |whole: PortRange, part: PortRange| whole.contains(part.first()) && whole.contains(part.last());
    let of_host = match spec.host_ports {
        HostPorts::These(ports) if translated => {
            inside(one.host_ports, ports)
                && ports.first() - one.host_ports.first() == spec.ports.first() - one.target_ports.first()
        }
        _ => true,
    };
    spec.protocol == one.protocol
        && spec.host.is_none_or(|host| host == one.host)
        && inside(one.target_ports, spec.ports)
        && of_host
}

/// Tells whether ports as typed need a port of the host that is published already.
pub(super) fn wants(spec: &PublishSpec, one: &Publication) -> bool {
    let HostPorts::These(ports) = spec.host_ports else { return false };
    spec.protocol == one.protocol && ports.overlaps(one.host_ports) && share(spec.host, Some(one.host))
}

/// Tells whether ports as typed need a port of the container that is published already, untranslated.
pub(super) fn wants_own(spec: &PublishSpec, one: &Publication) -> bool {
    spec.protocol == one.protocol
        && spec.ports.overlaps(one.target_ports)
        && allowed_of(&spec.from, one.host).is_some()
        && spec.host.is_none_or(|host| is_same_family(host, one.host))
}

/// Tells whether two wishes need the same port of the host.
pub(super) fn clash(a: &PublishSpec, b: &PublishSpec) -> bool {
    let (HostPorts::These(of_a), HostPorts::These(of_b)) = (a.host_ports, b.host_ports) else {
        return a == b;
    };
    a.protocol == b.protocol && of_a.overlaps(of_b) && share(a.host, b.host)
}

/// Tells whether two host addresses have one in common. None is every address there is.
fn share(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => is_same_family(a, b) && (a == b || a.is_unspecified() || b.is_unspecified()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> PublishSpec {
        text.parse().unwrap()
    }

    fn published(host: &str, host_ports: &str, ports: &str) -> Publication {
        let host: IpAddr = host.parse().unwrap();
        Publication {
            protocol: Protocol::Tcp,
            host,
            host_ports: host_ports.parse().unwrap(),
            target: if host.is_ipv4() { [10, 1, 0, 2].into() } else { "fd00::2".parse().unwrap() },
            target_ports: ports.parse().unwrap(),
            from: Vec::new(),
        }
    }

    #[test]
    fn the_plugin_is_told_in_its_own_words() {
        let table = [
            ("8080:80", json!([{"protocol": "tcp", "hostPort": 8080, "containerPort": 80}])),
            (
                "127.0.0.1:8000-8009:80-89/udp",
                json!([{"protocol": "udp", "hostPort": 8000, "containerPort": 80, "range": 10, "hostIP": "127.0.0.1"}]),
            ),
            (
                "8000-8009:80",
                json!([{"protocol": "tcp", "hostPort": 8000, "containerPort": 80, "range": 10, "choose": true}]),
            ),
            (
                "80-81,from=192.0.2.0/24",
                json!([{"protocol": "tcp", "containerPort": 80, "range": 2, "choose": true, "from": ["192.0.2.0/24"]}]),
            ),
        ];
        for (text, entries) in table {
            let spec = spec(text);
            assert_eq!(json!(of_spec(&spec, spec.host, &[])), entries, "{text}");
        }
        let chosen = [published("0.0.0.0", "40000", "80")];
        assert_eq!(of_spec(&spec("80"), None, &chosen), of_spec(&spec("40000:80"), None, &[]));
        assert_eq!(
            json!(of_spec(&spec("78-83"), None, &chosen)),
            json!([
                {"protocol": "tcp", "containerPort": 78, "range": 2, "choose": true},
                {"protocol": "tcp", "containerPort": 80, "hostPort": 40000},
                {"protocol": "tcp", "containerPort": 81, "range": 3, "choose": true},
            ])
        );
    }

    #[test]
    fn what_is_published_is_told_with_its_address() {
        let mut one = published("::", "8000-8001", "80-81");
        one.from = vec!["fd00::/8".parse().unwrap()];
        assert_eq!(
            json!(of_asked(&[one.into()])),
            json!([{"protocol": "tcp", "hostPort": 8000, "containerPort": 80, "range": 2, "hostIP": "::", "from": ["fd00::/8"]}])
        );
    }

    #[test]
    fn ports_are_found_as_they_were_asked_for() {
        let table = [
            ("8080:80", "0.0.0.0", "8080", "80", true),
            ("8080:80,from=10.0.0.0/8", "0.0.0.0", "8080", "80", true),
            ("8080:80", "::", "8080", "80", true),
            ("0.0.0.0:8080:80", "::", "8080", "80", false),
            ("8080:80/udp", "0.0.0.0", "8080", "80", false),
            ("8080:81", "0.0.0.0", "8080", "80", false),
            ("80", "0.0.0.0", "40000", "80", true),
            ("80-89", "0.0.0.0", "40000", "85", true),
            ("8000-8009:80", "0.0.0.0", "8003", "80", true),
            ("8000-8009:80", "0.0.0.0", "9003", "80", false),
            ("8000-8009:80-89", "0.0.0.0", "8000-8009", "80-89", true),
            ("8000-8009:80-89", "0.0.0.0", "8004-8006", "84-86", true),
            ("8000-8009:80-89", "0.0.0.0", "8004-8006", "83-85", false),
            ("8001-8002:81-82", "0.0.0.0", "8000-8009", "80-89", false),
        ];
        for (text, host, host_ports, ports, expected) in table {
            let one = published(host, host_ports, ports);
            assert_eq!(means(&spec(text), &one, true), expected, "{text} {host_ports}");
        }
        assert!(means(&spec("8080:80"), &published("::", "80", "80"), false));
    }

    #[test]
    fn part_of_a_range_is_told_from_what_is_not_published() {
        let range = published("0.0.0.0", "8000-8009", "80-89");
        let table = [
            ("8001:81", true),
            ("8008-8009:88-89", true),
            ("81", true),
            ("0.0.0.0:8001:81", true),
            ("8001:82", false),
            ("7999:80", false),
            ("8001:81/udp", false),
            ("127.0.0.1:8001:81", false),
            ("90", false),
        ];
        for (text, expected) in table {
            assert_eq!(means_part(&spec(text), &range, true), expected, "{text}");
        }
        assert!(means_part(&spec("7999:80"), &range, false));
    }

    #[test]
    fn a_port_of_a_container_is_wanted_once_without_translation() {
        let one = published("0.0.0.0", "8080", "80");
        for (text, expected) in [
            ("8081:80", true),
            ("80", true),
            ("8080:81", false),
            ("8080:80/udp", false),
            ("[::]:80:80", false),
        ] {
            assert_eq!(wants_own(&spec(text), &one), expected, "{text}");
        }
    }

    #[test]
    fn a_port_of_the_host_is_wanted_once() {
        let table = [
            ("8080:80", "8080:81", true),
            ("8080:80", "8080:80/udp", false),
            ("127.0.0.1:8080:80", "127.0.0.2:8080:80", false),
            ("0.0.0.0:8080:80", "127.0.0.2:8080:80", true),
            ("0.0.0.0:8080:80", "[::1]:8080:80", false),
            ("8000-8009:80-89", "8009:1", true),
            ("8000-8009:80", "8009:1", false),
            ("80", "80", true),
            ("80", "81", false),
        ];
        for (a, b, expected) in table {
            assert_eq!(clash(&spec(a), &spec(b)), expected, "{a} {b}");
            assert_eq!(clash(&spec(b), &spec(a)), expected, "{b} {a}");
        }
        assert!(wants(&spec("8080:1"), &published("127.0.0.1", "8080", "80")));
        assert!(!wants(&spec("8080-8090:1"), &published("127.0.0.1", "8080", "80")), "another is free");
    }
}
