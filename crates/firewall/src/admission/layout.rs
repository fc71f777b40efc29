//! What `table inet weft` has for networks and containers that other filters are to let through.
//!
//! ```text
//! set admitted4 { 10.0.0.2 }
//! set passing { "br-blue" }
//! chain before_filters { type filter hook forward priority filter - 1
//!     oifname @passing mark
//!     iifname @passing jump leaving
//!     ip saddr @admitted4 jump leaving
//!     ip daddr @admitted4 ct state established,related mark
//! }
//! chain leaving { an answer, not to a bridge, or to one that is ours or leads outside: mark }
//! chain after_filters { type filter hook forward priority filter + 20; unmark }
//! ```
//!
//! Accepting a packet in our table does not keep another table from dropping it. So packets that are ours to
//! let through carry a bit of the mark while other filters look at them, and whoever would drop them is told
//! by one rule to let the bit pass ([`crate::foreign`], docs/adr/0007). Where a packet leaves towards somebody else's
//! bridge, it does not carry the bit: who may call the containers there is for their filter to say.

use std::net::IpAddr;

use weft_nft::expr::{Comparison, Conntrack, Field, Found, Meta, Reg, Verdict, is_family, mark, unmark};
use weft_nft::{Base, ChainKind, Expr, Hook, Key, Policy, Set, Transaction, Type};

use crate::layout::{ANY, INET};

/// The bit of the mark that says so. It is set in the forward hook, and on answers to the host's `::1`
/// ([`crate::layout::loopback`]), which nobody forwards.
///
/// Others known to use marks: Kubernetes 0x4000 and 0x8000, the CNI reference plugins 0x2000, netavark 0x1000 and
/// 0x2000, Tailscale 0xff0000, Weave 0x20000, Cilium 0x0f00, Istio 0x539, wg-quick 0xca6c.
pub(crate) const BIT: u32 = 0x1000_0000;

pub(crate) const BEFORE: &str = "before_filters";
pub(crate) const AFTER: &str = "after_filters";
/// What our networks and containers send.
pub(crate) const LEAVING: &str = "leaving";
/// The chains with their numbers of rules.
pub(crate) const CHAINS: [(&str, usize); 3] = [(BEFORE, 6), (LEAVING, 5), (AFTER, 1)];

/// The kind of bridges, as a register has it.
const BRIDGE: &[u8; 16] = b"bridge\0\0\0\0\0\0\0\0\0\0";

/// Before every filter of the usual turn, and after firewalld's, which is ten later.
pub(crate) const BEFORE_PRIORITY: i32 = -1;
pub(crate) const AFTER_PRIORITY: i32 = 20;

/// What connection tracking calls a packet of a connection that it knows (nf_conntrack_common.h).
const ESTABLISHED: u32 = 1 << 1;
const RELATED: u32 = 1 << 2;

/// Returns the set of addresses of this one's family.
pub(crate) fn admitted(family: IpAddr) -> Set {
    let (name, key): (_, &'static [Type]) =
        if family.is_ipv4() { ("admitted4", &[Type::Ipv4Addr]) } else { ("admitted6", &[Type::Ipv6Addr]) };
    Set::new(INET, name, key).expiring()
}

/// Returns the set of interfaces whose packets pass, in and out.
pub(crate) fn passing() -> Set {
    Set::new(INET, "passing", &[Type::IfName]).expiring()
}

/// Returns the set of bridges that lead to where the host's default route does.
pub(crate) fn outward() -> Set {
    Set::new(INET, "outward", &[Type::IfName]).expiring()
}

/// Returns an address's key.
pub(crate) fn key(addr: IpAddr) -> Key {
    Key::new().addr(addr)
}

/// Adds the sets and the chains. What the kernel calls must be new.
pub(crate) fn create(transaction: &mut Transaction) {
    let [before, after] = [(BEFORE, BEFORE_PRIORITY), (AFTER, AFTER_PRIORITY)].map(|(name, priority)| {
        let (kind, hook, policy) = (ChainKind::Filter, Hook::Forward, Policy::Accept);
        INET.base_chain(name, Base { kind, hook, priority, policy })
    });
    let leaving = INET.chain(LEAVING);
    transaction.new_chain(&before).new_chain(&after).chain(&leaving).set(&passing()).set(&outward());
    let by = |way, set: Set| [Expr::Meta(way, Reg(0)), Expr::Lookup(set.name, Reg(0), Found::Match)];
    let leave = || [Expr::Verdict(Verdict::Jump(LEAVING.into()))];
    transaction
        .rule(before.rule(by(Meta::OutputName, passing()).into_iter().chain(mark(BIT))))
        .rule(before.rule(by(Meta::InputName, passing()).into_iter().chain(leave())));
    let not_to_a_bridge =
        [Expr::Meta(Meta::OutputKind, Reg(0)), Expr::Compare(Reg(0), Comparison::NotEqual, BRIDGE.to_vec())];
    transaction
        .rule(leaving.rule(is_known().into_iter().chain(mark(BIT))))
        .rule(leaving.rule(not_to_a_bridge.into_iter().chain(mark(BIT))))
        .rule(leaving.rule(by(Meta::OutputName, outward()).into_iter().chain(mark(BIT))));
    for family in ANY {
        let set = admitted(family);
        transaction.set(&set);
        let found = Expr::Lookup(set.name, Reg(0), Found::Match);
        let to = || {
            is_family(family)
                .into_iter()
                .chain([Expr::Payload(Field::destination_of(family), Reg(0)), found.clone()])
        };
        let from = is_family(family)
            .into_iter()
            .chain([Expr::Payload(Field::source_of(family), Reg(0)), found.clone()]);
        transaction
            .rule(before.rule(from.chain(leave())))
            .rule(before.rule(to().chain(is_known()).chain(mark(BIT))))
            .rule(leaving.rule(to().chain(mark(BIT))));
    }
    transaction.rule(after.rule(unmark(BIT)));
}

/// Returns the steps that go on only for a packet of a connection that is known.
fn is_known() -> [Expr; 3] {
    [
        Expr::Conntrack(Conntrack::State, Reg(0)),
        Expr::Mask(Reg(0), (ESTABLISHED | RELATED).to_ne_bytes().to_vec()),
        Expr::Compare(Reg(0), Comparison::NotEqual, vec![0; 4]),
    ]
}
