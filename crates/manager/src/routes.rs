//! What the host already routes somewhere: subnets that a new network must not hide.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::pools::network;

/// Routes shorter than this send whole continents away: they are ways to split a default route in two
/// (VPNs do it), not neighbourhoods to keep clear of.
const SHORTEST: u8 = 8;

/// One of the host's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNetwork,
    /// By way of which router.
    pub via: Option<IpAddr>,
    /// Through which interface.
    pub dev: String,
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.to)?;
        if let Some(via) = self.via {
            write!(out, " via {via}")?;
        }
        write!(out, " dev {}", self.dev)
    }
}

/// Returns the host's routes of both families. Where `/proc` has none, there are none.
pub fn of_host() -> Vec<Route> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = parse_v4(&read("/proc/net/route"));
    routes.extend(parse_v6(&read("/proc/net/ipv6_route")));
    routes
}

/// KERNEL: `fib_route_seq_show` (net/ipv4/fib_trie.c) prints addresses as hexadecimal words in the
/// machine's own byte order.
fn parse_v4(table: &str) -> Vec<Route> {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()));
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [dev, to, via, _, _, _, _, mask, ..] = fields[..] else { return None };
        let prefix = u8::try_from(u32::from(word(mask)?).leading_ones()).ok()?;
        let via = word(via)?;
        Some(Route {
            to: network(word(to)?.into(), prefix),
            via: (!via.is_unspecified()).then_some(via.into()),
            dev: dev.into(),
        })
    };
    table.lines().skip(1).filter_map(line).filter(|route| route.to.prefix() >= SHORTEST).collect()
}

/// KERNEL: `rt6_info_route` prints the whole table: local and multicast addresses too, which are parts of
/// what an interface's own prefix covers or none of a network's business.
fn parse_v6(table: &str) -> Vec<Route> {
    let address = |text: &str| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from);
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [to, prefix, _, _, via, _, _, _, _, dev] = fields[..] else { return None };
        let to = address(to)?;
        let via = address(via)?;
        let route = Route {
            to: network(to.into(), u8::from_str_radix(prefix, 16).ok()?),
            via: (!via.is_unspecified()).then_some(via.into()),
            dev: dev.into(),
        };
        (!to.is_multicast() && !to.is_unicast_link_local() && dev != "lo").then_some(route)
    };
    table.lines().filter_map(line).filter(|route| route.to.prefix() >= SHORTEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn ipv4_routes_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            tun0\t00000080\t0100080A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n\
            tun0\t0000000A\t0100080A\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n\
            broken\n";
        let shown: Vec<String> = parse_v4(table).iter().map(Route::to_string).collect();
        assert_eq!(shown, ["192.168.0.0/24 dev eth0", "10.0.0.0/8 via 10.8.0.1 dev tun0"]);
    }

    #[test]
    fn ipv6_routes_are_read() {
        let none = "0".repeat(32);
        let line = |to: &str, prefix: &str, via: &str, dev: &str| {
            format!("{to} {prefix} {none} 00 {via} 00000100 00000001 00000000 00000001     {dev}\n")
        };
        let ula = "fd120000000000000000000000000000";
        let table = [
            line(ula, "40", &none, "eth0"),
            line(&none, "00", "fe800000000000000000000000000001", "eth0"),
            line("fe800000000000000000000000000000", "40", &none, "eth0"),
            line("ff000000000000000000000000000000", "08", &none, "eth0"),
            line("fd120000000000000000000000000001", "80", &none, "lo"),
        ];
        let shown: Vec<String> = parse_v6(&table.concat()).iter().map(Route::to_string).collect();
        assert_eq!(shown, ["fd12::/64 dev eth0"]);
    }

    #[test]
    fn the_hosts_own_tables_are_readable() {
        // Whatever is there, reading it yields prefixes no shorter than those we keep clear of.
        assert!(of_host().iter().all(|route| route.to.prefix() >= SHORTEST));
    }
}
