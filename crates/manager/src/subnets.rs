//! From what was given on the command line to subnets that fit together.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_cni::ComposedSubnet;

use crate::pools::{address, bounds, first, host_mask, overlap};

/// Subnets, gateways, ranges and reserved addresses as given: matched by what contains what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The subnets.
    pub subnets: Vec<IpNetwork>,
    /// Gateways, at most one for each subnet.
    pub gateways: Vec<IpAddr>,
    /// Ranges to allocate from, at most one for each subnet.
    pub ranges: Vec<IpNetwork>,
    /// Addresses never to allocate, by name.
    pub aux: BTreeMap<String, IpAddr>,
}

/// One thing wrong with the subnets.
///
/// DOCKER: these are the engine's texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// A gateway or range without any subnet.
    #[error("every ip-range or gateway must have a corresponding subnet")]
    Lonely,
    /// Subnets of the same network overlap.
    #[error("multiple overlapping subnet configuration is not supported: {0} and {1}")]
    Overlapping(IpNetwork, IpNetwork),
    /// Host bits are set.
    #[error("invalid {what} {given}: it should be {meant}")]
    HostBits {
        /// `subnet` or `ip-range`.
        what: &'static str,
        /// As given.
        given: IpNetwork,
        /// Without the bits.
        meant: IpNetwork,
    },
    /// The subnet has no room for a gateway and a container.
    #[error("invalid subnet {0}: it has no room for a gateway and a container")]
    TooSmall(IpNetwork),
    /// No container can have these addresses.
    #[error("invalid subnet {0}: it is not for hosts")]
    NotForHosts(IpNetwork),
    /// Nothing contains it.
    #[error("no matching subnet for {what} {given}")]
    Unmatched {
        /// What it is.
        what: &'static str,
        /// As given.
        given: String,
    },
    /// Two of a kind for one subnet.
    #[error("cannot configure multiple {what} ({a}, {b}) on the same subnet ({subnet})")]
    Multiple {
        /// `ranges` or `gateways`.
        what: &'static str,
        /// The first.
        a: String,
        /// The second.
        b: String,
        /// Their subnet.
        subnet: IpNetwork,
    },
    /// The range is larger than its subnet.
    #[error("invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}")]
    BigRange {
        /// The range.
        range: IpNetwork,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The address stands for the subnet itself or for all its hosts.
    #[error("invalid {what} {ip}: it is the {which} address of subnet {subnet}")]
    Special {
        /// What it should be.
        what: String,
        /// The address.
        ip: IpAddr,
        /// `network` or `broadcast`.
        which: &'static str,
        /// The subnet.
        subnet: IpNetwork,
    },
}

/// Everything wrong with the subnets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SubnetErrors(pub Vec<SubnetError>);

impl fmt::Display for SubnetErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        out.write_str(&texts.join("; "))
    }
}

impl Wanted {
    /// Returns the subnets with everything that belongs to each, all problems at once otherwise.
    ///
    /// # Errors
    ///
    /// Lists every subnet, gateway, range or address that does not fit.
    pub fn matched(&self) -> Result<Vec<ComposedSubnet>, SubnetErrors> {
        let mut errors = Vec::new();
        if self.subnets.is_empty() && !(self.gateways.is_empty() && self.ranges.is_empty()) {
            errors.push(SubnetError::Lonely);
            return Err(SubnetErrors(errors));
        }
        for (nth, subnet) in self.subnets.iter().enumerate() {
            errors.extend(check_subnet(subnet));
            let twin = self.subnets[..nth].iter().find(|earlier| overlap(earlier, subnet));
            errors.extend(twin.map(|earlier| SubnetError::Overlapping(*earlier, *subnet)));
        }
        self.check_matches(&mut errors);
        if !errors.is_empty() {
            return Err(SubnetErrors(errors));
        }
        let subnets: Vec<ComposedSubnet> = self.subnets.iter().map(|subnet| self.complete(*subnet)).collect();
        for subnet in &subnets {
            errors.extend(check_hosts(subnet));
        }
        if errors.is_empty() { Ok(subnets) } else { Err(SubnetErrors(errors)) }
    }

