//! Our tables: what is in them, as data.
//!
//! `table inet weft` has static rules and one element per subnet and isolated bridge:
//!
//! ```text
//! chain postrouting { type nat hook postrouting priority 100
//!     ip daddr 224.0.0.0/4 accept                       multicast keeps its source
//!     ip6 daddr ff00::/8 accept
//!     jump same_subnet
//!     jump other_subnet
//! }
//! chain same_subnet { ip saddr & /24 . ip daddr & /24 @masq4_24 accept }
//! chain other_subnet { ip saddr & /24 . ip saddr & /24 @masq4_24 masquerade }
//! set masq4_24 { 10.1.2.0 . 10.1.2.0 }
//!
//! chain forward { type filter hook forward priority 0
//!     iifname . iifname @isolated jump from_isolated
//!     iifname . iifname @internal jump only_inside
//!     oifname . oifname @internal jump only_inside
//! }
//! chain from_isolated { iifname . oifname @isolated return; oifname . oifname @isolated drop }
//! chain only_inside { iifname . oifname @internal return; drop }
//! set isolated { "br-blue" . "br-blue" }
//! ```
//!
//! How we got here. One rule per address, as upstream has it, makes every connection and every ADD
//! pay for every container. One interval set of `subnet . subnet` needs a single pair of rules, but
//! the kernel refuses an interval inside another one (so a network whose subnet was narrowed could
//! not attach until a reboot), copies the whole set for every change, and is missing before
//! Linux 5.6. A hash set per prefix length has none of this: adding, finding and removing a subnet
//! cost the same with one network and with five thousand, subnets may overlap, and a connection
//! pays for the two or three lengths that are in use. The pair of rules for a length comes with its
//! set, in one transaction that only one process can win.
//!
//! Isolation plays the same trick, since a rule cannot compare two interfaces: one element says both
//! "this one is isolated" and "in and out are the same". Its chains come with the first network
//! that asks for it, so a host without one does not pay. They look at no connection:
//! an answer is dropped as the question would have been.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::{IfName, Mac};
use weft_nft::expr::{Comparison, Field, Found, Meta, Reg, Verdict, is_family, is_within, octets};
use weft_nft::{
    Base, Chain, ChainKind, Element, Expr, Family, Hook, Key, Policy, Rule, Set, Table, Transaction, Type,
};

/// The layout's version, as the tables' comments carry it. A table with another one is replaced.
pub(crate) const VERSION: &str = "weft layout 1";
/// What the comment of every version starts with.
pub(crate) const ANY_VERSION: &str = "weft layout ";

/// The table for everything that is routed.
pub(crate) const INET: Table = Table::new(Family::Inet, "weft");
/// The table for frames that pass a bridge.
pub(crate) const BRIDGE: Table = Table::new(Family::Bridge, "weft");

pub(crate) const POSTROUTING: &str = "postrouting";
pub(crate) const SAME_SUBNET: &str = "same_subnet";
pub(crate) const OTHER_SUBNET: &str = "other_subnet";
pub(crate) const PREROUTING: &str = "prerouting";
pub(crate) const SPOOF_CHECK: &str = "spoof_check";
pub(crate) const FORWARD: &str = "forward";
pub(crate) const FROM_ISOLATED: &str = "from_isolated";
pub(crate) const ONLY_INSIDE: &str = "only_inside";
/// The chains of a fixed number of rules that masquerading needs.
pub(crate) const MASQUERADE_CHAINS: [(&str, usize); 1] = [(POSTROUTING, 4)];
/// The chains that isolation needs, with their numbers of rules.
pub(crate) const ISOLATION_CHAINS: [(&str, usize); 3] = [(FORWARD, 3), (FROM_ISOLATED, 2), (ONLY_INSIDE, 2)];
/// The number of rules each chain of the spoof check has.
pub(crate) const PREROUTING_RULES: usize = 1;
pub(crate) const SPOOF_CHECK_RULES: usize = 2;

/// A way through the host: an interface's name twice, or that of the way in and that of the way out.
const INTERFACES: &[Type] = &[Type::IfName, Type::IfName];

/// Source address translation's usual turn (NF_IP_PRI_NAT_SRC).
pub(crate) const AT_POSTROUTING: Base =
    Base { kind: ChainKind::Nat, hook: Hook::Postrouting, priority: 100, policy: Policy::Accept };
/// The turn of upstream's spoof check, before address translation on bridges (NF_BR_PRI_NAT_DST_BRIDGED).
const AT_PREROUTING: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -300, policy: Policy::Accept };

