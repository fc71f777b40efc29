//! What is asked for and what the container has, together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weft_cni::NetworkResult;
use weft_model::port::{HostPorts, PortRange, Protocol, Publication, PublishSpec, allowed_of};
use weft_model::{GatewayMode, IfName};
use weft_state::ports::{Asked, Binding, Choice};

use crate::conf::Rules;

/// The addresses that ports lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The first IPv4 address and the first IPv6 address.
    targets: Vec<IpAddr>,
    /// The subnets of all.
    pub subnets: Vec<IpNetwork>,
}

impl Addresses {
    /// Takes the addresses of the container's interface from a result.
    ///
    /// CNI: an address without an interface, or with one that is not in the list, counts as the container's.
    pub fn of(result: &NetworkResult, ifname: &IfName) -> Self {
        let mut found = Self::default();
        for ip in &result.ips {
            let link = ip.interface.and_then(|index| result.interfaces.get(index));
            let is_other = |link: &weft_cni::Interface| {
                link.name != ifname.as_str() || link.sandbox.as_deref().is_none_or(str::is_empty)
            };
            if link.is_some_and(is_other) {
                continue;
            }
            let address = ip.address.ip();
            if found.of_family(address).is_none() {
                found.targets.push(address);
            }
            found
                .subnets
                .push(IpNetwork::new(ip.address.network(), ip.address.prefix()).unwrap_or(ip.address));
        }
        found.subnets.dedup();
        found
    }

    fn of_family(&self, like: IpAddr) -> Option<IpAddr> {
        self.targets.iter().find(|target| target.is_ipv4() == like.is_ipv4()).copied()
    }
}

/// What is to be published, down to the ports that are still to be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Ports that are known.
    pub publications: Vec<Publication>,
    /// Ports that are not.
    pub choices: Vec<Choice>,
    /// Which of the known ones are not translated and would have done with any port of the host's, or of some.
    pub open: Vec<Asked>,
}

impl Wanted {
    /// Returns the host's addresses with the container's addresses behind them.
    pub fn targets(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let chosen =
            self.choices.iter().flat_map(|choice| choice.bindings.iter().map(|one| (one.host, one.target)));
        self.publications.iter().map(|one| (one.host, one.target)).chain(chosen)
    }
}

/// Why a port cannot be published for this container.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The host's address is of a family the container has not.
    #[error("port {spec} cannot be published on {host}: the container has no {} address", family(*host))]
    NoAddress {
        /// What was asked for.
        spec: PublishSpec,
        /// The host's address.
        host: IpAddr,
    },
    /// The network is not to be reached by that family.
    #[error("port {spec} cannot be published on {host}: the network's gateway mode for {} is isolated", family(*host))]
    Isolated {
        /// What was asked for.
        spec: PublishSpec,
        /// The host's address.
        host: IpAddr,
    },
    /// Without translation, a port is the container's at every address there is.
    #[error("port {spec} cannot be published on {host}: the network is routed for {}: its ports are the container's own, at every address", family(*host))]
    Untranslated {
        /// What was asked for.
        spec: PublishSpec,
        /// The host's address.
        host: IpAddr,
    },
    /// Without translation, two ports of the host lead to one of the container.
    #[error("port {ports}/{protocol} of {target} is asked for twice")]
    Twice {
        /// The protocol.
        protocol: Protocol,
        /// The container's address.
        target: IpAddr,
        /// The container's ports.
        ports: PortRange,
    },
    /// The sources are of a family the container has not.
    #[error("port {spec} cannot be published: the container has no address of its sources' family")]
    NoSource {
        /// What was asked for.
        spec: PublishSpec,
    },
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Says what is to be published for a container with these addresses.
///
/// Without a host address a port is published for every family the container has; with one it must be possible.
///
/// # Errors
///
/// When a port would not be published at all.
pub fn resolve(rules: &Rules, addresses: &Addresses) -> Result<Wanted, ResolveError> {
    let mut wanted = Wanted::default();
    for spec in &rules.specs {
        resolve_one(spec, rules, addresses, &mut wanted)?;
    }
    refuse_twice(rules, &wanted.publications)?;
    Ok(wanted)
}

