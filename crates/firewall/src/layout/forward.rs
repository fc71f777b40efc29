//! What passes from one interface of the host to another.

use std::net::IpAddr;

use weft_model::IfName;
use weft_nft::expr::{Comparison, Conntrack, Found, Meta, Reg, Verdict, has_bits, is_family, mark};
use weft_nft::{Base, Chain, ChainKind, Expr, Hook, Key, Policy, Rule, Set, Transaction, Type};

use super::published::{self, Lookup};
use super::{ANY, INET, KNOWN, TRANSLATED};

pub(crate) const FORWARD: &str = "forward";
/// The administrator's chain, which is asked before we judge and which we never empty.
pub(crate) const USER: &str = "user";
pub(crate) const FROM_ISOLATED: &str = "from_isolated";
pub(crate) const ONLY_INSIDE: &str = "only_inside";
pub(crate) const GUARD: &str = "guard";
/// The rules for internal networks; empty until there is one.
pub(crate) const INTERNAL: &str = "internal";
/// The rules for networks whose containers do not reach each other; empty until there is one.
pub(crate) const NO_ICC: &str = "no_icc";
/// The chains with their numbers of rules.
pub(crate) const CHAINS: [(&str, usize); 3] = [(FORWARD, 8), (FROM_ISOLATED, 2), (GUARD, 10)];
pub(crate) const INTERNAL_CHAINS: [(&str, usize); 2] = [(INTERNAL, 2), (ONLY_INSIDE, 2)];
pub(crate) const NO_ICC_CHAINS: [(&str, usize); 2] = [(NO_ICC, 1), (LET_THROUGH, 1)];
/// What marks packets of such networks that passed.
pub(crate) const LET_THROUGH: &str = "let_through";
/// The bit of the mark that says so, to [`super::bridge::create_apart`] alone.
pub(crate) const LET_THROUGH_BIT: u32 = 0x0800_0000;

/// A way through the host: an interface's name twice, or that of the way in and that of the way out.
const INTERFACES: &[Type] = &[Type::IfName, Type::IfName];
const INTERFACE: &[Type] = &[Type::IfName];

/// A filter's usual turn (NF_IP_PRI_FILTER).
pub(crate) const AT_FORWARD: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, policy: Policy::Accept };

/// Behind [`AT_FORWARD`]: who gets here was not dropped.
const AT_LET_THROUGH: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: 10, policy: Policy::Accept };

/// ICMP and its successor, as IP headers number them.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Returns the set of interfaces between which nothing passes.
pub(crate) fn isolated() -> Set {
    Set::new(INET, "isolated", INTERFACES).expiring()
}

/// Returns the set of interfaces from and to which nothing passes.
pub(crate) fn internal() -> Set {
    Set::new(INET, "internal", INTERFACES).expiring()
}

/// Returns the set of ways from one interface of a network to another one of it.
pub(crate) fn within() -> Set {
    Set::new(INET, "within", INTERFACES).expiring()
}

/// Returns the set of bridges whose containers do not reach each other.
pub(crate) fn no_icc() -> Set {
    Set::new(INET, "no_icc", INTERFACES).expiring()
}

/// Returns the set of our networks' interfaces.
pub(crate) fn inside() -> Set {
    Set::new(INET, "inside", INTERFACE).expiring()
}

/// Returns the set of interfaces by which a network is entered only at its published ports.
pub(crate) fn guarded(family: IpAddr) -> Set {
    Set::new(INET, if family.is_ipv4() { "guarded4" } else { "guarded6" }, INTERFACE).expiring()
}

/// Returns the set of those of them that route: their containers answer to ICMP.
pub(crate) fn routed(family: IpAddr) -> Set {
    Set::new(INET, if family.is_ipv4() { "routed4" } else { "routed6" }, INTERFACE).expiring()
}

/// Returns the key of an interface.
pub(crate) fn interface(ifname: &IfName) -> Key {
    Key::new().ifname(ifname.as_str())
}

/// Returns the key of an interface: twice its name, so that the one element answers both "is this
/// interface in the set" and "is it the way in as well as the way out".
pub(crate) fn interface_twice(ifname: &IfName) -> Key {
    interface(ifname).ifname(ifname.as_str())
}