    fn check_matches(&self, errors: &mut Vec<SubnetError>) {
        let unmatched = |what, given: String| SubnetError::Unmatched { what, given };
        let parent = |ip: IpAddr| self.subnets.iter().find(|subnet| subnet.contains(ip));
        for range in &self.ranges {
            match parent(range.ip()) {
                None => errors.push(unmatched("range", range.to_string())),
                Some(subnet) if range.prefix() < subnet.prefix() => {
                    errors.push(SubnetError::BigRange { range: *range, subnet: *subnet });
                }
                Some(_) => errors.extend(host_bits("ip-range", range)),
            }
        }
        for gateway in &self.gateways {
            if parent(*gateway).is_none() {
                errors.push(unmatched("gateway", gateway.to_string()));
            }
        }
        for (name, ip) in &self.aux {
            if parent(*ip).is_none() {
                errors.push(unmatched("aux-address", format!("{name}={ip}")));
            }
        }
        for subnet in &self.subnets {
            let inside: Vec<String> = self
                .ranges
                .iter()
                .filter(|range| subnet.contains(range.ip()))
                .map(ToString::to_string)
                .collect();
            errors.extend(multiple("ranges", &inside, *subnet));
            let inside: Vec<String> =
                self.gateways.iter().filter(|ip| subnet.contains(**ip)).map(ToString::to_string).collect();
            errors.extend(multiple("gateways", &inside, *subnet));
        }
    }

    fn complete(&self, subnet: IpNetwork) -> ComposedSubnet {
        let aux: BTreeMap<String, IpAddr> = self
            .aux
            .iter()
            .filter(|(_, ip)| subnet.contains(**ip))
            .map(|(name, ip)| (name.clone(), *ip))
            .collect();
        let range = self.ranges.iter().find(|range| subnet.contains(range.ip())).copied();
        let gateway = self.gateways.iter().find(|ip| subnet.contains(**ip)).copied();
        let gateway = gateway.unwrap_or_else(|| first_host(&subnet, range.as_ref(), &aux));
        ComposedSubnet { subnet, gateway, range, aux }
    }
}

fn multiple(what: &'static str, inside: &[String], subnet: IpNetwork) -> Option<SubnetError> {
    let [a, b, ..] = inside else { return None };
    Some(SubnetError::Multiple { what, a: a.clone(), b: b.clone(), subnet })
}

fn check_subnet(subnet: &IpNetwork) -> Option<SubnetError> {
    let ip = subnet.ip();
    let linkless = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_broadcast() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local(),
    };
    if linkless || ip.is_multicast() {
        return Some(SubnetError::NotForHosts(*subnet));
    }
    if host_mask(subnet) <= 1 {
        return Some(SubnetError::TooSmall(*subnet));
    }
    host_bits("subnet", subnet)
}

fn host_bits(what: &'static str, given: &IpNetwork) -> Option<SubnetError> {
    let meant = first(given);
    (meant.ip() != given.ip()).then_some(SubnetError::HostBits { what, given: *given, meant })
}

/// Makes sure that the gateway and the reserved addresses are addresses a host can have.
fn check_hosts(subnet: &ComposedSubnet) -> Vec<SubnetError> {
    let named = subnet.aux.iter().map(|(name, ip)| (format!("auxiliary address {name}"), *ip));
    let all = std::iter::once(("gateway".to_string(), subnet.gateway)).chain(named);
    all.filter_map(|(what, ip)| {
        let which = special(&subnet.subnet, ip)?;
        Some(SubnetError::Special { what, ip, which, subnet: subnet.subnet })
    })
    .collect()
}

/// Returns what an address stands for when it is not one host's.
fn special(subnet: &IpNetwork, ip: IpAddr) -> Option<&'static str> {
    let (start, end) = bounds(subnet);
    let v4 = subnet.is_ipv4();
    if ip == address(start, v4) {
        Some("network")
    } else if v4 && ip == address(end, v4) {
        Some("broadcast")
    } else {
        None
    }
}

