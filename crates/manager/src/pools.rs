//! Where networks without a subnet of their own get one.
//!
//! Addresses of both families are handled as numbers of 128 bits, IPv4 ones in their lowest 32, so that
//! one search serves both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::Deserialize;

/// A range of addresses that networks are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Pool {
    /// The whole range.
    pub base: IpNetwork,
    /// The prefix length of each network.
    pub size: u8,
}

/// Why a pool is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Networks larger than the pool, or with no room for a container.
    #[error("pool {base} cannot be cut into networks of size {size}")]
    Size {
        /// The pool.
        base: IpNetwork,
        /// The size asked for.
        size: u8,
    },
    /// The pool's address is not its first.
    #[error("pool {0} has host bits set: it should be {1}")]
    HostBits(IpNetwork, IpNetwork),
}

impl Pool {
    /// Makes sure that networks can be cut from the pool.
    ///
    /// # Errors
    ///
    /// When the size does not fit the base or the base has host bits set.
    pub fn checked(self) -> Result<Self, PoolError> {
        let start = first(&self.base);
        if start.ip() != self.base.ip() {
            return Err(PoolError::HostBits(self.base, start));
        }
        let longest = width(&self.base) - 2;
        if self.size < self.base.prefix() || self.size > longest {
            return Err(PoolError::Size { base: self.base, size: self.size });
        }
        Ok(self)
    }
}

/// Returns docker's first networks, 172.17.0.0/16 to 192.168.240.0/20, and then 65,536 more.
///
/// DOCKER: the first 31 are the local default pools of the engine; the rest is its overlay pool, which is
/// what keeps us going where docker stops.
pub fn defaults() -> Vec<Pool> {
    let v4 = |a, b, prefix, size| Pool { base: network(Ipv4Addr::new(a, b, 0, 0).into(), prefix), size };
    vec![
        v4(172, 17, 16, 16),
        v4(172, 18, 16, 16),
        v4(172, 19, 16, 16),
        v4(172, 20, 14, 16),
        v4(172, 24, 14, 16),
        v4(172, 28, 14, 16),
        v4(192, 168, 16, 20),
        v4(10, 0, 8, 24),
    ]
}

/// Returns this host's unique local pool: `fd`, 40 bits of `hash`, networks of /64.
///
/// DOCKER: the same host always gets the same prefix, so addresses survive a re-created network.
pub fn unique_local(hash: [u8; 32]) -> Pool {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[27..32]);
    Pool { base: network(Ipv6Addr::from(octets).into(), 48), size: 64 }
}

/// Addresses that are in use, as disjoint intervals in ascending order for each family.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl FromIterator<IpNetwork> for Taken {
    fn from_iter<I: IntoIterator<Item = IpNetwork>>(networks: I) -> Self {
        let mut taken = Self::default();
        for network in networks {
            taken.family(network.is_ipv4()).push(bounds(&network));
        }
        taken.v4 = merged(taken.v4);
        taken.v6 = merged(taken.v6);
        taken
    }
}

impl Taken {
    fn family(&mut self, v4: bool) -> &mut Vec<(u128, u128)> {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }

    /// Returns the first network of the first pool with one that touches nothing taken.
    ///
    /// Each step of the search jumps past one interval, found by bisection: the cost is that of the
    /// intervals in the way, whatever their size.
    pub fn first_free(&self, pools: &[Pool], v4: bool) -> Option<IpNetwork> {
        pools.iter().filter(|pool| pool.base.is_ipv4() == v4).find_map(|pool| self.first_in(pool))
    }

    fn first_in(&self, pool: &Pool) -> Option<IpNetwork> {
        let v4 = pool.base.is_ipv4();
        let intervals = if v4 { &self.v4 } else { &self.v6 };
        let step = 1_u128 << (width(&pool.base) - pool.size);
        let (mut at, end) = bounds(&pool.base);
        loop {
            let last = at.checked_add(step - 1).filter(|last| *last <= end)?;
            let next = intervals.partition_point(|(_, taken_end)| *taken_end < at);
            match intervals.get(next) {
                Some((taken, taken_end)) if *taken <= last => {
                    at = taken_end.checked_add(1)?.checked_next_multiple_of(step)?;
                }
                _ => return Some(network(address(at, v4), pool.size)),
            }
        }
    }
}

fn merged(mut intervals: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    intervals.sort_unstable();
    let mut disjoint: Vec<(u128, u128)> = Vec::with_capacity(intervals.len());
    for (start, end) in intervals {
        match disjoint.last_mut() {
            Some((_, last)) if start <= last.saturating_add(1) => *last = (*last).max(end),
            _ => disjoint.push((start, end)),
        }
    }
    disjoint
}

/// Returns whether two networks have an address in common.
pub fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    let ((a_start, a_end), (b_start, b_end)) = (bounds(a), bounds(b));
    a.is_ipv4() == b.is_ipv4() && a_start <= b_end && b_start <= a_end
}

/// Returns the network without its host bits.
pub fn first(network: &IpNetwork) -> IpNetwork {
    self::network(network.network(), network.prefix())
}

