//! Addresses as numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Returns the address as a number that counts up from the family's first one.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u32::from(four).into(),
        IpAddr::V6(six) => six.into(),
    }
}

/// Returns the address of `like`'s family with this number; one too large for IPv4 is cut to its low bits.
pub(crate) fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => {
            Ipv4Addr::from(u32::try_from(number & u128::from(u32::MAX)).unwrap_or(u32::MAX)).into()
        }
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// Returns whether two addresses are of one family.
pub(crate) fn same_family(one: IpAddr, two: IpAddr) -> bool {
    one.is_ipv4() == two.is_ipv4()
}

/// Returns the following address, if the family has one.
pub fn next(ip: IpAddr) -> Option<IpAddr> {
    let following = number(ip).checked_add(1)?;
    let moved = address(following, ip);
    (number(moved) == following).then_some(moved)
}

/// Returns the last address of a network.
pub(crate) fn last(network: &IpNetwork) -> IpAddr {
    let bits = if network.is_ipv4() { 32 } else { 128 };
    let host_bits = bits - u32::from(network.prefix());
    let hosts = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
    address(number(network.network()) | hosts, network.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_families() {
        for (network, end) in [
            ("10.0.0.0/8", "10.255.255.255"),
            ("0.0.0.0/0", "255.255.255.255"),
            ("1.2.3.4/32", "1.2.3.4"),
            ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::/64", "2001:db8::ffff:ffff:ffff:ffff"),
        ] {
            assert_eq!(last(&network.parse().unwrap()).to_string(), end);
        }
        assert_eq!(next("255.255.255.255".parse().unwrap()), None);
        assert_eq!(next(Ipv6Addr::from(u128::MAX).into()), None);
        assert_eq!(next("10.0.0.255".parse().unwrap()), Some("10.0.1.0".parse().unwrap()));
    }
}
