//! One entry of `portMappings`: as written, then as meant.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use weft_cni::address::{parse_cidr, parse_ip};
use weft_model::port::{HostPorts, PortRange, PortRangeError, Protocol, PublishSpec, is_same_family};

/// An entry exactly as the runtime gives it. `range`, `choose` and `from` are ours.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Mapping {
    host_port: i64,
    container_port: i64,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
    range: Option<i64>,
    choose: bool,
    from: Vec<String>,
}

/// Why an entry is not legal. The first two texts are the reference plugin's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The container's port is no port.
    #[error("Invalid container port number: {0}")]
    ContainerPort(i64),
    /// The host's port is no port.
    #[error("Invalid host port number: {0}")]
    HostPort(i64),
    /// A range of no ports.
    #[error("invalid range {0} of portMappings: it is a number of ports, 1 or more")]
    Count(i64),
    /// There are not so many ports.
    #[error("invalid range of portMappings: {0}")]
    Range(PortRangeError),
    /// Ports of that protocol cannot be published, or there are none.
    #[error("invalid protocol {0:?} of portMappings: it is tcp, udp or sctp")]
    Protocol(String),
    /// The host's address is no address.
    #[error("invalid hostIP {0:?} of portMappings")]
    HostIp(String),
    /// A source is no network.
    #[error("invalid source {0:?} in from of portMappings: it is neither an address nor a network")]
    From(String),
    /// A source can never reach the host's address.
    #[error("invalid source {from} in from of portMappings: hostIP {host} is of the other family")]
    FromFamily {
        /// The source.
        from: IpNetwork,
        /// The host's address.
        host: IpAddr,
    },
}

impl Mapping {
    /// Says what was meant.
    pub(crate) fn settle(self) -> Result<PublishSpec, MappingError> {
        // CNI: the order of the reference plugin, whose errors callers compare.
        let port = port(self.container_port).ok_or(MappingError::ContainerPort(self.container_port))?;
        let host_ports = self.host_ports()?;
        let ports = match host_ports {
            HostPorts::These(_) | HostPorts::Any => range(port, self.count()?)?,
            HostPorts::FirstOf(_) => range(port, 1)?,
        };
        let protocol = match self.protocol.as_str() {
            "" => Protocol::Tcp,
            name => name.parse().map_err(|_| MappingError::Protocol(name.into()))?,
        };
        let host = match self.host_ip.as_str() {
            "" => None,
            text => Some(parse_ip(text).map_err(|_| MappingError::HostIp(text.into()))?.to_canonical()),
        };
        let from = sources(&self.from, host)?;
        Ok(PublishSpec { host, host_ports, ports, protocol, from })
    }

    fn host_ports(&self) -> Result<HostPorts, MappingError> {
        let count = self.count()?;
        if self.choose && self.host_port == 0 {
            return Ok(HostPorts::Any);
        }
        let first = port(self.host_port).ok_or(MappingError::HostPort(self.host_port))?;
        let ports = range(first, count)?;
        Ok(if self.choose { HostPorts::FirstOf(ports) } else { HostPorts::These(ports) })
    }

    fn count(&self) -> Result<u64, MappingError> {
        let count = self.range.unwrap_or(1);
        u64::try_from(count).ok().filter(|count| *count > 0).ok_or(MappingError::Count(count))
    }
}

fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn range(first: u16, count: u64) -> Result<PortRange, MappingError> {
    PortRange::from_count(first, count).map_err(MappingError::Range)
}

