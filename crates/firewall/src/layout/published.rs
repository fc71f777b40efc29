//! Ports of the host that lead to containers.
//!
//! A port is one element of a hash map: host address, protocol and port lead to container address and port. It is looked
//! up with the address masked away, as most ports are of any address, and then with the address: a port has one or the other. So what
//! a connection pays is the same whether one port is published or ten thousand, and so is what a publication costs.
//!
//! A range of ports is one element of an interval map. The kernel chooses the new port by remainder ([`Window`]), which moves
//! a whole range by a distance.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::port::{PortRange, Protocol};
use weft_nft::expr::{
    Comparison, Conntrack, Field, Found, Meta, Nat, NatKind, Reg, Verdict, is_family, is_for_host, is_within,
    octets,
};
use weft_nft::{Base, ChainKind, Data, Element, Expr, Hook, Key, Policy, Set, Transaction, Type, Values};

use super::masquerade::loopback;
use super::window::Window;
use super::{ANY, INET, KNOWN};

pub(crate) const LOCAL_ONLY: &str = "local_only";
pub(crate) const LOCAL_INPUT: &str = "local_input";
pub(crate) const PREROUTING: &str = "prerouting";
pub(crate) const OUTPUT: &str = "output";
pub(crate) const ARRIVING: &str = "arriving";
/// The rules for ports of one address that are not for everybody; empty until there is one.
pub(crate) const RESTRICTED: &str = "restricted";
/// These and those for ports of any address of the host. What is only forwarded has nothing to do with the latter.
pub(crate) const RESTRICTED_ANY: &str = "restricted_any";
pub(crate) const PUBLISHED: &str = "published";
/// The rules for ranges of ports; empty until there is one.
pub(crate) const PUBLISHED_RANGES: [&str; 2] = ["published_ranges4", "published_ranges6"];
/// The chains with their numbers of rules.
pub(crate) const LOCAL_ONLY_CHAINS: [(&str, usize); 2] = [(LOCAL_ONLY, 3), (LOCAL_INPUT, 3)];
pub(crate) const CHAINS: [(&str, usize); 4] = [(PREROUTING, 1), (OUTPUT, 1), (ARRIVING, 2), (PUBLISHED, 6)];
pub(crate) const RANGE_CHAINS: [[(&str, usize); 1]; 2] =
    [[(PUBLISHED_RANGES[0], 6)], [(PUBLISHED_RANGES[1], 6)]];

/// Before anybody's destination address translation.
const BEFORE_PREROUTING: Base =
    Base { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -110, policy: Policy::Accept };
/// Before anybody's filter (NF_IP_PRI_RAW).
const AT_INPUT: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Input, priority: -300, policy: Policy::Accept };
/// Destination address translation's usual turn (NF_IP_PRI_NAT_DST).
const AT_PREROUTING: Base =
    Base { kind: ChainKind::Nat, hook: Hook::Prerouting, priority: -100, policy: Policy::Accept };
const AT_OUTPUT: Base =
    Base { kind: ChainKind::Nat, hook: Hook::Output, priority: -100, policy: Policy::Accept };

const KEY4: &[Type] = &[Type::Ipv4Addr, Type::InetProto, Type::InetService];
const KEY6: &[Type] = &[Type::Ipv6Addr, Type::InetProto, Type::InetService];
const TARGET4: &[Type] = &[Type::Ipv4Addr, Type::InetService];
const TARGET6: &[Type] = &[Type::Ipv6Addr, Type::InetService];

/// What is looked up by address, protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Where a port of the host leads to.
    Target,
    /// Whether a port of a routed network's container is let in.
    Routed,
    /// Whether a port is only for those on its list.
    Restricted,
}

/// Returns the set, or the map, for single ports or for ranges of them.
pub(crate) fn ports(lookup: Lookup, family: IpAddr, ranges: bool) -> Set {
    let (key, target, number) = if family.is_ipv4() { (KEY4, TARGET4, 4) } else { (KEY6, TARGET6, 6) };
    let name = match lookup {
        Lookup::Target => "publish",
        Lookup::Routed => "open",
        Lookup::Restricted => "restricted",
    };
    let set =
        Set::new(INET, format!("{name}{}{number}", if ranges { "_ranges" } else { "" }), key).expiring();
    match (lookup, ranges) {
        (Lookup::Target, false) => set.to(Values::Data(target)),
        (Lookup::Target, true) => set.to(Values::Range(target)).intervals(),
        (_, false) => set,
        (_, true) => set.intervals(),
    }
}

