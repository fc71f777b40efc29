//! One published port or range, with every choice made.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{PortRange, Protocol};

/// Ports of one host address that lead to ports of one container address of the same family.
///
/// A request that names no host address becomes two of these for a container with both families.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", rename_all = "camelCase")]
pub struct Publication {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; `0.0.0.0` or `::` for any address of that family.
    pub host: IpAddr,
    /// The host's ports.
    pub host_ports: PortRange,
    /// The container's address.
    pub target: IpAddr,
    /// The container's ports, as many as the host's.
    pub target_ports: PortRange,
    /// Who may come in; nobody listed means everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNetwork>,
}

/// Why the parts of a publication do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicationError {
    /// Host and container address are of two families.
    #[error("host address {host} and container address {target} are not of the same family")]
    Families {
        /// The host's address.
        host: IpAddr,
        /// The container's address.
        target: IpAddr,
    },
    /// The container cannot have this address.
    #[error("{0} is not an address of a container")]
    Target(IpAddr),
    /// Not as many host ports as container ports.
    #[error("{host} and {target} do not have the same number of ports")]
    Lengths {
        /// The host's ports.
        host: PortRange,
        /// The container's ports.
        target: PortRange,
    },
    /// A source that can never reach the host's address.
    #[error("{from} is not of the same family as host address {host}")]
    From {
        /// The source.
        from: IpNetwork,
        /// The host's address.
        host: IpAddr,
    },
}

/// What a record holds, before it is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Unchecked {
    protocol: Protocol,
    host: IpAddr,
    host_ports: PortRange,
    target: IpAddr,
    target_ports: PortRange,
    #[serde(default)]
    from: Vec<IpNetwork>,
}

impl TryFrom<Unchecked> for Publication {
    type Error = PublicationError;

    fn try_from(record: Unchecked) -> Result<Self, PublicationError> {
        let Unchecked { protocol, host, host_ports, target, target_ports, from } = record;
        Self { protocol, host, host_ports, target, target_ports, from }.checked()
    }
}

impl Publication {
    /// Returns the publication if its parts fit together, with its sources in order and without host bits.
    ///
    /// # Errors
    ///
    /// Addresses or sources of two families; ranges of two lengths; an unspecified container address.
    pub fn checked(mut self) -> Result<Self, PublicationError> {
        if !is_same_family(self.host, self.target) {
            return Err(PublicationError::Families { host: self.host, target: self.target });
        }
        if self.target.is_unspecified() {
            return Err(PublicationError::Target(self.target));
        }
        if self.host_ports.len() != self.target_ports.len() {
            return Err(PublicationError::Lengths { host: self.host_ports, target: self.target_ports });
        }
        if let Some(from) = self.from.iter().find(|from| !is_same_family(from.ip(), self.host)) {
            return Err(PublicationError::From { from: *from, host: self.host });
        }
        self.from = self.from.iter().map(masked).collect();
        self.from.sort_unstable();
        self.from.dedup();
        // Who is in a network of the list need not be named again; the kernel refuses ranges that overlap.
        let all = self.from.clone();
        self.from.retain(|one| !all.iter().any(|wider| wider != one && contains(wider, one)));
        Ok(self)
    }

    /// Tells whether the two want a port of the host that cannot be both's: an unspecified host
    /// address is every address of its family.
    pub fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_ports.overlaps(other.host_ports)
            && is_same_family(self.host, other.host)
            && (self.host == other.host || self.host.is_unspecified() || other.host.is_unspecified())
    }
}

/// Tells whether both are IPv4 or both IPv6.
pub const fn is_same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// Returns the sources of `host`'s family; `None` if sources were named and none of that family is
/// among them, so that an allow-list of IPv4 addresses does not open the port to all of IPv6.
pub fn allowed_of(from: &[IpNetwork], host: IpAddr) -> Option<Vec<IpNetwork>> {
    let own: Vec<IpNetwork> = from.iter().filter(|from| is_same_family(from.ip(), host)).copied().collect();
    (from.is_empty() || !own.is_empty()).then_some(own)
}

/// Tells whether all addresses of the other network are in this one.
fn contains(network: &IpNetwork, other: &IpNetwork) -> bool {
    is_same_family(network.ip(), other.ip())
        && network.prefix() <= other.prefix()
        && network.contains(other.network())
}

/// Returns the network without host bits.
pub(super) fn masked(network: &IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(*network)
}

impl fmt::Display for Publication {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ", self.protocol)?;
        socket(out, self.host, self.host_ports)?;
        out.write_str(" -> ")?;
        socket(out, self.target, self.target_ports)?;
        for (index, from) in self.from.iter().enumerate() {
            write!(out, "{} {from}", if index == 0 { " from" } else { "," })?;
        }
        Ok(())
    }
}

