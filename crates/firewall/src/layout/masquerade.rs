//! What leaves a network, and what comes back to it by a port it publishes itself: source addresses.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_nft::expr::{
    Comparison, Conntrack, Field, Found, Nat, NatKind, Reg, Verdict, has_bits, is_family, is_within, octets,
};
use weft_nft::{
    Base, ChainKind, Data, Element, Expr, Hook, Key, Policy, Rule, Set, Transaction, Type, Values,
};

use super::{INET, TRANSLATED, VERSION};

pub(crate) const POSTROUTING: &str = "postrouting";
pub(crate) const HAIRPIN: &str = "hairpin";
pub(crate) const SAME_SUBNET: &str = "same_subnet";
pub(crate) const TO_ADDRESS: &str = "to_address";
/// Who of ours sends, one rule for each prefix length: all that a stranger's connection pays for.
pub(crate) const FROM_OURS: &str = "from_ours";
pub(crate) const OUTGOING: &str = "outgoing";
/// The chains of a fixed number of rules.
pub(crate) const CHAINS: [(&str, usize); 2] = [(POSTROUTING, 2), (OUTGOING, 5)];

/// Source address translation's usual turn (NF_IP_PRI_NAT_SRC).
pub(crate) const AT_POSTROUTING: Base =
    Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100, policy: Policy::Accept };

/// Returns the multicast addresses of both families, which are never translated.
pub(crate) fn multicast() -> [IpNetwork; 2] {
    [network(IpAddr::from([224, 0, 0, 0]), 4), network(IpAddr::from([0xff00_u16, 0, 0, 0, 0, 0, 0, 0]), 8)]
}

/// Returns the addresses of both families that never leave a host.
pub(crate) fn loopback() -> [IpNetwork; 2] {
    [network(IpAddr::from([127, 0, 0, 0]), 8), network(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), 128)]
}

fn network(address: IpAddr, prefix: u8) -> IpNetwork {
    #[expect(clippy::expect_used, reason = "the lengths above are lengths of a prefix")]
    IpNetwork::new(address, prefix).expect("a prefix length that fits")
}

/// Adds `table inet weft` with what leaves a network. The chain that the kernel calls must be new: of two
/// processes that do this at once, one is refused as a whole, so that no rule exists twice.
pub(crate) fn create(transaction: &mut Transaction) {
    let postrouting = INET.base_chain(POSTROUTING, AT_POSTROUTING);
    transaction.table(INET, Some(VERSION)).new_chain(&postrouting);
    for chain in [HAIRPIN, FROM_OURS, OUTGOING, SAME_SUBNET, TO_ADDRESS] {
        transaction.chain(&INET.chain(chain));
    }
    let jump = |chain: &'static str| Expr::Verdict(Verdict::Jump(chain.into()));
    let translated = has_bits(Conntrack::Status, TRANSLATED).into_iter().chain([jump(HAIRPIN)]);
    transaction.rule(postrouting.rule(translated)).rule(postrouting.rule([goto(FROM_OURS)]));
    create_hairpin(transaction);
    let outgoing = INET.chain(OUTGOING);
    for network in multicast() {
        let mut exprs = Vec::from(is_family(network.ip()));
        exprs.extend(is_within(Field::destination_of(network.ip()), network, Comparison::Equal));
        exprs.push(Expr::Verdict(Verdict::Accept));
        transaction.rule(outgoing.rule(exprs));
    }
    for chain in [SAME_SUBNET, TO_ADDRESS] {
        transaction.rule(outgoing.rule([jump(chain)]));
    }
    transaction.rule(outgoing.rule([Expr::Masquerade]));
}

fn goto(chain: &'static str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.into()))
}

/// Connections to published ports that get the host's address: the host's own from its loopback address.
fn create_hairpin(transaction: &mut Transaction) {
    let hairpin = INET.chain(HAIRPIN);
    for network in loopback() {
        let mut exprs = Vec::from(is_family(network.ip()));
        exprs.extend(is_within(Field::source_of(network.ip()), network, Comparison::Equal));
        exprs.push(Expr::Masquerade);
        transaction.rule(hairpin.rule(exprs));
    }
}

/// Adds the set of a family's containers to which every published connection gets the host's address, and its rule. The set
/// must be new.
pub(crate) fn create_masquerade_all(transaction: &mut Transaction, family: IpAddr) {
    let (hairpin, set) = (INET.chain(HAIRPIN), masquerade_all(family));
    let mut exprs = Vec::from(is_family(family));
    exprs.push(Expr::Payload(Field::destination_of(family), Reg(0)));
    exprs.push(Expr::Lookup(set.name.clone(), Reg(0), Found::Match));
    exprs.push(Expr::Masquerade);
    transaction.chain(&hairpin).new_set(&set).rule(hairpin.rule(exprs).comment(MASQUERADE_ALL));
}

/// The comment of the rules for containers to which every published connection gets the host's address.
pub(crate) const MASQUERADE_ALL: &str = "all callers";

