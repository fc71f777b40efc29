//! `table bridge weft`: the spoof check, and what keeps ports of a network apart whose bridged frames IP sees.

use weft_model::{IfName, Mac};
use weft_nft::expr::{Comparison, Field, Found, Meta, Reg, Verdict};
use weft_nft::{Base, Chain, ChainKind, Element, Expr, Hook, Key, Policy, Rule, Set, Transaction, Type};

use super::{BRIDGE, BRIDGE_VERSION, forward};

pub(crate) const PREROUTING: &str = "prerouting";
pub(crate) const FORWARD: &str = "forward";
pub(crate) const SPOOF_CHECK: &str = "spoof_check";
/// The number of rules each chain has.
pub(crate) const PREROUTING_RULES: usize = 1;
pub(crate) const SPOOF_CHECK_RULES: usize = 2;
pub(crate) const FORWARD_RULES: usize = 1;

/// The group of ports that are kept apart: "weft", read as a number.
pub const APART: u32 = 0x7765_6674;

/// The turn of upstream's spoof check, before address translation on bridges (NF_BR_PRI_NAT_DST_BRIDGED).
const AT_PREROUTING: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -300, policy: Policy::Accept };

/// Behind IP's filters, where `br_netfilter` has them asked (NF_BR_PRI_BRNF).
const AT_FORWARD: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: 100, policy: Policy::Accept };

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
pub(crate) fn create(transaction: &mut Transaction) {
    let prerouting = BRIDGE.base_chain(PREROUTING, AT_PREROUTING);
    let check: Chain = BRIDGE.chain(SPOOF_CHECK);
    transaction
        .table(BRIDGE, Some(BRIDGE_VERSION))
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

/// Adds `table bridge weft`, unless it is there, with what keeps ports of the group [`APART`] from each other. The chain must be
/// new.
///
/// KERNEL: where `bridge-nf-call-iptables` is on, a packet to a published port gets its new receiver while its frame is still being
/// bridged, and goes on to that port of the bridge (br_nf_pre_routing_finish). An isolated port would not let it pass. So such a
/// port is not isolated, and what IP's filter has let through, which carries a mark, passes from one port of the group to another.
pub(crate) fn create_apart(transaction: &mut Transaction) {
    let chain = BRIDGE.base_chain(FORWARD, AT_FORWARD);
    let of_group =
        |way| [Expr::Meta(way, Reg(0)), Expr::Compare(Reg(0), Comparison::Equal, APART.to_ne_bytes().into())];
    let unmarked = [
        Expr::Meta(Meta::Mark, Reg(0)),
        Expr::Mask(Reg(0), forward::LET_THROUGH_BIT.to_ne_bytes().into()),
        Expr::Compare(Reg(0), Comparison::Equal, vec![0; 4]),
        Expr::Verdict(Verdict::Drop),
    ];
    let exprs = of_group(Meta::InputGroup).into_iter().chain(of_group(Meta::OutputGroup)).chain(unmarked);
    transaction.table(BRIDGE, Some(BRIDGE_VERSION)).new_chain(&chain).rule(chain.rule(exprs));
}
