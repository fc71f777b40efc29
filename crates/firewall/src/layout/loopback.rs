//! Answers to the host's own `::1`.
//!
//! A connection from `::1` to a published port leaves with the address of the interface, and its answers are
//! translated back to `::1`. Nobody delivers such a packet that came in by another interface than `lo`:
//!
//! * KERNEL: loopback addresses are looked for among the routes of that interface (rt6_need_strict). One route
//!   of the host's own table helps: `local ::1 dev br0`.
//! * KERNEL: where bridged frames pass through IP's hooks (br_netfilter), the address is translated before IP sees
//!   the packet at all, and it drops those (ip6_rcv_core). So they are sent round by `lo` before that.
//!
//! ```text
//! table inet weft    { chain loopback_answers { iifname @loopback ip6 daddr ::1 ct direction reply ct status dnat mark } }
//! table netdev weft  { chain br0 { hook ingress device br0; marked? ip6 daddr ::1 ether daddr set 00:..., fwd to lo } }
//! ```
//!
//! The mark proves that the address was translated: whoever sends `::1` from outside is not let in by this.

use weft_model::IfName;
use weft_nft::expr::{
    Comparison, Conntrack, Field, Found, Meta, Reg, has_bits, is_family, is_marked, is_within, mark, unmark,
};
use weft_nft::{Base, Chain, ChainKind, Expr, Family, Hook, Policy, Set, Table, Transaction, Type};

use super::masquerade::loopback;
use super::{ANY, INET, TRANSLATED};
use crate::admission::layout::BIT;

/// The table for what single interfaces receive.
pub(crate) const NETDEV: Table = Table::new(Family::Netdev, "weft");
/// Its layout's version.
pub(crate) const NETDEV_VERSION: &str = "weft layout 1";

pub(crate) const ANSWERS: &str = "loopback_answers";
/// The chain with its number of rules.
pub(crate) const CHAINS: [(&str, usize); 1] = [(ANSWERS, 1)];

/// After addresses were translated back.
const AT_PREROUTING: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -50, policy: Policy::Accept };
const AT_INGRESS: Base =
    Base { kind: ChainKind::Filter, hook: Hook::Ingress, priority: 0, policy: Policy::Accept };

/// KERNEL: the index of `lo` in every namespace (LOOPBACK_IFINDEX).
const LO: u32 = 1;
/// The EtherType of IPv6.
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Returns the set of interfaces that answers to `::1` come in by.
pub(crate) fn links() -> Set {
    Set::new(INET, "loopback", &[Type::IfName]).expiring()
}

/// Adds the set and the chain that marks answers. The chain must be new.
pub(crate) fn create(transaction: &mut Transaction) {
    let answers = INET.base_chain(ANSWERS, AT_PREROUTING);
    let mut exprs =
        vec![Expr::Meta(Meta::InputName, Reg(0)), Expr::Lookup(links().name, Reg(0), Found::Match)];
    exprs.extend(is_to_loopback());
    exprs.push(Expr::Conntrack(Conntrack::Direction, Reg(0)));
    exprs.push(Expr::Compare(Reg(0), Comparison::Equal, vec![1]));
    exprs.extend(has_bits(Conntrack::Status, TRANSLATED));
    exprs.extend(mark(BIT));
    transaction.new_chain(&answers).set(&links()).rule(answers.rule(exprs));
}

/// Returns the steps that go on only for IPv6 packets to `::1`.
fn is_to_loopback() -> Vec<Expr> {
    let [_, v6] = loopback();
    let mut exprs = Vec::from(is_family(ANY[1]));
    exprs.extend(is_within(Field::IP6_DESTINATION, v6, Comparison::Equal));
    exprs
}

/// Returns the chain for what an interface receives.
pub(crate) fn detour(link: &IfName) -> Chain {
    NETDEV.base_chain(link.to_string(), AT_INGRESS).device(link.as_str())
}

/// Adds the chain that sends marked packets to `::1` round by `lo`. It must be new.
pub(crate) fn create_detour(transaction: &mut Transaction, link: &IfName) {
    let chain = detour(link);
    let [_, v6] = loopback();
    let mut exprs = Vec::from(is_marked(BIT));
    exprs.push(Expr::Meta(Meta::Protocol, Reg(0)));
    exprs.push(Expr::Compare(Reg(0), Comparison::Equal, IPV6.to_vec()));
    exprs.extend(is_within(Field::IP6_DESTINATION, v6, Comparison::Equal));
    exprs.extend(unmark(BIT));
    // Frames to another address than lo's own, which is all zeros, are taken for somebody else's.
    exprs.push(Expr::Immediate(Reg(0), vec![0; 6]));
    exprs.push(Expr::SetPayload(Field::ETHER_DESTINATION, Reg(0)));
    exprs.push(Expr::Immediate(Reg(0), LO.to_ne_bytes().to_vec()));
    exprs.push(Expr::Forward(Reg(0)));
    transaction.table(NETDEV, Some(NETDEV_VERSION)).new_chain(&chain).rule(chain.rule(exprs));
}