/// Returns the key of one port.
pub(crate) fn key(address: IpAddr, protocol: Protocol, port: u16) -> Key {
    Key::new().addr(address).proto(protocol.number()).port(port)
}

/// Returns the element for these ports: one key or a range of them.
pub(crate) fn element(address: IpAddr, protocol: Protocol, ports: PortRange) -> Element {
    let first = key(address, protocol, ports.first());
    if ports.is_single() {
        Element::new(first)
    } else {
        Element::range(first, key(address, protocol, ports.last()))
    }
}

/// Returns the elements that lead ports of the host to a container, each with its map.
pub(crate) fn targets(
    (host, host_ports): (IpAddr, PortRange),
    protocol: Protocol,
    (target, target_ports): (IpAddr, PortRange),
) -> Vec<(Set, Element)> {
    if host_ports.is_single() {
        let value = Key::new().addr(target).port(target_ports.first());
        let set = ports(Lookup::Target, host, false);
        return vec![(set, element(host, protocol, host_ports).to(Data::Value(value)))];
    }
    let windows = Window::cover(host_ports, target_ports.first());
    let element_of = |(part, window): (PortRange, Window)| {
        let [first, last] = [window.min, window.max].map(|port| Key::new().addr(target).port(port));
        let range = Element::range(key(host, protocol, part.first()), key(host, protocol, part.last()));
        (ports(Lookup::Target, host, true), range.to(Data::Value(first.followed_by(&last))))
    };
    windows.into_iter().map(element_of).collect()
}

/// Returns the steps that load the receiver's address, or none of its bits, with protocol and port, for
/// packets of this family.
pub(crate) fn load(family: IpAddr, any_address: bool) -> Vec<Expr> {
    let after = if family.is_ipv4() { 1 } else { 4 };
    let mut exprs = Vec::from(is_family(family));
    exprs.push(Expr::Payload(Field::destination_of(family), Reg(0)));
    if any_address {
        exprs.push(Expr::Mask(Reg(0), vec![0; octets(family).len()]));
    }
    exprs.push(Expr::Meta(Meta::Transport, Reg(after)));
    exprs.push(Expr::Payload(Field::PORT_DESTINATION, Reg(after + 1)));
    exprs
}

/// Returns the set of links that route loopback addresses, as long as there is one of which the chain stays.
pub(crate) fn localnet() -> Set {
    Set::new(INET, "localnet", &[Type::IfName]).expiring()
}

/// Adds what keeps others from the host's loopback addresses. The chains must be new.
///
/// A new connection meets it before its addresses are translated, so that nobody's published port is reached by way of a loopback
/// address; further packets need not be asked. Of what is delivered to the host, answers to the host's own connections pass, and what
/// belongs to no connection does not.
pub(crate) fn create_local_only(transaction: &mut Transaction) {
    let local_only = INET.base_chain(LOCAL_ONLY, BEFORE_PREROUTING);
    let local_input = INET.base_chain(LOCAL_INPUT, AT_INPUT);
    transaction.new_chain(&local_only).new_chain(&local_input).set(&localnet());
    let [v4, v6] = loopback();
    // KERNEL: of IPv6 it drops these itself (ip6_rcv_core), and those that are sent there as well, but not before br_netfilter
    // has had them translated.
    let forbidden = [
        (Field::destination_of(v4.ip()), v4),
        (Field::destination_of(v6.ip()), v6),
        (Field::source_of(v4.ip()), v4),
    ];
    for (field, network) in forbidden {
        let drop = || Expr::Verdict(Verdict::Drop);
        let found = from_elsewhere(field, network);
        transaction.rule(local_only.rule(found.iter().cloned().chain([drop()])));
        transaction.rule(local_input.rule(found.into_iter().chain(is_of_no_connection()).chain([drop()])));
    }
}

