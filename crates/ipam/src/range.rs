//! One range: a part of a subnet that addresses are taken from.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::address::{address, last, number, same_family};

/// A run of addresses in one subnet, with the subnet's gateway, which is never handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: IpNetwork,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

/// Why a range is refused. The texts are those of the CNI reference implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The subnet has no address besides its ends.
    #[error("Network {0} too small to allocate from")]
    TooSmall(IpNetwork),
    /// The subnet is written with an address inside it.
    #[error(
        "Network has host bits set. For a subnet mask of length {length} the network address is {network}"
    )]
    HostBits {
        /// The prefix length.
        length: u8,
        /// What the subnet should have been written as.
        network: IpAddr,
    },
    /// The first address lies outside, or behind the last.
    #[error("RangeStart {start} not in network {subnet}")]
    Start {
        /// The address.
        start: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The last address lies outside.
    #[error("RangeEnd {end} not in network {subnet}")]
    End {
        /// The address.
        end: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The gateway is of the other family.
    #[error("gateway {gateway} is not of the address family of {subnet}")]
    Gateway {
        /// The address.
        gateway: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
}

impl Range {
    /// Returns the range from `start` to `end`, by default everything between the subnet's own address
    /// and its broadcast address. The gateway, by default the subnet's first address, may lie anywhere.
    ///
    /// # Errors
    ///
    /// When the subnet is too small or badly written, or an end lies outside it.
    pub fn new(
        subnet: IpNetwork,
        start: Option<IpAddr>,
        end: Option<IpAddr>,
        gateway: Option<IpAddr>,
    ) -> Result<Self, RangeError> {
        let bits = if subnet.is_ipv4() { 32 } else { 128 };
        if subnet.prefix() > bits - 2 {
            return Err(RangeError::TooSmall(subnet));
        }
        let network = subnet.network();
        if subnet.ip() != network {
            return Err(RangeError::HostBits { length: subnet.prefix(), network });
        }
        let [start, end, gateway] = [start, end, gateway].map(|given| given.map(|ip| ip.to_canonical()));
        if let Some(start) = start
            && (!subnet.contains(start) || end.is_some_and(|end| same_family(start, end) && start > end))
        {
            return Err(RangeError::Start { start, subnet });
        }
        if let Some(end) = end.filter(|end| !subnet.contains(*end)) {
            return Err(RangeError::End { end, subnet });
        }
        if let Some(gateway) = gateway.filter(|gateway| !same_family(*gateway, network)) {
            return Err(RangeError::Gateway { gateway, subnet });
        }
        let first = address(number(network) + 1, network);
        let range = Self {
            subnet,
            start: start.unwrap_or(first),
            end: end.unwrap_or_else(|| default_end(&subnet)),
            gateway: gateway.unwrap_or(first),
        };
        // Only an end given as the subnet's own address is before the default start.
        if range.start > range.end { Err(RangeError::End { end: range.end, subnet }) } else { Ok(range) }
    }

    /// Returns the subnet.
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    /// Returns the first address.
    pub fn start(&self) -> IpAddr {
        self.start
    }

    /// Returns the last address.
    pub fn end(&self) -> IpAddr {
        self.end
    }

    /// Returns the gateway.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Returns whether an address lies between the ends.
    pub fn contains(&self, ip: IpAddr) -> bool {
        same_family(ip, self.start) && self.start <= ip && ip <= self.end
    }

    /// Returns whether two ranges have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }

    /// Returns whether an address of the subnet names it as a whole: its own address, or the IPv4 broadcast.
    pub fn is_edge(&self, ip: IpAddr) -> bool {
        ip == self.subnet.network() || (ip.is_ipv4() && ip == last(&self.subnet))
    }
}

/// Returns the last address that a host may have: IPv6 has no broadcast.
fn default_end(subnet: &IpNetwork) -> IpAddr {
    let end = last(subnet);
    if subnet.is_ipv4() { address(number(end) - 1, end) } else { end }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str, start: &str, end: &str, gateway: &str) -> Result<Range, RangeError> {
        let ip = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        Range::new(subnet.parse().unwrap(), ip(start), ip(end), ip(gateway))
    }

    #[test]
    fn defaults() {
        for (subnet, text, gateway) in [
            ("192.0.2.0/24", "192.0.2.1-192.0.2.254", "192.0.2.1"),
            ("192.0.2.0/25", "192.0.2.1-192.0.2.126", "192.0.2.1"),
            ("192.0.2.12/30", "192.0.2.13-192.0.2.14", "192.0.2.13"),
            ("0.0.0.0/0", "0.0.0.1-255.255.255.254", "0.0.0.1"),
            ("2001:db8:1::/64", "2001:db8:1::1-2001:db8:1:0:ffff:ffff:ffff:ffff", "2001:db8:1::1"),
            ("2001:db8:1::/126", "2001:db8:1::1-2001:db8:1::3", "2001:db8:1::1"),
        ] {
            let range = range(subnet, "", "", "").unwrap();
            assert_eq!((range.to_string().as_str(), range.gateway().to_string().as_str()), (text, gateway));
        }
    }

    #[test]
    fn what_is_given_is_kept() {
        let kept = range("192.0.2.0/24", "192.0.2.40", "192.0.2.50", "192.0.2.254").unwrap();
        assert_eq!(
            (kept.to_string().as_str(), kept.gateway().to_string().as_str()),
            ("192.0.2.40-192.0.2.50", "192.0.2.254")
        );
        let whole = range("192.0.2.0/24", "192.0.2.0", "192.0.2.255", "198.51.100.1").unwrap();
        assert_eq!(whole.to_string(), "192.0.2.0-192.0.2.255");
        assert!(whole.is_edge(whole.start()) && whole.is_edge(whole.end()));
    }

    #[test]
    fn refusals() {
        let start = |subnet, text| range(subnet, text, "", "").unwrap_err().to_string();
        let end = |subnet, text| range(subnet, "", text, "").unwrap_err().to_string();
        assert_eq!(start("192.0.2.0/31", ""), "Network 192.0.2.0/31 too small to allocate from");
        assert_eq!(start("192.0.2.0/32", ""), "Network 192.0.2.0/32 too small to allocate from");
        assert_eq!(start("2001:db8::/127", ""), "Network 2001:db8::/127 too small to allocate from");
        assert_eq!(
            start("10.1.2.10/24", ""),
            "Network has host bits set. For a subnet mask of length 24 the network address is 10.1.2.0"
        );
        assert_eq!(start("192.0.2.0/24", "192.0.3.0"), "RangeStart 192.0.3.0 not in network 192.0.2.0/24");
        assert_eq!(
            start("192.0.2.0/24", "2001:db8::1"),
            "RangeStart 2001:db8::1 not in network 192.0.2.0/24"
        );
        assert_eq!(end("192.0.2.0/24", "192.0.4.255"), "RangeEnd 192.0.4.255 not in network 192.0.2.0/24");
        assert_eq!(end("192.0.2.0/24", "192.0.2.0"), "RangeEnd 192.0.2.0 not in network 192.0.2.0/24");
        assert_eq!(
            range("192.0.2.0/24", "192.0.2.50", "192.0.2.40", "").unwrap_err().to_string(),
            "RangeStart 192.0.2.50 not in network 192.0.2.0/24"
        );
        assert!(range("192.0.2.0/24", "", "", "fe80::1").is_err());
    }

    #[test]
    fn overlap_means_a_common_address() {
        let make = |start, end| range("192.0.2.0/24", start, end, "").unwrap();
        let middle = make("192.0.2.40", "192.0.2.50");
        for (start, end, expected) in [
            ("192.0.2.1", "192.0.2.39", false),
            ("192.0.2.1", "192.0.2.40", true),
            ("192.0.2.45", "192.0.2.46", true),
            ("192.0.2.30", "192.0.2.60", true),
            ("192.0.2.50", "192.0.2.60", true),
            ("192.0.2.51", "192.0.2.60", false),
        ] {
            assert_eq!(middle.overlaps(&make(start, end)), expected, "{start}");
            assert_eq!(make(start, end).overlaps(&middle), expected, "{start}");
        }
        assert!(!middle.overlaps(&range("2001:db8::/64", "", "", "").unwrap()));
    }
}