/// Reads who may come in. A plain address is a network of one.
fn sources(texts: &[String], host: Option<IpAddr>) -> Result<Vec<IpNetwork>, MappingError> {
    let mut sources = Vec::with_capacity(texts.len());
    for text in texts {
        let wrong = || MappingError::From(text.clone());
        let from = match text.contains('/') {
            true => parse_cidr(text).map_err(|_| wrong())?,
            false => parse_ip(text).map_err(|_| wrong())?.to_canonical().into(),
        };
        if let Some(host) = host.filter(|host| !is_same_family(*host, from.ip())) {
            return Err(MappingError::FromFamily { from, host });
        }
        sources.push(IpNetwork::new(from.network(), from.prefix()).unwrap_or(from));
    }
    sources.sort_unstable();
    sources.dedup();
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settled(entry: Value) -> String {
        let mapping: Mapping = weft_cni::json::from_value(&entry).unwrap();
        mapping.settle().map_or_else(|error| error.to_string(), |spec| spec.to_string())
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        let table = [
            (json!({"hostPort": 8080, "containerPort": 80}), "8080:80/tcp"),
            (json!({"HostPort": 53, "ContainerPort": 53, "Protocol": "UDP", "HostIP": ""}), "53:53/udp"),
            (json!({"hostPort": 1, "containerPort": 2, "hostIP": "127.0.0.1"}), "127.0.0.1:1:2/tcp"),
            (json!({"hostPort": 1, "containerPort": 2, "hostIP": "::ffff:10.0.0.1"}), "10.0.0.1:1:2/tcp"),
            (json!({"hostPort": 8000, "containerPort": 9000, "range": 100}), "8000-8099:9000-9099/tcp"),
            (json!({"hostPort": 8000, "containerPort": 80, "range": 9, "choose": true}), "8000-8008:80/tcp"),
            (json!({"containerPort": 80, "protocol": "sctp", "choose": true}), "80/sctp"),
            (json!({"containerPort": 80, "range": 10, "choose": true}), "80-89/tcp"),
            (
                json!({"hostPort": 1, "containerPort": 2, "from": ["192.0.2.7/24", "10.0.0.1", "10.0.0.1/32"]}),
                "1:2/tcp,from=10.0.0.1/32,from=192.0.2.0/24",
            ),
        ];
        for (entry, meant) in table {
            assert_eq!(settled(entry.clone()), meant, "{entry}");
        }
    }

    #[test]
    fn what_cannot_be_meant_says_why() {
        let table = [
            (json!({"hostPort": 80}), "Invalid container port number: 0"),
            (json!({"containerPort": 80}), "Invalid host port number: 0"),
            (json!({"hostPort": -1, "containerPort": 80}), "Invalid host port number: -1"),
            (json!({"hostPort": 65536, "containerPort": 80}), "Invalid host port number: 65536"),
            (json!({"hostPort": 80, "containerPort": 65536}), "Invalid container port number: 65536"),
            (
                json!({"hostPort": 80, "containerPort": 80, "range": 0}),
                "invalid range 0 of portMappings: it is a number of ports, 1 or more",
            ),
            (
                json!({"hostPort": 80, "containerPort": 80, "range": -5}),
                "invalid range -5 of portMappings: it is a number of ports, 1 or more",
            ),
            (
                json!({"hostPort": 65000, "containerPort": 80, "range": 1000}),
                "invalid range of portMappings: 1000 ports from 65000 go past port 65535",
            ),
            (
                json!({"hostPort": 80, "containerPort": 65000, "range": 1000}),
                "invalid range of portMappings: 1000 ports from 65000 go past port 65535",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "protocol": "icmp"}),
                "invalid protocol \"icmp\" of portMappings: it is tcp, udp or sctp",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "hostIP": "localhost"}),
                "invalid hostIP \"localhost\" of portMappings",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "from": ["anybody"]}),
                "invalid source \"anybody\" in from of portMappings: it is neither an address nor a network",
            ),
            (
                json!({"hostPort": 1, "containerPort": 1, "hostIP": "::", "from": ["10.0.0.0/8"]}),
                "invalid source 10.0.0.0/8 in from of portMappings: hostIP :: is of the other family",
            ),
        ];
        for (entry, why) in table {
            assert_eq!(settled(entry.clone()), why, "{entry}");
        }
    }
}