/// Returns the steps that go on only for packets with such an address that come in by another link than `lo`. Hardly any packet has such
/// an address: that is what is asked first.
fn from_elsewhere(field: Field, network: IpNetwork) -> Vec<Expr> {
    let mut exprs = Vec::from(is_family(network.ip()));
    exprs.extend(is_within(field, network, Comparison::Equal));
    exprs.push(Expr::Meta(Meta::InputName, Reg(0)));
    exprs.push(Expr::Compare(Reg(0), Comparison::NotEqual, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()));
    exprs
}

/// Returns the steps that go on only for packets that are neither part of a connection nor about one.
fn is_of_no_connection() -> [Expr; 3] {
    [
        Expr::Conntrack(Conntrack::State, Reg(0)),
        Expr::Mask(Reg(0), KNOWN.to_ne_bytes().to_vec()),
        Expr::Compare(Reg(0), Comparison::Equal, vec![0; 4]),
    ]
}

/// Adds the maps and the chains. The chains that the kernel calls must be new.
pub(crate) fn create(transaction: &mut Transaction) {
    let prerouting = INET.base_chain(PREROUTING, AT_PREROUTING);
    let output = INET.base_chain(OUTPUT, AT_OUTPUT);
    let [arriving, published] = [ARRIVING, PUBLISHED].map(|name| INET.chain(name));
    transaction.new_chain(&prerouting).new_chain(&output);
    for name in [ARRIVING, RESTRICTED, RESTRICTED_ANY, PUBLISHED].into_iter().chain(PUBLISHED_RANGES) {
        transaction.chain(&INET.chain(name));
    }
    let jump = |chain: &'static str| Expr::Verdict(Verdict::Jump(chain.into()));
    let goto = |chain: &'static str| Expr::Verdict(Verdict::Goto(chain.into()));
    for (chain, to) in [(&prerouting, ARRIVING), (&output, PUBLISHED)] {
        transaction.rule(chain.rule(is_for_host().into_iter().chain([goto(to)])));
    }
    transaction.rule(arriving.rule([jump(RESTRICTED_ANY)])).rule(arriving.rule([goto(PUBLISHED)]));
    for family in ANY {
        let set = ports(Lookup::Target, family, false);
        transaction.set(&set);
        for any_address in [true, false] {
            transaction.rule(published.rule(lead(load(family, any_address), &set, family)));
        }
    }
    for (family, chain) in ANY.into_iter().zip(PUBLISHED_RANGES) {
        transaction.rule(published.rule(is_family(family).into_iter().chain([jump(chain)])));
    }
}

/// Adds the map and the rules of one family's ranges. The map must be new.
///
/// The rules name the protocol, which the key has anyway: `nft` loads no such rule that does not. (Those of IPv6
/// it does not load at all as of 1.0.6, which mixes up the registers.)
pub(crate) fn create_ranges(transaction: &mut Transaction, family: IpAddr) {
    let chain = INET.chain(PUBLISHED_RANGES[usize::from(family.is_ipv6())]);
    let set = ports(Lookup::Target, family, true);
    transaction.chain(&chain).new_set(&set);
    for protocol in Protocol::ALL {
        for any_address in [true, false] {
            let is_of = Expr::Compare(Reg(0), Comparison::Equal, vec![protocol.number()]);
            let mut exprs = vec![Expr::Meta(Meta::Transport, Reg(0)), is_of];
            exprs.extend(load(family, any_address));
            transaction.rule(chain.rule(lead(exprs, &set, family)));
        }
    }
}

/// Returns the steps that lead a packet to where a map says, after those that load the key.
fn lead(mut exprs: Vec<Expr>, map: &Set, family: IpAddr) -> Vec<Expr> {
    exprs.push(Expr::Lookup(map.name.clone(), Reg(0), Found::Load(Reg(0))));
    exprs.push(Expr::Nat(translation(family, map.intervals)));
    exprs
}

/// The value of the map, in the registers where it is loaded: an address and a port, or two of each.
fn translation(family: IpAddr, ranges: bool) -> Nat {
    let port = if family.is_ipv4() { 1 } else { 4 };
    let last = ranges.then_some((Reg(port + 1), Reg(2 * port + 1)));
    Nat {
        kind: NatKind::Destination,
        family,
        address: Reg(0),
        port: Some(Reg(port)),
        last,
        by_remainder: ranges,
    }
}