/// Returns the first address of the range, or of the subnet, that a gateway can have.
fn first_host(subnet: &IpNetwork, range: Option<&IpNetwork>, aux: &BTreeMap<String, IpAddr>) -> IpAddr {
    let (start, end) = bounds(range.unwrap_or(subnet));
    let v4 = subnet.is_ipv4();
    let free = |ip: &IpAddr| special(subnet, *ip).is_none() && !aux.values().any(|taken| taken == ip);
    (start..=end).map(|number| address(number, v4)).find(free).unwrap_or_else(|| address(start, v4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(subnets: &[&str], gateways: &[&str], ranges: &[&str], aux: &[(&str, &str)]) -> Wanted {
        Wanted {
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            aux: aux.iter().map(|(name, ip)| ((*name).into(), ip.parse().unwrap())).collect(),
        }
    }

    fn error(wanted: &Wanted) -> String {
        wanted.matched().unwrap_err().to_string()
    }

    #[test]
    fn everything_finds_its_subnet() {
        let both = wanted(
            &["10.1.0.0/16", "fd01::/64"],
            &["fd01::9", "10.1.0.254"],
            &["10.1.2.0/24"],
            &[("router", "10.1.0.5"), ("nas", "fd01::5")],
        );
        let [v4, v6] = &both.matched().unwrap()[..] else { panic!("two subnets") };
        assert_eq!(v4.gateway.to_string(), "10.1.0.254");
        assert_eq!(v4.range.unwrap().to_string(), "10.1.2.0/24");
        assert_eq!(v4.aux.keys().collect::<Vec<_>>(), ["router"]);
        assert_eq!(v6.gateway.to_string(), "fd01::9");
        assert_eq!(v6.aux.keys().collect::<Vec<_>>(), ["nas"]);
    }

    #[test]
    fn the_gateway_is_the_first_host_there_is() {
        for (subnet, range, aux, gateway) in [
            ("10.1.0.0/24", None, None, "10.1.0.1"),
            ("10.1.0.0/24", Some("10.1.0.128/25"), None, "10.1.0.128"),
            ("10.1.0.0/24", Some("10.1.0.0/25"), None, "10.1.0.1"),
            ("10.1.0.0/24", None, Some(("r", "10.1.0.1")), "10.1.0.2"),
            ("10.1.0.0/30", None, None, "10.1.0.1"),
            ("fd01::/64", None, None, "fd01::1"),
        ] {
            let wanted = wanted(&[subnet], &[], range.as_slice(), aux.as_slice());
            assert_eq!(wanted.matched().unwrap()[0].gateway.to_string(), gateway, "{subnet} {range:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let table = [
            (
                wanted(&[], &["10.1.0.1"], &[], &[]),
                "every ip-range or gateway must have a corresponding subnet",
            ),
            (wanted(&["10.1.0.5/24"], &[], &[], &[]), "invalid subnet 10.1.0.5/24: it should be 10.1.0.0/24"),
            (
                wanted(&["10.1.0.5/32"], &[], &[], &[]),
                "invalid subnet 10.1.0.5/32: it has no room for a gateway and a container",
            ),
            (
                wanted(&["10.1.0.4/31", "fd01::/127"], &[], &[], &[]),
                "invalid subnet 10.1.0.4/31: it has no room for a gateway and a container; \
                 invalid subnet fd01::/127: it has no room for a gateway and a container",
            ),
            (wanted(&["127.0.0.0/8"], &[], &[], &[]), "invalid subnet 127.0.0.0/8: it is not for hosts"),
            (wanted(&["ff00::/8"], &[], &[], &[]), "invalid subnet ff00::/8: it is not for hosts"),
            (
                wanted(&["10.0.0.0/8", "10.1.0.0/16"], &[], &[], &[]),
                "multiple overlapping subnet configuration is not supported: 10.0.0.0/8 and 10.1.0.0/16",
            ),
            (wanted(&["10.1.0.0/24"], &["10.2.0.1"], &[], &[]), "no matching subnet for gateway 10.2.0.1"),
            (
                wanted(&["10.1.0.0/24"], &[], &["10.2.0.0/25"], &[]),
                "no matching subnet for range 10.2.0.0/25",
            ),
            (
                wanted(&["10.1.0.0/24"], &[], &[], &[("r", "10.2.0.1")]),
                "no matching subnet for aux-address r=10.2.0.1",
            ),
            (
                wanted(&["10.1.0.0/24"], &[], &["10.1.0.0/16"], &[]),
                "invalid ip-range 10.1.0.0/16: CIDR block is bigger than its parent subnet 10.1.0.0/24",
            ),
            (
                wanted(&["10.1.0.0/24"], &[], &["10.1.0.129/25"], &[]),
                "invalid ip-range 10.1.0.129/25: it should be 10.1.0.128/25",
            ),
            (
                wanted(&["10.1.0.0/24"], &["10.1.0.1", "10.1.0.2"], &[], &[]),
                "cannot configure multiple gateways (10.1.0.1, 10.1.0.2) on the same subnet (10.1.0.0/24)",
            ),
            (
                wanted(&["10.1.0.0/24"], &["10.1.0.255"], &[], &[("r", "10.1.0.0")]),
                "invalid gateway 10.1.0.255: it is the broadcast address of subnet 10.1.0.0/24; \
                 invalid auxiliary address r 10.1.0.0: it is the network address of subnet 10.1.0.0/24",
            ),
        ];
        for (wanted, text) in table {
            assert_eq!(error(&wanted), text);
        }
    }
}