/// Returns the network of an address; a prefix that is too long is taken for the longest.
pub(crate) fn network(ip: IpAddr, prefix: u8) -> IpNetwork {
    IpNetwork::new(ip, prefix).unwrap_or_else(|_| IpNetwork::from(ip))
}

/// Returns the first and the last address as numbers.
pub(crate) fn bounds(network: &IpNetwork) -> (u128, u128) {
    let mask = host_mask(network);
    let start = number(network.ip()) & !mask;
    (start, start | mask)
}

/// Returns the bits of an address that number the host.
pub(crate) fn host_mask(network: &IpNetwork) -> u128 {
    match width(network) - network.prefix() {
        128 => u128::MAX,
        bits => (1 << bits) - 1,
    }
}

fn width(network: &IpNetwork) -> u8 {
    if network.is_ipv4() { 32 } else { 128 }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// Returns the address of a number.
pub(crate) fn address(number: u128, v4: bool) -> IpAddr {
    match (v4, u32::try_from(number)) {
        (true, Ok(number)) => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn free(taken: &[&str]) -> String {
        let taken: Taken = taken.iter().map(|text| net(text)).collect();
        taken.first_free(&defaults(), true).unwrap().to_string()
    }

    #[test]
    fn the_first_networks_are_dockers() {
        let mut taken = Vec::new();
        for nth in 0..33 {
            let next = taken.iter().copied().collect::<Taken>().first_free(&defaults(), true).unwrap();
            let expected = match nth {
                0..=14 => format!("172.{}.0.0/16", 17 + nth),
                15..=30 => format!("192.168.{}.0/20", (nth - 15) * 16),
                _ => format!("10.0.{}.0/24", nth - 31),
            };
            assert_eq!(next.to_string(), expected);
            taken.push(next);
        }
    }

    #[test]
    fn what_is_taken_is_jumped_over_whatever_its_size() {
        assert_eq!(free(&[]), "172.17.0.0/16");
        assert_eq!(free(&["172.17.200.4/32"]), "172.18.0.0/16");
        assert_eq!(free(&["172.16.0.0/12"]), "192.168.0.0/20");
        assert_eq!(free(&["172.16.0.0/12", "192.168.1.0/24"]), "192.168.16.0/20");
        assert_eq!(free(&["172.0.0.0/8", "192.0.0.0/8", "10.0.0.0/9"]), "10.128.0.0/24");
        assert_eq!(free(&["172.17.0.0/16", "172.19.0.0/16"]), "172.18.0.0/16");
        assert_eq!(free(&["fd00::/8"]), "172.17.0.0/16");
    }

    #[test]
    fn exhausted_pools_have_nothing() {
        let pool = Pool { base: net("255.255.254.0/23"), size: 24 };
        let taken: Taken = [net("255.255.255.0/24"), net("255.255.254.9/32")].into_iter().collect();
        assert_eq!(taken.first_free(&[pool], true), None);
        let taken: Taken = [net("0.0.0.0/0"), net("::/0")].into_iter().collect();
        assert_eq!(taken.first_free(&defaults(), true), None);
        assert_eq!(taken.first_free(&[unique_local([7; 32])], false), None);
    }

    #[test]
    fn thousands_of_networks_fit() {
        let base = net("10.0.0.0/8");
        let all: Vec<IpNetwork> =
            (0..65_536_u32).map(|nth| network(Ipv4Addr::from((10 << 24) | (nth << 8)).into(), 24)).collect();
        let pool = [Pool { base, size: 24 }];
        let taken: Taken = all[..65_535].iter().copied().collect();
        assert_eq!(taken.first_free(&pool, true), Some(all[65_535]));
        assert_eq!(all.into_iter().collect::<Taken>().first_free(&pool, true), None);
    }

    #[test]
    fn a_unique_local_pool_is_a_48_of_64s() {
        let pool = unique_local([0xab; 32]);
        assert_eq!(pool.base.to_string(), "fdab:abab:abab::/48");
        let taken: Taken = [net("fdab:abab:abab::/64")].into_iter().collect();
        assert_eq!(taken.first_free(&[pool], false), Some(net("fdab:abab:abab:1::/64")));
    }

    #[test]
    fn pools_that_make_no_sense_are_refused() {
        let check = |base, size| Pool { base: net(base), size }.checked();
        assert!(check("10.0.0.0/8", 24).is_ok());
        assert!(check("10.0.0.0/24", 16).is_err());
        assert!(check("10.0.0.0/24", 31).is_err());
        assert!(check("fd00::/8", 64).is_ok());
        assert_eq!(
            check("10.1.0.0/8", 24).unwrap_err().to_string(),
            "pool 10.1.0.0/8 has host bits set: it should be 10.0.0.0/8"
        );
    }

    #[test]
    fn overlap_is_symmetric_and_within_a_family() {
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.1.2.0/24", true),
            ("10.0.0.0/24", "10.0.1.0/24", false),
            ("0.0.0.0/0", "::/0", false),
            ("fd00::/8", "fd12::/64", true),
        ] {
            assert_eq!(overlap(&net(a), &net(b)), expected);
            assert_eq!(overlap(&net(b), &net(a)), expected);
        }
    }
}
