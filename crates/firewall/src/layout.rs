//! Our tables: what is in them, as data.
//!
//! `table inet weft` has static rules and one element for everything that comes and goes. The listings are in
//! docs/firewall.md; here is what leads to what.
//!
//! ```text
//! postrouting   to a published port?  -> hairpin        masquerade: from the host's loopback, from the same subnet
//!               -> from_ours          from a subnet that is masqueraded? -> outgoing
//! outgoing      multicast is left alone
//!               -> same_subnet        accept: nothing is changed within a subnet
//!               -> to_address         snat: subnets with an address of their own
//!               masquerade
//! forward       -> user               the administrator's own
//!               within a network?     accept: from one of its interfaces to another
//!               -> internal           internal? -> only_inside
//!               to a published port?  accept
//!               isolated?             -> from_isolated
//!               -> no_icc             from a network to itself? drop
//!               into a guarded one?   -> guard
//! prerouting    for the host?         -> arriving -> restricted_any -> restricted, published    dnat
//! output        for the host?         -> published
//! local_only    nobody sends to the host's loopback from outside
//! ```
//!
//! How we got here. One rule per address, as upstream has it, makes every connection and every ADD
//! pay for every container. One interval set of `subnet . subnet` needs a single pair of rules, but
//! the kernel refuses an interval inside another one (so a network whose subnet was narrowed could
//! not attach until a reboot), copies the whole set for every change, and is missing before
//! Linux 5.6. A hash set per prefix length has none of this: adding, finding and removing a subnet
//! cost the same with one network and with five thousand, subnets may overlap, and a connection
//! pays for the two or three lengths that are in use. The rules for a length come with its
//! set, in one transaction that only one process can win.
//!
//! Isolation plays the same trick, since a rule cannot compare two interfaces: one element says both
//! "this one is isolated" and "in and out are the same". Chains come with the first network or port
//! that asks for them, so a host without one does not pay. Isolation looks at no connection:
//! an answer is dropped as the question would have been.

pub(crate) mod bridge;
pub(crate) mod forward;
pub(crate) mod from;
pub(crate) mod loopback;
pub(crate) mod masquerade;
pub(crate) mod published;
mod window;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_nft::{Family, Table};

use crate::admission;

pub(crate) use masquerade::{AT_POSTROUTING, multicast};

/// The layout's version, as the table's comment carries it. A table with another one is replaced.
pub(crate) const VERSION: &str = "weft layout 7";
/// The same for the table of bridges.
pub(crate) const BRIDGE_VERSION: &str = "weft layout 1";
/// What the comment of every version starts with.
pub(crate) const ANY_VERSION: &str = "weft layout ";

/// The table for everything that is routed.
pub(crate) const INET: Table = Table::new(Family::Inet, "weft");
/// The table for frames that pass a bridge.
pub(crate) const BRIDGE: Table = Table::new(Family::Bridge, "weft");

/// Any address of either family: what no address is left of when it is masked with it.
pub(crate) const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// The bit of a connection's status that says that its receiver was translated (IPS_DST_NAT).
pub(crate) const TRANSLATED: u32 = 1 << 5;

/// What connection tracking calls a packet of a connection that it knows (nf_conntrack_common.h).
pub(crate) const KNOWN: u32 = 1 << 1 | 1 << 2;

/// The names of the chains that we make, besides the administrator's.
const CHAINS: [&str; 36] = [
    masquerade::POSTROUTING,
    masquerade::HAIRPIN,
    masquerade::SAME_SUBNET,
    masquerade::TO_ADDRESS,
    masquerade::FROM_OURS,
    masquerade::OUTGOING,
    forward::FORWARD,
    forward::FROM_ISOLATED,
    forward::ONLY_INSIDE,
    forward::GUARD,
    forward::INTERNAL,
    forward::NO_ICC,
    forward::LET_THROUGH,
    published::LOCAL_ONLY,
    published::PREROUTING,
    published::OUTPUT,
    published::ARRIVING,
    published::RESTRICTED,
    published::RESTRICTED_ANY,
    published::PUBLISHED,
    published::PUBLISHED_RANGES[0],
    published::PUBLISHED_RANGES[1],
    "from4",
    "from_any4",
    "from_ranges4",
    "from_ranges_any4",
    "from6",
    "from_any6",
    "from_ranges6",
    "from_ranges_any6",
    admission::layout::BEFORE,
    admission::layout::AFTER,
    admission::layout::LEAVING,
    loopback::ANSWERS,
    published::LOCAL_INPUT,
    // Of older layouts.
    "other_subnet",
];

/// The names of the sets and maps that we make, up to the family.
const SETS: [&str; 22] = [
    "masq",
    "masq_all",
    "hairpin",
    "source",
    "isolated",
    "within",
    "internal",
    "no_icc",
    "inside",
    "guarded",
    "routed",
    "publish",
    "publish_ranges",
    "open",
    "open_ranges",
    "restricted",
    "restricted_ranges",
    "admitted",
    "passing",
    "outward",
    "loopback",
    "localnet",
];

/// Returns whether a chain of this name in our table is one of ours.
pub(crate) fn is_chain(name: &str) -> bool {
    CHAINS.contains(&name)
}

/// Returns whether a set of this name in our table is one of ours.
pub(crate) fn is_set(name: &str) -> bool {
    // A prefix length follows some of them.
    let kind = name.split_once(['4', '6']).map_or(name, |(kind, rest)| {
        let length = rest.strip_prefix('_').is_some_and(|length| length.parse::<u8>().is_ok());
        if rest.is_empty() || length { kind } else { name }
    });
    SETS.contains(&kind) || ["from", "from_ranges"].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_known_by_name() {
        for set in
            ["masq4_24", "masq6_64", "publish4", "publish_ranges6", "inside", "from6_128", "from_ranges4"]
        {
            assert!(is_set(set), "{set}");
        }
        for set in ["mine", "masq4x", "masq4_x", "publisher4", "ports"] {
            assert!(!is_set(set), "{set}");
        }
        assert!(is_chain("forward") && !is_chain("user") && !is_chain("mine"));
    }
}