/// Writes an address with its ports, IPv6 in brackets.
pub(super) fn socket(out: &mut fmt::Formatter<'_>, address: IpAddr, ports: impl fmt::Display) -> fmt::Result {
    match address {
        IpAddr::V4(address) => write!(out, "{address}:{ports}"),
        IpAddr::V6(address) => write!(out, "[{address}]:{ports}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(
        host: &str,
        host_ports: &str,
        target: &str,
        target_ports: &str,
        from: &[&str],
    ) -> Publication {
        Publication {
            protocol: Protocol::Tcp,
            host: host.parse().unwrap(),
            host_ports: host_ports.parse().unwrap(),
            target: target.parse().unwrap(),
            target_ports: target_ports.parse().unwrap(),
            from: from.iter().map(|from| from.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_publication_reads_as_a_line() {
        let table = [
            (publication("0.0.0.0", "8080", "10.1.0.2", "80", &[]), "tcp 0.0.0.0:8080 -> 10.1.0.2:80"),
            (
                publication("::", "8000-8099", "fd00::2", "1-100", &[]),
                "tcp [::]:8000-8099 -> [fd00::2]:1-100",
            ),
            (
                publication("0.0.0.0", "1", "10.1.0.2", "2", &["192.0.2.7/24", "10.0.0.0/8"]),
                "tcp 0.0.0.0:1 -> 10.1.0.2:2 from 10.0.0.0/8, 192.0.2.0/24",
            ),
        ];
        for (publication, text) in table {
            let publication = publication.checked().unwrap();
            assert_eq!(publication.to_string(), text);
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let table = [
            (
                publication("::", "80", "10.1.0.2", "80", &[]),
                "host address :: and container address 10.1.0.2 are not of the same family",
            ),
            (publication("0.0.0.0", "80", "0.0.0.0", "80", &[]), "0.0.0.0 is not an address of a container"),
            (
                publication("0.0.0.0", "80-81", "10.1.0.2", "80", &[]),
                "80-81 and 80 do not have the same number of ports",
            ),
            (
                publication("0.0.0.0", "80", "10.1.0.2", "80", &["fd00::/8"]),
                "fd00::/8 is not of the same family as host address 0.0.0.0",
            ),
        ];
        for (publication, why) in table {
            let text = format!(
                r#"{{"protocol":"tcp","host":"{}","hostPorts":"{}","target":"{}","targetPorts":"{}","from":{:?}}}"#,
                publication.host,
                publication.host_ports,
                publication.target,
                publication.target_ports,
                publication.from.iter().map(ToString::to_string).collect::<Vec<_>>(),
            );
            assert_eq!(publication.checked().unwrap_err().to_string(), why);
            assert!(
                serde_json::from_str::<Publication>(&text).unwrap_err().to_string().contains(why),
                "{text}"
            );
        }
    }

    #[test]
    fn a_record_reads_back() {
        let publication = publication("127.0.0.1", "8000-8001", "10.1.0.2", "80-81", &["192.0.2.0/24"]);
        let text = serde_json::to_string(&publication).unwrap();
        assert_eq!(
            text,
            r#"{"protocol":"tcp","host":"127.0.0.1","hostPorts":"8000-8001","target":"10.1.0.2","targetPorts":"80-81","from":["192.0.2.0/24"]}"#
        );
        assert_eq!(serde_json::from_str::<Publication>(&text).unwrap(), publication);
    }

    #[test]
    fn any_address_collides_with_every_address_of_its_family() {
        let base = publication("0.0.0.0", "8080", "10.1.0.2", "80", &[]);
        let table = [
            ("127.0.0.1", "8080", true),
            ("0.0.0.0", "8000-8090", true),
            ("192.0.2.1", "8081", false),
            ("::", "8080", false),
        ];
        for (host, ports, expected) in table {
            let other = Publication {
                host: host.parse().unwrap(),
                host_ports: ports.parse().unwrap(),
                ..publication("0.0.0.0", "1", "10.1.0.9", "1", &[])
            };
            assert_eq!(base.collides(&other), expected, "{other}");
            assert_eq!(other.collides(&base), expected, "{other}");
        }
        assert!(!base.collides(&Publication { protocol: Protocol::Udp, ..base.clone() }));
        let specific = |host: &str| publication(host, "80", "10.1.0.2", "80", &[]);
        assert!(!specific("192.0.2.1").collides(&specific("192.0.2.2")));
    }

    #[test]
    fn who_is_on_the_list_already_is_not_named_again() {
        let listed =
            ["10.0.0.0/8", "192.0.2.7/24", "10.1.0.0/16", "192.0.2.9/32", "198.51.100.0/25", "10.1.0.0/16"];
        let checked = publication("0.0.0.0", "80-89", "10.1.0.2", "80-89", &listed).checked().unwrap();
        let from: Vec<_> = checked.from.iter().map(ToString::to_string).collect();
        assert_eq!(from, ["10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/25"]);
        let all = publication("::", "80", "fd00::2", "80", &["2001:db8::/64", "::/0"]).checked().unwrap();
        assert_eq!(all.from, ["::/0".parse::<IpNetwork>().unwrap()]);
    }

    #[test]
    fn a_list_of_one_family_closes_the_other() {
        let (any4, any6): (IpAddr, IpAddr) = ("0.0.0.0".parse().unwrap(), "::".parse().unwrap());
        let from: Vec<IpNetwork> = vec!["192.0.2.0/24".parse().unwrap()];
        assert_eq!(allowed_of(&from, any4), Some(from.clone()));
        assert_eq!(allowed_of(&from, any6), None);
        assert_eq!(allowed_of(&[], any6), Some(Vec::new()));
    }
}