fn refuse_twice(rules: &Rules, publications: &[Publication]) -> Result<(), ResolveError> {
    let mut own: Vec<_> =
        publications.iter().filter(|one| !rules.gateways.of(one.target).translates()).collect();
    own.sort_by_key(|one| (one.protocol, one.target, one.target_ports));
    let twice = own.windows(2).find(|pair| {
        (pair[0].protocol, pair[0].target) == (pair[1].protocol, pair[1].target)
            && pair[0].target_ports.overlaps(pair[1].target_ports)
    });
    match twice.and_then(|pair| pair.last()) {
        None => Ok(()),
        Some(one) => {
            let Publication { protocol, target, target_ports: ports, .. } = **one;
            Err(ResolveError::Twice { protocol, target, ports })
        }
    }
}

fn resolve_one(
    spec: &PublishSpec,
    rules: &Rules,
    addresses: &Addresses,
    wanted: &mut Wanted,
) -> Result<(), ResolveError> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let hosts = match (spec.host, rules.default_hosts.as_slice()) {
        (Some(host), _) => vec![host],
        (None, []) => any.to_vec(),
        (None, hosts) => hosts.to_vec(),
    };
    let mut refusal = None;
    let mut done = false;
    let mut bindings = Vec::new();
    for host in hosts {
        let (target, from) = match reachable(spec, rules, addresses, host) {
            Ok(found) => found,
            Err(why) => {
                refusal.get_or_insert(why);
                continue;
            }
        };
        done = true;
        let is_open = !matches!(spec.host_ports, HostPorts::These(_));
        let translates = rules.gateways.of(host).translates();
        if is_open && translates {
            bindings.push(Binding { host, target });
            continue;
        }
        let publication = Publication {
            protocol: spec.protocol,
            host,
            // Without translation it means nothing, until the port moves to a network that translates.
            host_ports: if let HostPorts::These(ports) = spec.host_ports { ports } else { spec.ports },
            target,
            target_ports: spec.ports,
            from,
        };
        if is_open {
            wanted.open.push(Asked { publication: publication.clone(), host_ports: spec.host_ports });
        }
        wanted.publications.push(publication);
    }
    if !bindings.is_empty() {
        wanted.choices.extend(spec.ports.ports().map(|port| choice(spec, port, bindings.clone())));
    }
    match refusal {
        Some(why) if !done => Err(why),
        _ => Ok(()),
    }
}

/// Returns the container's address behind a host address, and who may come in there.
fn reachable(
    spec: &PublishSpec,
    rules: &Rules,
    addresses: &Addresses,
    host: IpAddr,
) -> Result<(IpAddr, Vec<IpNetwork>), ResolveError> {
    let spec = || spec.clone();
    let target = addresses.of_family(host).ok_or_else(|| ResolveError::NoAddress { spec: spec(), host })?;
    if rules.gateways.of(host) == GatewayMode::Isolated {
        return Err(ResolveError::Isolated { spec: spec(), host });
    }
    if !host.is_unspecified() && !rules.gateways.of(host).translates() {
        return Err(ResolveError::Untranslated { spec: spec(), host });
    }
    let from = allowed_of(&spec().from, host).ok_or_else(|| ResolveError::NoSource { spec: spec() })?;
    Ok((target, from))
}