/// A filter's usual turn (NF_IP_PRI_FILTER).
const AT_FORWARD: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, policy: Policy::Accept };

/// Returns the multicast addresses of both families, which are never translated.
pub(crate) fn multicast() -> [IpNetwork; 2] {
    let prefix = |addr: IpAddr, len| match addr {
        IpAddr::V4(addr) => ipnetwork::Ipv4Network::new_checked(addr, len).map(IpNetwork::V4),
        IpAddr::V6(addr) => ipnetwork::Ipv6Network::new_checked(addr, len).map(IpNetwork::V6),
    };
    let networks =
        [prefix(IpAddr::from([224, 0, 0, 0]), 4), prefix(IpAddr::from([0xff00u16, 0, 0, 0, 0, 0, 0, 0]), 8)];
    #[expect(clippy::expect_used, reason = "4 and 8 are lengths of a prefix")]
    networks.map(|network| network.expect("a prefix length that fits"))
}

/// Adds `table inet weft` with everything that does not depend on a network.
///
/// The chain that the kernel calls must be new: of two processes that do this at once, one is
/// refused as a whole, so that no rule exists twice.
pub(crate) fn create_inet(transaction: &mut Transaction) {
    let postrouting = INET.base_chain(POSTROUTING, AT_POSTROUTING);
    transaction
        .table(INET, Some(VERSION))
        .new_chain(&postrouting)
        .chain(&INET.chain(SAME_SUBNET))
        .chain(&INET.chain(OTHER_SUBNET));
    for network in multicast() {
        let [meta, compare] = is_family(network.ip());
        let mut exprs = vec![meta, compare];
        exprs.extend(is_within(Field::destination_of(network.ip()), network, Comparison::Equal));
        exprs.push(Expr::Verdict(Verdict::Accept));
        transaction.rule(postrouting.rule(exprs));
    }
    for chain in [SAME_SUBNET, OTHER_SUBNET] {
        transaction.rule(postrouting.rule([Expr::Verdict(Verdict::Jump(chain.into()))]));
    }
}

/// Returns the set for subnets of this family and prefix length.
pub(crate) fn subnet_set(subnet: IpNetwork) -> Set {
    let (family, key): (_, &'static [Type]) = match subnet {
        IpNetwork::V4(_) => (4, &[Type::Ipv4Addr, Type::Ipv4Addr]),
        IpNetwork::V6(_) => (6, &[Type::Ipv6Addr, Type::Ipv6Addr]),
    };
    Set::new(INET, format!("masq{family}_{}", subnet.prefix()), key).expiring()
}

/// Returns the key of a subnet: twice its own address, so that the one element answers both "is
/// the sender in a masqueraded subnet" and "are sender and receiver in the same one".
pub(crate) fn subnet_key(subnet: IpNetwork) -> Key {
    Key::new().addr(subnet.network()).addr(subnet.network())
}

/// Adds the set for subnets of this one's length, and its pair of rules. The set must be new.
pub(crate) fn create_length(transaction: &mut Transaction, subnet: IpNetwork) {
    let set = subnet_set(subnet);
    transaction.new_set(&set);
    let pairs = [
        (SAME_SUBNET, Field::destination_of(subnet.ip()), Expr::Verdict(Verdict::Accept)),
        (OTHER_SUBNET, Field::source_of(subnet.ip()), Expr::Masquerade),
    ];
    for (chain, second, outcome) in pairs {
        let mut exprs = Vec::from(is_family(subnet.ip()));
        let second_reg = if subnet.is_ipv4() { Reg(1) } else { Reg(4) };
        for (field, reg) in [(Field::source_of(subnet.ip()), Reg(0)), (second, second_reg)] {
            exprs.push(Expr::Payload(field, reg));
            exprs.push(Expr::Mask(reg, octets(subnet.mask())));
        }
        exprs.push(Expr::Lookup(set.name.clone(), Reg(0), Found::Match));
        exprs.push(outcome);
        transaction.rule(INET.chain(chain).rule(exprs).comment(length_comment(subnet)));
    }
}

/// Returns the comment of the rules for subnets of this one's family and length, by which
/// [`crate::observe`] knows them.
pub(crate) fn length_comment(subnet: IpNetwork) -> String {
    let family = if subnet.is_ipv4() { "ip" } else { "ip6" };
    format!("{family} subnets of /{}", subnet.prefix())
}

