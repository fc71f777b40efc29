//! Ports that are not for everybody.
//!
//! ```text
//! chain restricted {
//!     ip daddr . meta l4proto . th dport @restricted4 jump from4
//!     ip daddr . meta l4proto . th dport @restricted_ranges4 jump from_ranges4
//!     ...
//! }
//! chain restricted_any {
//!     jump restricted
//!     ip daddr & 0.0.0.0 . meta l4proto . th dport @restricted4 jump from_any4
//!     ...
//! }
//! chain from4 {
//!     ip daddr . meta l4proto . th dport . ip saddr & 255.255.255.0 @from4_24 return
//!     drop
//! }
//! ```
//!
//! There is a set for each prefix length in use, as for subnets, so that single ports stay a matter of hash sets. Ranges
//! of ports have one interval set with the senders' networks as intervals, too.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::port::{PortRange, Protocol};
use weft_nft::expr::{Expr, Field, Found, Reg, Verdict, octets};
use weft_nft::{Element, Set, Transaction, Type};

use super::published::{self, Lookup, RESTRICTED, RESTRICTED_ANY};
use super::{ANY, INET, masquerade};

/// The chains with their numbers of rules, not counting those for a prefix length.
pub(crate) const CHAINS: [(&str, usize); 6] = [
    (RESTRICTED, 4),
    (RESTRICTED_ANY, 5),
    ("from_ranges4", 2),
    ("from_ranges_any4", 2),
    ("from_ranges6", 2),
    ("from_ranges_any6", 2),
];

const KEY4: &[Type] = &[Type::Ipv4Addr, Type::InetProto, Type::InetService, Type::Ipv4Addr];
const KEY6: &[Type] = &[Type::Ipv6Addr, Type::InetProto, Type::InetService, Type::Ipv6Addr];

/// Returns the name of the chain for ports of this family: of any address or of one, single or in ranges.
const fn chain(v4: bool, any_address: bool, ranges: bool) -> &'static str {
    match (v4, any_address, ranges) {
        (true, false, false) => "from4",
        (true, true, false) => "from_any4",
        (true, false, true) => "from_ranges4",
        (true, true, true) => "from_ranges_any4",
        (false, false, false) => "from6",
        (false, true, false) => "from_any6",
        (false, false, true) => "from_ranges6",
        (false, true, true) => "from_ranges_any6",
    }
}

/// Returns the set of single ports with the networks of this one's length that may come in.
pub(crate) fn length_set(from: IpNetwork) -> Set {
    let (number, key) = if from.is_ipv4() { (4, KEY4) } else { (6, KEY6) };
    Set::new(INET, format!("from{number}_{}", from.prefix()), key).expiring()
}

/// Returns the set of ranges of ports with the networks that may come in.
pub(crate) fn ranges_set(family: IpAddr) -> Set {
    let (name, key) = if family.is_ipv4() { ("from_ranges4", KEY4) } else { ("from_ranges6", KEY6) };
    Set::new(INET, name, key).intervals().expiring()
}

/// Returns the elements that keep everybody but these from a port or a range.
pub(crate) fn elements(
    address: IpAddr,
    protocol: Protocol,
    ports: PortRange,
    from: &[IpNetwork],
) -> Vec<(Set, Element)> {
    if from.is_empty() {
        return Vec::new();
    }
    let restricted = published::ports(Lookup::Restricted, address, !ports.is_single());
    let mut list = vec![(restricted, published::element(address, protocol, ports))];
    let with = |port, sender| published::key(address, protocol, port).addr(sender);
    list.extend(from.iter().map(|network| {
        if ports.is_single() {
            (length_set(*network), Element::new(with(ports.first(), network.network())))
        } else {
            let first = with(ports.first(), network.network());
            (ranges_set(address), Element::range(first, with(ports.last(), last_of(*network))))
        }
    }));
    list
}

/// Returns the last address of a network, whatever its family calls it.
fn last_of(network: IpNetwork) -> IpAddr {
    match network {
        IpNetwork::V4(network) => network.broadcast().into(),
        IpNetwork::V6(network) => network.broadcast().into(),
    }
}

/// Adds the sets and the chains that do not depend on a prefix length, and the rules of the empty chains that others
/// jump to. The sets of ports must be new.
pub(crate) fn create(transaction: &mut Transaction) {
    let restricted = [RESTRICTED, RESTRICTED_ANY].map(|name| INET.chain(name));
    for chain in &restricted {
        transaction.chain(chain);
    }
    transaction.rule(restricted[1].rule([Expr::Verdict(Verdict::Jump(RESTRICTED.into()))]));
    for family in ANY {
        for ranges in [false, true] {
            let set = published::ports(Lookup::Restricted, family, ranges);
            transaction.new_set(&set);
            if ranges {
                transaction.set(&ranges_set(family));
            }
            for any_address in [false, true] {
                let checks = INET.chain(chain(family.is_ipv4(), any_address, ranges));
                transaction.chain(&checks);
                if ranges {
                    let mut exprs = with_sender(family, any_address, None);
                    exprs.push(Expr::Lookup(ranges_set(family).name, Reg(0), Found::Match));
                    exprs.push(Expr::Verdict(Verdict::Return));
                    transaction.rule(checks.rule(exprs));
                }
                transaction.rule(checks.rule([Expr::Verdict(Verdict::Drop)]));
                let mut exprs = published::load(family, any_address);
                exprs.push(Expr::Lookup(set.name.clone(), Reg(0), Found::Match));
                exprs.push(Expr::Verdict(Verdict::Jump(checks.name.clone())));
                transaction.rule(restricted[usize::from(any_address)].rule(exprs));
            }
        }
    }
}

/// Returns the chains that have a rule for each length in use, besides the last one.
pub(crate) const fn length_chains(v4: bool) -> [&'static str; 2] {
    [chain(v4, false, false), chain(v4, true, false)]
}

/// Adds the set for networks of this one's length, and its rules before those that drop. The set must be new.
pub(crate) fn create_length(transaction: &mut Transaction, from: IpNetwork) {
    let set = length_set(from);
    transaction.new_set(&set);
    for any_address in [false, true] {
        let mut exprs = with_sender(from.ip(), any_address, Some(from.mask()));
        exprs.push(Expr::Lookup(set.name.clone(), Reg(0), Found::Match));
        exprs.push(Expr::Verdict(Verdict::Return));
        let rule = INET.chain(chain(from.is_ipv4(), any_address, false)).rule(exprs);
        transaction.first_rule(rule.comment(masquerade::length_comment(from)));
    }
}

/// Returns the steps that load what a port is known by, and the sender.
fn with_sender(family: IpAddr, any_address: bool, mask: Option<IpAddr>) -> Vec<Expr> {
    let after = Reg(if family.is_ipv4() { 3 } else { 6 });
    let mut exprs = published::load(family, any_address);
    exprs.push(Expr::Payload(Field::source_of(family), after));
    exprs.extend(mask.map(|mask| Expr::Mask(after, octets(mask))));
    exprs
}
