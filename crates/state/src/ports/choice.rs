//! Ports that are chosen, because the request leaves the choice to us.

use std::fs;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_model::port::{PortRange, Protocol, Publication};

/// One address of the host and the container's address it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The host's address; `0.0.0.0` or `::` for any of that family.
    pub host: IpAddr,
    /// The container's address, of the same family.
    pub target: IpAddr,
}

/// A port of the container to be published at a host port that is free on all of these addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    /// The protocol.
    pub protocol: Protocol,
    /// The host ports to choose from, lowest first; `None` for the ports that the kernel itself hands out,
    /// in turn.
    pub among: Option<PortRange>,
    /// Where: one for IPv4 and one for IPv6, usually. All get the same port.
    pub bindings: Vec<Binding>,
    /// The container's port.
    pub target_port: u16,
    /// Who may come in; nobody listed means everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNetwork>,
}

/// A choice that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// What was asked for.
    #[serde(flatten)]
    pub choice: Choice,
    /// The host's port.
    pub port: u16,
}

impl Choice {
    /// Returns what is published if it is this port; nothing if that is no port.
    pub fn at(&self, port: u16) -> Vec<Publication> {
        let (Ok(host_ports), Ok(target_ports)) =
            (PortRange::single(port), PortRange::single(self.target_port))
        else {
            return Vec::new();
        };
        self.bindings
            .iter()
            .filter_map(|binding| {
                let Binding { host, target } = *binding;
                let from = weft_model::port::allowed_of(&self.from, host)?;
                Some(Publication { protocol: self.protocol, host, host_ports, target, target_ports, from })
            })
            .collect()
    }
}

/// Docker's answer where the kernel does not say (libnetwork/portallocator).
const UNKNOWN: (u16, u16) = (49153, 65535);

/// Returns the ports that the kernel hands out to sockets, and those of them that it never does.
pub fn ephemeral_ports() -> (PortRange, Vec<PortRange>) {
    let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    (parse_range(&read("ip_local_port_range")), parse_list(&read("ip_local_reserved_ports")))
}

fn parse_range(text: &str) -> PortRange {
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    let told = numbers.next().zip(numbers.next());
    let (first, last) = told.unwrap_or(UNKNOWN);
    PortRange::new(first, last).unwrap_or_else(|_| parse_range(""))
}

fn parse_list(text: &str) -> Vec<PortRange> {
    text.trim().split(',').filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_ranges_are_understood() {
        assert_eq!(parse_range("32768\t60999\n").to_string(), "32768-60999");
        for odd in ["", "x", "0 10", "9 1", "70000 80000"] {
            assert_eq!(parse_range(odd).to_string(), "49153-65535", "{odd:?}");
        }
        let reserved: Vec<_> = parse_list("8080,9148-9150\n").iter().map(ToString::to_string).collect();
        assert_eq!(reserved, ["8080", "9148-9150"]);
        assert_eq!(parse_list("\n"), []);
        assert!(ephemeral_ports().0.len() > 1);
    }

    #[test]
    fn a_choice_is_published_on_all_its_addresses() {
        let choice = Choice {
            protocol: Protocol::Tcp,
            among: None,
            bindings: vec![
                Binding { host: "0.0.0.0".parse().unwrap(), target: "10.1.0.2".parse().unwrap() },
                Binding { host: "::".parse().unwrap(), target: "fd00::2".parse().unwrap() },
            ],
            target_port: 80,
            from: Vec::new(),
        };
        let lines: Vec<_> = choice.at(40000).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["tcp 0.0.0.0:40000 -> 10.1.0.2:80", "tcp [::]:40000 -> [fd00::2]:80"]);
        assert_eq!(choice.at(0), []);
        let allowed = Choice { from: vec!["192.0.2.0/24".parse().unwrap()], ..choice };
        assert_eq!(allowed.at(1).len(), 1, "a list of IPv4 sources lets nobody in by IPv6");
    }
}