/// Returns the choice of a port of the host that leads to one of the container's.
fn choice(spec: &PublishSpec, target_port: u16, bindings: Vec<Binding>) -> Choice {
    let among = match spec.host_ports {
        HostPorts::FirstOf(among) | HostPorts::These(among) => Some(among),
        HostPorts::Any => None,
    };
    Choice { protocol: spec.protocol, among, bindings, target_port, from: spec.from.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_cni::{Interface, IpConfig};
    use weft_firewall::Backend;

    use super::*;
    use crate::conf::Conf;

    fn rules(conf: serde_json::Value) -> Rules {
        let conf: Conf = weft_cni::json::from_value(&conf).unwrap();
        conf.settle(|| Backend::Weft).unwrap()
    }

    fn addresses(texts: &[&str]) -> Addresses {
        let ip = |text: &&str| IpConfig { address: text.parse().unwrap(), gateway: None, interface: None };
        let result = NetworkResult { ips: texts.iter().map(ip).collect(), ..NetworkResult::default() };
        Addresses::of(&result, &"eth0".parse().unwrap())
    }

    /// Publishes entries for a container with these addresses; a choice is shown as at port 40000.
    fn published(mut conf: serde_json::Value, specs: &[&str], on: &[&str]) -> Result<Vec<String>, String> {
        conf["runtimeConfig"] = json!({});
        let mut rules = rules(conf);
        rules.specs = specs.iter().map(|spec| spec.parse().unwrap()).collect();
        let wanted = resolve(&rules, &addresses(on)).map_err(|error| error.to_string())?;
        let chosen = wanted.choices.iter().flat_map(|choice| choice.at(40000));
        let mut lines: Vec<String> = wanted.publications.iter().map(ToString::to_string).collect();
        lines.extend(chosen.map(|one| format!("{one} chosen")));
        Ok(lines)
    }

    const BOTH: [&str; 2] = ["10.1.0.2/24", "fd00::2/64"];

    #[test]
    fn a_port_is_published_for_every_family_the_container_has() {
        let table: [(serde_json::Value, &str, &[&str], &[&str]); 12] = [
            (
                json!({}),
                "8080:80",
                &BOTH,
                &["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp [::]:8080 -> [fd00::2]:80"],
            ),
            (json!({}), "8080:80/udp", &BOTH[..1], &["udp 0.0.0.0:8080 -> 10.1.0.2:80"]),
            (json!({}), "[::1]:8080:80", &BOTH, &["tcp [::1]:8080 -> [fd00::2]:80"]),
            (json!({}), "0.0.0.0:1-9:1-9", &BOTH, &["tcp 0.0.0.0:1-9 -> 10.1.0.2:1-9"]),
            (json!({"defaultHostIP": "127.0.0.1"}), "1:2", &BOTH, &["tcp 127.0.0.1:1 -> 10.1.0.2:2"]),
            (json!({"defaultHostIP": "127.0.0.1"}), "[::]:1:2", &BOTH, &["tcp [::]:1 -> [fd00::2]:2"]),
            (json!({}), "1:2,from=10.0.0.0/8", &BOTH, &["tcp 0.0.0.0:1 -> 10.1.0.2:2 from 10.0.0.0/8"]),
            (
                json!({"gatewayMode": {"ipv6": "routed"}}),
                "8080:80",
                &BOTH,
                &["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp [::]:8080 -> [fd00::2]:80"],
            ),
            (json!({"gatewayMode": {"ipv6": "isolated"}}), "1:2", &BOTH, &["tcp 0.0.0.0:1 -> 10.1.0.2:2"]),
            (
                json!({}),
                "80",
                &BOTH,
                &["tcp 0.0.0.0:40000 -> 10.1.0.2:80 chosen", "tcp [::]:40000 -> [fd00::2]:80 chosen"],
            ),
            (
                json!({"gatewayMode": {"ipv6": "routed"}}),
                "8000-8010:80",
                &BOTH,
                &["tcp [::]:80 -> [fd00::2]:80", "tcp 0.0.0.0:40000 -> 10.1.0.2:80 chosen"],
            ),
            (json!({}), "1:2", &["10.1.0.2/24", "10.1.0.3/24"], &["tcp 0.0.0.0:1 -> 10.1.0.2:2"]),
        ];
        for (conf, spec, on, lines) in table {
            assert_eq!(published(conf, &[spec], on).unwrap(), lines, "{spec}");
        }
    }

    #[test]
    fn what_would_be_published_nowhere_is_refused() {
        let table = [
            (
                json!({}),
                "[::1]:8080:80",
                "port [::1]:8080:80/tcp cannot be published on ::1: the container has no IPv6 address",
            ),
            (
                json!({"gatewayMode": {"ipv4": "isolated"}}),
                "8080:80",
                "port 8080:80/tcp cannot be published on 0.0.0.0: the network's gateway mode for IPv4 is isolated",
            ),
            (
                json!({}),
                "8080:80,from=fd00::/8",
                "port 8080:80/tcp,from=fd00::/8 cannot be published: the container has no address of its sources' family",
            ),
            (
                json!({"gatewayMode": {"ipv4": "routed"}}),
                "127.0.0.1:8080:80",
                "port 127.0.0.1:8080:80/tcp cannot be published on 127.0.0.1: the network is routed for IPv4: its ports are the container's own, at every address",
            ),
            (
                json!({"gatewayMode": {"ipv4": "routed"}, "defaultHostIP": "127.0.0.1"}),
                "8080:80",
                "port 8080:80/tcp cannot be published on 127.0.0.1: the network is routed for IPv4: its ports are the container's own, at every address",
            ),
            (
                json!({"defaultHostIP": "::1"}),
                "8080:80",
                "port 8080:80/tcp cannot be published on ::1: the container has no IPv6 address",
            ),
        ];
        for (conf, spec, why) in table {
            assert_eq!(published(conf, &[spec], &BOTH[..1]).unwrap_err(), why);
        }
    }

    #[test]
    fn without_translation_a_port_of_the_container_is_asked_for_once() {
        let routed = || json!({"gatewayMode": {"ipv4": "routed", "ipv6": "routed"}});
        let twice = published(routed(), &["8080:80", "8081:80", "9000:90"], &BOTH).unwrap_err();
        assert_eq!(twice, "port 80/tcp of 10.1.0.2 is asked for twice");
        assert_eq!(published(routed(), &["8080:80", "8081:81"], &BOTH).unwrap().len(), 4);
        assert_eq!(published(json!({}), &["8080:80", "8081:80"], &BOTH).unwrap().len(), 4);
    }

    #[test]
    fn what_any_port_of_the_host_would_do_for_stays_open_without_translation() {
        let mut rules = rules(json!({"gatewayMode": {"ipv4": "routed"}, "runtimeConfig": {}}));
        rules.specs = vec!["8000-8010:80".parse().unwrap(), "81".parse().unwrap(), "82:82".parse().unwrap()];
        let wanted = resolve(&rules, &addresses(&BOTH[..1])).unwrap();
        let open: Vec<_> =
            wanted.open.iter().map(|one| (one.publication.target_ports.first(), one.host_ports)).collect();
        assert_eq!(open, [(80, HostPorts::FirstOf("8000-8010".parse().unwrap())), (81, HostPorts::Any)]);
        assert_eq!((wanted.publications.len(), wanted.choices.len()), (3, 0));
    }

    #[test]
    fn a_row_without_ports_of_the_host_is_a_range_where_nothing_is_translated() {
        let mixed = json!({"gatewayMode": {"ipv6": "routed"}});
        let lines = published(mixed, &["80-82"], &BOTH).unwrap();
        assert_eq!(lines[0], "tcp [::]:80-82 -> [fd00::2]:80-82");
        assert_eq!(lines[1..].len(), 3, "each has a port of its own: {lines:?}");
        assert_eq!(lines[3], "tcp 0.0.0.0:40000 -> 10.1.0.2:82 chosen");
    }

    #[test]
    fn addresses_are_those_of_the_containers_interface() {
        let link = |name: &str, sandbox: Option<&str>| Interface {
            name: name.into(),
            sandbox: sandbox.map(Into::into),
            ..Interface::default()
        };
        let ip = |address: &str, interface| IpConfig {
            address: address.parse().unwrap(),
            gateway: None,
            interface,
        };
        let result = NetworkResult {
            interfaces: vec![link("eth0", None), link("eth1", Some("/ns")), link("eth0", Some("/ns"))],
            ips: vec![
                ip("10.0.0.1/24", Some(0)),
                ip("10.0.0.2/24", Some(1)),
                ip("10.0.0.3/24", Some(2)),
                ip("fd00::4/64", Some(9)),
                ip("10.0.0.5/24", None),
            ],
            ..NetworkResult::default()
        };
        let found = Addresses::of(&result, &"eth0".parse().unwrap());
        let targets: Vec<String> = found.targets.iter().map(ToString::to_string).collect();
        let subnets: Vec<String> = found.subnets.iter().map(ToString::to_string).collect();
        assert_eq!(targets, ["10.0.0.3", "fd00::4"]);
        assert_eq!(subnets, ["10.0.0.0/24", "fd00::/64", "10.0.0.0/24"]);
    }
}