/// Adds the sets and the chains. The chain that the kernel calls must be new; the administrator's may be there.
pub(crate) fn create(transaction: &mut Transaction) {
    let forward = INET.base_chain(FORWARD, AT_FORWARD);
    let [from_isolated, guard] = [FROM_ISOLATED, GUARD].map(|name| INET.chain(name));
    transaction.new_chain(&forward);
    for name in [USER, INTERNAL, FROM_ISOLATED, NO_ICC, GUARD, published::RESTRICTED] {
        transaction.chain(&INET.chain(name));
    }
    for set in [isolated(), inside(), within()] {
        transaction.set(&set);
    }
    for family in ANY {
        transaction.set(&guarded(family)).set(&routed(family));
        transaction.set(&published::ports(Lookup::Routed, family, false));
        transaction.set(&published::ports(Lookup::Routed, family, true));
    }
    let (input, output) = (Meta::InputName, Meta::OutputName);
    transaction
        .rule(forward.rule([jump(USER)]))
        .rule(way(&forward, [input, output], within(), [Expr::Verdict(Verdict::Accept)]))
        .rule(forward.rule([jump(INTERNAL)]))
        .rule(forward.rule(
            has_bits(Conntrack::Status, TRANSLATED).into_iter().chain([Expr::Verdict(Verdict::Accept)]),
        ))
        .rule(way(&forward, [input, input], isolated(), [jump(FROM_ISOLATED)]))
        .rule(forward.rule([jump(NO_ICC)]));
    for family in ANY {
        transaction.rule(forward.rule(leaves_by(family, guarded(family), jump(GUARD))));
    }
    transaction
        .rule(way(&from_isolated, [input, output], isolated(), [Expr::Verdict(Verdict::Return)]))
        .rule(way(&from_isolated, [output, output], isolated(), [Expr::Verdict(Verdict::Drop)]));
    create_guard(transaction, &guard);
}

/// Adds the set of internal networks and the rules for them. The set must be new.
pub(crate) fn create_internal(transaction: &mut Transaction) {
    let [chain, only_inside] = [INTERNAL, ONLY_INSIDE].map(|name| INET.chain(name));
    let (input, output) = (Meta::InputName, Meta::OutputName);
    transaction
        .chain(&chain)
        .chain(&only_inside)
        .new_set(&internal())
        .rule(way(&chain, [input, input], internal(), [jump(ONLY_INSIDE)]))
        .rule(way(&chain, [output, output], internal(), [jump(ONLY_INSIDE)]))
        .rule(way(&only_inside, [input, output], internal(), [Expr::Verdict(Verdict::Return)]))
        .rule(only_inside.rule([Expr::Verdict(Verdict::Drop)]));
}

/// Adds the set of networks whose containers do not reach each other, and the rule for them. The set must be new.
pub(crate) fn create_no_icc(transaction: &mut Transaction) {
    let (chain, let_through) = (INET.chain(NO_ICC), INET.base_chain(LET_THROUGH, AT_LET_THROUGH));
    let ways = [Meta::InputName, Meta::OutputName];
    transaction
        .chain(&chain)
        .new_chain(&let_through)
        .new_set(&no_icc())
        .rule(way(&chain, ways, no_icc(), [Expr::Verdict(Verdict::Drop)]))
        .rule(way(&let_through, ways, no_icc(), mark(LET_THROUGH_BIT)));
}

fn jump(chain: &'static str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.into()))
}

/// A packet on its way into a guarded network that no address translation has let in.
fn create_guard(transaction: &mut Transaction, guard: &Chain) {
    let pass = || Expr::Verdict(Verdict::Return);
    transaction
        .rule(guard.rule(has_bits(Conntrack::State, KNOWN).into_iter().chain([pass()])))
        .rule(guard.rule([
            Expr::Meta(Meta::InputName, Reg(0)),
            Expr::Lookup(inside().name, Reg(0), Found::Match),
            pass(),
        ]))
        .rule(guard.rule([jump(published::RESTRICTED)]));
    for family in ANY {
        for range in [false, true] {
            let set = published::ports(Lookup::Routed, family, range);
            let mut exprs = published::load(family, false);
            exprs.push(Expr::Lookup(set.name, Reg(0), Found::Match));
            exprs.push(pass());
            transaction.rule(guard.rule(exprs));
        }
    }
    for (family, number) in ANY.into_iter().zip([ICMP, ICMPV6]) {
        let exprs = leaves_by(family, routed(family), Expr::Meta(Meta::Transport, Reg(0)));
        let is_icmp = Expr::Compare(Reg(0), Comparison::Equal, vec![number]);
        transaction.rule(guard.rule(exprs.into_iter().chain([is_icmp, pass()])));
    }
    transaction.rule(guard.rule([Expr::Verdict(Verdict::Drop)]));
}

fn way(chain: &Chain, [first, second]: [Meta; 2], set: Set, outcome: impl IntoIterator<Item = Expr>) -> Rule {
    let found =
        [Expr::Meta(first, Reg(0)), Expr::Meta(second, Reg(4)), Expr::Lookup(set.name, Reg(0), Found::Match)];
    chain.rule(found.into_iter().chain(outcome))
}

fn leaves_by(family: IpAddr, set: Set, outcome: Expr) -> Vec<Expr> {
    let mut exprs = Vec::from(is_family(family));
    exprs.push(Expr::Meta(Meta::OutputName, Reg(0)));
    exprs.push(Expr::Lookup(set.name, Reg(0), Found::Match));
    exprs.push(outcome);
    exprs
}
