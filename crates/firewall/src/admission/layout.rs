//! What `table inet weft` has for networks and containers that other filters are to let through.
//!
//! ```text
//! set admitted4 { 10.0.0.2 }
//! set passing { "br-blue" }
//! chain before_filters { type filter hook forward priority filter - 1
//!     iifname @passing mark
//!     oifname @passing mark
//!     ip saddr @admitted4 mark
//!     ip daddr @admitted4 ct state established,related mark
//! }
//! chain after_filters { type filter hook forward priority filter + 20; unmark }
//! ```
//!
//! Accepting a packet in our table does not keep another table from dropping it. So packets that are ours to
//! let through carry a bit of the mark while other filters look at them, and whoever would drop them is told
//! by one rule to let the bit pass ([`crate::foreign`], docs/adr/0007).

use std::net::IpAddr;

use weft_nft::expr::{Comparison, Conntrack, Field, Found, Meta, Reg, is_family, mark, unmark};
use weft_nft::{Base, ChainKind, Expr, Hook, Key, Policy, Set, Transaction, Type};

use crate::layout::INET;

/// The bit of the mark that says so. It is set in the forward hook only.
///
/// Others known to use marks: Kubernetes 0x4000 and 0x8000, the CNI reference plugins 0x2000, netavark 0x1000 and
/// 0x2000, Tailscale 0xff0000, Weave 0x20000, Cilium 0x0f00, Istio 0x539, wg-quick 0xca6c.
pub(crate) const BIT: u32 = 0x1000_0000;

pub(crate) const BEFORE: &str = "before_filters";
pub(crate) const AFTER: &str = "after_filters";
/// The chains with their numbers of rules.
pub(crate) const CHAINS: [(&str, usize); 2] = [(BEFORE, 6), (AFTER, 1)];

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
    transaction.new_chain(&before).new_chain(&after).set(&passing());
    for way in [Meta::InputName, Meta::OutputName] {
        let mut exprs = vec![Expr::Meta(way, Reg(0)), Expr::Lookup(passing().name, Reg(0), Found::Match)];
        exprs.extend(mark(BIT));
        transaction.rule(before.rule(exprs));
    }
    for family in [IpAddr::from([0; 4]), IpAddr::from([0_u16; 8])] {
        let set = admitted(family);
        transaction.set(&set);
        let found = Expr::Lookup(set.name, Reg(0), Found::Match);
        let mut from = Vec::from(is_family(family));
        from.extend([Expr::Payload(Field::source_of(family), Reg(0)), found.clone()]);
        from.extend(mark(BIT));
        let mut answers = Vec::from(is_family(family));
        answers.extend([Expr::Payload(Field::destination_of(family), Reg(0)), found]);
        answers.extend(is_known());
        answers.extend(mark(BIT));
        transaction.rule(before.rule(from)).rule(before.rule(answers));
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