/// Returns the set of containers to which every published connection gets the host's address.
pub(crate) fn masquerade_all(family: IpAddr) -> Set {
    let (name, key): (_, &'static [Type]) =
        if family.is_ipv4() { ("masq_all4", &[Type::Ipv4Addr]) } else { ("masq_all6", &[Type::Ipv6Addr]) };
    Set::new(INET, name, key).expiring()
}

/// Returns the element for a container to which every published connection gets the host's address, and its set.
pub(crate) fn masquerading_all(target: IpAddr) -> (Set, Element) {
    (masquerade_all(target), Element::new(Key::new().addr(target)))
}

/// What is known about the subnets of one family and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// They are masqueraded.
    Masquerade,
    /// They reach the ports that they publish.
    Hairpin,
    /// They are masqueraded with an address of their own.
    Source,
}

/// Returns the set, or the map, for subnets of this family and prefix length.
pub(crate) fn subnet_set(kind: Kind, subnet: IpNetwork) -> Set {
    let (family, pair, address): (_, &'static [Type], &'static [Type]) = match subnet {
        IpNetwork::V4(_) => (4, &[Type::Ipv4Addr, Type::Ipv4Addr], &[Type::Ipv4Addr]),
        IpNetwork::V6(_) => (6, &[Type::Ipv6Addr, Type::Ipv6Addr], &[Type::Ipv6Addr]),
    };
    let name = |kind| format!("{kind}{family}_{}", subnet.prefix());
    match kind {
        Kind::Masquerade => Set::new(INET, name("masq"), pair),
        Kind::Hairpin => Set::new(INET, name("hairpin"), pair),
        Kind::Source => Set::new(INET, name("source"), address).to(Values::Data(address)),
    }
    .expiring()
}

/// Returns the key of a subnet: twice its own address, so that the one element answers both "is
/// the sender in such a subnet" and "are sender and receiver in the same one".
pub(crate) fn subnet_key(subnet: IpNetwork) -> Key {
    Key::new().addr(subnet.network()).addr(subnet.network())
}

/// Returns the element that gives a subnet its address.
pub(crate) fn source_element(subnet: IpNetwork, address: IpAddr) -> Element {
    Element::new(Key::new().addr(subnet.network())).to(Data::Value(Key::new().addr(address)))
}

/// Adds the set for subnets of this one's length, and its rules. The set must be new.
pub(crate) fn create_length(transaction: &mut Transaction, kind: Kind, subnet: IpNetwork) {
    transaction.new_set(&subnet_set(kind, subnet));
    let rules = match kind {
        Kind::Masquerade => vec![
            pair_rule(SAME_SUBNET, kind, subnet, false, Expr::Verdict(Verdict::Accept)),
            pair_rule(FROM_OURS, kind, subnet, true, goto(OUTGOING)),
        ],
        Kind::Hairpin => vec![pair_rule(HAIRPIN, kind, subnet, false, Expr::Masquerade)],
        Kind::Source => vec![source_rule(subnet)],
    };
    for rule in rules {
        transaction.rule(rule.comment(length_comment(subnet)));
    }
}

/// Returns the chains that have a rule for each length in use.
pub(crate) fn length_chains(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Masquerade => &[SAME_SUBNET, FROM_OURS],
        Kind::Hairpin => &[HAIRPIN],
        Kind::Source => &[TO_ADDRESS],
    }
}

/// A rule about the sender's subnet and, by way of the second half of the key, the sender's again or the receiver's.
fn pair_rule(chain: &'static str, kind: Kind, subnet: IpNetwork, sender_twice: bool, outcome: Expr) -> Rule {
    let source = Field::source_of(subnet.ip());
    let second = if sender_twice { source } else { Field::destination_of(subnet.ip()) };
    let second_reg = if subnet.is_ipv4() { Reg(1) } else { Reg(4) };
    let mut exprs = Vec::from(is_family(subnet.ip()));
    for (field, reg) in [(source, Reg(0)), (second, second_reg)] {
        exprs.push(Expr::Payload(field, reg));
        exprs.push(Expr::Mask(reg, octets(subnet.mask())));
    }
    exprs.push(Expr::Lookup(subnet_set(kind, subnet).name, Reg(0), Found::Match));
    exprs.push(outcome);
    INET.chain(chain).rule(exprs)
}

fn source_rule(subnet: IpNetwork) -> Rule {
    let mut exprs = Vec::from(is_family(subnet.ip()));
    exprs.push(Expr::Payload(Field::source_of(subnet.ip()), Reg(0)));
    exprs.push(Expr::Mask(Reg(0), octets(subnet.mask())));
    exprs.push(Expr::Lookup(subnet_set(Kind::Source, subnet).name, Reg(0), Found::Load(Reg(0))));
    exprs.push(Expr::Nat(Nat {
        kind: NatKind::Source,
        family: subnet.ip(),
        address: Reg(0),
        port: None,
        last: None,
        by_remainder: false,
    }));
    INET.chain(TO_ADDRESS).rule(exprs)
}

/// Returns the comment of the rules for subnets of this one's family and length, by which
/// [`crate::observe`] knows them.
pub(crate) fn length_comment(subnet: IpNetwork) -> String {
    let family = if subnet.is_ipv4() { "ip" } else { "ip6" };
    format!("{family} subnets of /{}", subnet.prefix())
}