/// Returns the set of interfaces between which nothing passes.
pub(crate) fn isolated() -> Set {
    Set::new(INET, "isolated", INTERFACES).expiring()
}

/// Returns the set of interfaces from and to which nothing passes.
pub(crate) fn internal() -> Set {
    Set::new(INET, "internal", INTERFACES).expiring()
}

/// Returns the key of an interface: twice its name, so that the one element answers both "is this
/// interface in the set" and "is it the way in as well as the way out".
pub(crate) fn interface_key(ifname: &IfName) -> Key {
    Key::new().ifname(ifname.as_str()).ifname(ifname.as_str())
}

/// Adds the sets and chains of isolation. The chain that the kernel calls must be new.
pub(crate) fn create_isolation(transaction: &mut Transaction) {
    let forward = INET.base_chain(FORWARD, AT_FORWARD);
    let [from_isolated, only_inside] = [FROM_ISOLATED, ONLY_INSIDE].map(|name| INET.chain(name));
    transaction
        .new_chain(&forward)
        .chain(&from_isolated)
        .chain(&only_inside)
        .set(&isolated())
        .set(&internal());
    let (input, output) = (Meta::InputName, Meta::OutputName);
    let rules = [
        (&forward, [input, input], isolated(), Verdict::Jump(FROM_ISOLATED.into())),
        (&forward, [input, input], internal(), Verdict::Jump(ONLY_INSIDE.into())),
        (&forward, [output, output], internal(), Verdict::Jump(ONLY_INSIDE.into())),
        (&from_isolated, [input, output], isolated(), Verdict::Return),
        (&from_isolated, [output, output], isolated(), Verdict::Drop),
        (&only_inside, [input, output], internal(), Verdict::Return),
    ];
    for (chain, [first, second], set, verdict) in rules {
        transaction.rule(chain.rule([
            Expr::Meta(first, Reg(0)),
            Expr::Meta(second, Reg(4)),
            Expr::Lookup(set.name, Reg(0), Found::Match),
            Expr::Verdict(verdict),
        ]));
    }
    transaction.rule(only_inside.rule([Expr::Verdict(Verdict::Drop)]));
}

/// Returns the set of ports whose frames are checked. An element's comment is the address allowed.
pub(crate) fn guarded() -> Set {
    Set::new(BRIDGE, "spoof_guarded", &[Type::IfName]).expiring()
}

/// Returns the set of ports and source addresses that may go together.
pub(crate) fn allowed() -> Set {
    Set::new(BRIDGE, "spoof_allowed", &[Type::IfName, Type::EtherAddr]).expiring()
}

/// Returns the element that says that frames from this port are checked.
pub(crate) fn guard(port: &IfName, mac: Mac) -> Element {
    Element::new(guard_key(port)).comment(mac.to_string())
}

/// Returns the key of a port.
pub(crate) fn guard_key(port: &IfName) -> Key {
    Key::new().ifname(port.as_str())
}

/// Returns the element that lets this address through on this port.
pub(crate) fn allowance(port: &IfName, mac: Mac) -> Element {
    Element::new(guard_key(port).ether(mac.0))
}

/// Adds `table bridge weft`. The chain that the kernel calls must be new.
///
/// A frame from a port that nobody guards costs one lookup. A guarded port costs a second one: port
/// and source address together must be allowed.
pub(crate) fn create_bridge(transaction: &mut Transaction) {
    let prerouting = BRIDGE.base_chain(PREROUTING, AT_PREROUTING);
    let check: Chain = BRIDGE.chain(SPOOF_CHECK);
    transaction
        .table(BRIDGE, Some(VERSION))
        .new_chain(&prerouting)
        .chain(&check)
        .set(&guarded())
        .set(&allowed())
        .rule(prerouting.rule([
            Expr::Meta(Meta::InputName, Reg(0)),
            Expr::Lookup(guarded().name, Reg(0), Found::Match),
            Expr::Verdict(Verdict::Jump(SPOOF_CHECK.into())),
        ]))
        .rule(spoof_pass(&check))
        .rule(check.rule([Expr::Verdict(Verdict::Drop)]));
}

fn spoof_pass(check: &Chain) -> Rule {
    check.rule([
        Expr::Meta(Meta::InputName, Reg(0)),
        Expr::Payload(Field::ETHER_SOURCE, Reg(4)),
        Expr::Lookup(allowed().name, Reg(0), Found::Match),
        Expr::Verdict(Verdict::Return),
    ])
}
