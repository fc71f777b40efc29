//! A publication as a person types it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::publication::{is_same_family, masked, socket};
use super::{PortRange, PortRangeError, Protocol};

/// `[[IP:][HOSTPORT[-END]]:]PORT[-END][/PROTOCOL][,from=CIDR]...`
///
/// DOCKER: the grammar of `docker run --publish`, its long form (`published=,target=,protocol=`) included; `from=` is ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublishSpec {
    /// The host's address, where one was given.
    pub host: Option<IpAddr>,
    /// The host's ports.
    pub host_ports: HostPorts,
    /// The container's ports.
    pub ports: PortRange,
    /// The protocol.
    pub protocol: Protocol,
    /// Who may come in; nobody listed means everybody.
    pub from: Vec<IpNetwork>,
}

/// What a person says about the host's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostPorts {
    /// Any free one of the host's ephemeral ports, for every container port.
    Any,
    /// The first free one of these, for the one container port.
    FirstOf(PortRange),
    /// These, as many as there are container ports.
    These(PortRange),
}

/// Why a text is no publication. The words are docker's where docker has the case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no container port.
    #[error("no port specified: {0}<empty>")]
    NoPort(String),
    /// The host port is none.
    #[error("invalid hostPort: {0}: {1}")]
    HostPort(String, PortRangeError),
    /// The container port is none.
    #[error("invalid containerPort: {0}: {1}")]
    ContainerPort(String, PortRangeError),
    /// The host address is none.
    #[error("invalid IP address: {0}: it is neither an IPv4 nor an IPv6 address of the host")]
    Address(String),
    /// The protocol is none.
    #[error("invalid proto: {0}: it is tcp, udp or sctp")]
    Protocol(String),
    /// Two ranges of different lengths.
    #[error("invalid ranges specified for container and host Ports: {ports} and {host_ports}")]
    Lengths {
        /// The container's ports.
        ports: PortRange,
        /// The host's ports.
        host_ports: PortRange,
    },
    /// The source is no network.
    #[error("invalid source: {0:?} is neither an address nor a network in CIDR notation")]
    From(String),
    /// A source that can never reach the host's address.
    #[error("invalid source: {from} is not of the same family as host address {host}")]
    FromFamily {
        /// The source.
        from: IpNetwork,
        /// The host's address.
        host: IpAddr,
    },
    /// A key that does not exist.
    #[error("invalid field {0:?}: there are published=, target=, protocol= and from=")]
    Field(String),
}

impl PublishSpec {
    /// What people type, for hints.
    pub const GRAMMAR: &str = "[[IP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp|sctp][,from=CIDR]...";

    /// Reads docker's short form.
    fn short(text: &str) -> Result<Self, PublishError> {
        let (front, ports) = text.rsplit_once(':').unwrap_or(("", text));
        let (host, host_ports) = front.rsplit_once(':').unwrap_or(("", front));
        let (ports, protocol) = ports.split_once('/').unwrap_or((ports, ""));
        if ports.is_empty() {
            return Err(PublishError::NoPort(text.into()));
        }
        let protocol = match protocol {
            "" => Protocol::Tcp,
            name => name.parse().map_err(|_| PublishError::Protocol(name.into()))?,
        };
        let ports: PortRange = ports.parse().map_err(|why| PublishError::ContainerPort(ports.into(), why))?;
        // ":8080:80" has an empty address, "[]:8080:80" a wrong one.
        let host = if host.is_empty() { None } else { Some(address(host)?) };
        Ok(Self { host, host_ports: host_ports_of(host_ports, ports)?, ports, protocol, from: Vec::new() })
    }

    /// Reads docker's long form: the fields before `from=`.
    fn long<'a>(fields: impl Iterator<Item = &'a str>) -> Result<Self, PublishError> {
        let (mut published, mut target, mut protocol) = ("", "", "");
        for field in fields {
            match field.split_once('=') {
                Some(("published", value)) => published = value,
                Some(("target", value)) => target = value,
                Some(("protocol", value)) => protocol = value,
                _ => return Err(PublishError::Field(field.into())),
            }
        }
        Self::short(&format!("{published}:{target}/{protocol}")).map_err(|error| match error {
            PublishError::NoPort(_) => PublishError::NoPort(String::new()),
            other => other,
        })
    }
}

/// Reads a host address, IPv6 with or without brackets.
fn address(text: &str) -> Result<IpAddr, PublishError> {
    let wrong = || PublishError::Address(text.into());
    match text.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or_else(wrong)?;
            inner.parse::<std::net::Ipv6Addr>().map(IpAddr::V6).map_err(|_| wrong())
        }
        None => text.parse().map_err(|_| wrong()),
    }
}

/// Reads the host's ports for the container's.
fn host_ports_of(text: &str, ports: PortRange) -> Result<HostPorts, PublishError> {
    if matches!(text, "" | "0") {
        return Ok(HostPorts::Any);
    }
    let host_ports: PortRange = text.parse().map_err(|why| PublishError::HostPort(text.into(), why))?;
    match (host_ports.len(), ports.len()) {
        (host, container) if host == container => Ok(HostPorts::These(host_ports)),
        (_, 1) => Ok(HostPorts::FirstOf(host_ports)),
        _ => Err(PublishError::Lengths { ports, host_ports }),
    }
}

/// Reads a source: a network, or one address.
fn source(text: &str) -> Result<IpNetwork, PublishError> {
    text.parse::<IpNetwork>().map(|network| masked(&network)).map_err(|_| PublishError::From(text.into()))
}

impl FromStr for PublishSpec {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let fields: Vec<&str> = text.split(',').collect();
        let (from, rest): (Vec<&str>, Vec<&str>) =
            fields.iter().partition(|field| field.starts_with("from="));
        let mut spec = match rest.as_slice() {
            [short] if !short.contains('=') => Self::short(short)?,
            [] => return Err(PublishError::NoPort(String::new())),
            // "80,81" is not docker's: say which part is wrong.
            fields => Self::long(fields.iter().copied())?,
        };
        for field in from {
            let from = source(field.strip_prefix("from=").unwrap_or(field))?;
            match spec.host {
                Some(host) if !is_same_family(host, from.ip()) => {
                    return Err(PublishError::FromFamily { from, host });
                }
                _ => spec.from.push(from),
            }
        }
        spec.from.sort_unstable();
        spec.from.dedup();
        Ok(spec)
    }
}

impl fmt::Display for HostPorts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::FirstOf(ports) | Self::These(ports) => ports.fmt(out),
        }
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host, self.host_ports) {
            (Some(host), ports) => {
                socket(out, host, ports)?;
                out.write_str(":")?;
            }
            (None, HostPorts::Any) => {}
            (None, ports) => write!(out, "{ports}:")?,
        }
        write!(out, "{}/{}", self.ports, self.protocol)?;
        self.from.iter().try_for_each(|from| write!(out, ",from={from}"))
    }
}

#[cfg(test)]
mod tests;
