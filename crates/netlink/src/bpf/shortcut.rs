//! The way from one link of a network to another of its links, past what the host asks other packets (docs/adr/0022).
//!
//! What a link receives is decided here before the host's own routing looks at it. A packet that would be routed from
//! `from` to `to` goes there at once: the routes are the host's own, and are asked for the way there and for the way back,
//! so nothing gets by that a strict `rp_filter` would not let pass, and no packet gets into another network.
//! Whatever is not as simple as that goes the way that it would go without: what is not for `from`'s Ethernet address,
//! has a VLAN, a mark, options, or no lifetime left, is a fragment, or larger than the way is wide, is answered or treated by the host.

// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
// The kernel gives its routes to programs that may be had under the GPL (bpf_fib_lookup), so this one may.

use std::hash::{DefaultHasher, Hash, Hasher};

use weft_model::Mac;

use super::{Assembler, Helper, Instruction, Label, Op, Reg, Size, When};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
use Size::{Byte, Double, Half, Word};

/// A link whose packets are led on, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortcut {
    /// The index of the link that the packets come by, as routing sees it: for a bridge's port, the bridge.
    pub from: u32,
    /// Its Ethernet address, which they are sent to.
    pub station: Mac,
    /// The index of the link that they leave by.
    pub to: u32,
}

/// Who is asked first whether packets may be led on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// The [`Gate`](super::Gate), as it is named where the program is loaded.
    pub gate: u32,
    /// How its time is compared.
    pub clock: Clock,
}

/// Which of the kernel's clocks a program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The one that is cheap to read, and behind by up to a tick. Programs may since Linux 5.11.
    Coarse,
    /// The other one.
    Exact,
}

/// Offsets in `struct __sk_buff` (include/uapi/linux/bpf.h).
mod skb {
    pub(super) const LEN: i16 = 0;
    pub(super) const MARK: i16 = 8;
    pub(super) const PROTOCOL: i16 = 16;
    pub(super) const VLAN_PRESENT: i16 = 20;
    pub(super) const DATA: i16 = 76;
    pub(super) const DATA_END: i16 = 80;
    pub(super) const GSO_SIZE: i16 = 176;
}

/// Offsets in `struct bpf_fib_lookup` (the same file): the question, and the answer in its place.
mod fib {
    pub(super) const FAMILY: i16 = 0;
    pub(super) const PROTOCOL: i16 = 1;
    pub(super) const LENGTH: i16 = 6;
    pub(super) const IFINDEX: i16 = 8;
    pub(super) const TOS: i16 = 12;
    pub(super) const SOURCE: i16 = 16;
    pub(super) const DESTINATION: i16 = 32;
    pub(super) const MACS: i16 = 52;
    pub(super) const SIZE: i16 = 64;
}

// What is on the stack: the way there, the way back, and the next hop (`struct bpf_redir_neigh`, and 4 bytes more).
const THERE: i16 = -fib::SIZE;
const BACK: i16 = THERE - fib::SIZE;
const NEIGHBOUR: i16 = BACK - 24;
const NEIGHBOUR_SIZE: i32 = 20;

/// Where an IP header is in a frame.
const IP: i16 = 14;
const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMP6: i32 = 58;
/// There is a route but nobody has asked for the next hop's Ethernet address yet (BPF_FIB_LKUP_RET_NO_NEIGH).
const NO_NEIGHBOUR: i32 = 7;

/// What an IP header has where.
struct Family {
    /// The number that the kernel calls it by.
    number: i32,
    header: i16,
    address: i16,
    source: i16,
    protocol: i16,
    lifetime: i16,
    length: i16,
    /// What the length in it leaves out.
    besides: i32,
}

const V4: Family =
    Family { number: 2, header: 20, address: 4, source: 12, protocol: 9, lifetime: 8, length: 2, besides: 0 };
const V6: Family = Family {
    number: 10,
    header: 40,
    address: 16,
    source: 8,
    protocol: 6,
    lifetime: 7,
    length: 4,
    besides: 40,
};
const V4_CHECKSUM: i16 = IP + 10;

impl Family {
    fn is_v4(&self) -> bool {
        self.address == 4
    }
}

/// Returns the number as it is when it is loaded from a packet.
fn be16(value: u16) -> i32 {
    value.to_be().into()
}

/// Returns what a program is told from others by: a filter of `tc` has it as its name.
pub fn name(code: &[Instruction]) -> String {
    let mut hasher = DefaultHasher::new();
    code.hash(&mut hasher);
    format!("weft shortcut {:016x}", hasher.finish())
}

/// Returns the program. Without somebody to ask it leads packets on always. `R6` is the packet's description, `R7` where it begins, `R8` where what can be read ends, `R9` how long
/// it is as IP, or the longest of what it will be cut into.
pub fn program(shortcut: &Shortcut, guarded: Option<Guarded>) -> Vec<Instruction> {
    let mut p = Assembler::default();
    let (slow, v6, send) = (p.label(), p.label(), p.label());
    p.combine(Op::Move, R6, R1);
    if let Some(Guarded { gate, clock }) = guarded {
        p.value_of(R7, gate).load(Double, R7, R7, 0);
        p.call(if clock == Clock::Coarse { Helper::NowOrJustBefore } else { Helper::Now });
        p.jump_if_reg(When::AtMost, R7, R0, slow);
    }
    // Whoever has put a mark on it may have a way of its own for it (fwmark of ip-rule(8)), and that is not asked for here.
    p.load(Word, R0, R6, skb::MARK).jump_if(When::NotEqual, R0, 0, slow);
    p.load(Word, R0, R6, skb::VLAN_PRESENT).jump_if(When::NotEqual, R0, 0, slow);
    p.load(Word, R7, R6, skb::DATA).load(Word, R8, R6, skb::DATA_END);
    reach(&mut p, V4.header, slow);
    let [a, b, c, d, e, f] = shortcut.station.0;
    p.load(Word, R0, R7, 0).jump_if(When::NotEqual, R0, i32::from_ne_bytes([a, b, c, d]), slow);
    p.load(Half, R0, R7, 4).jump_if(When::NotEqual, R0, u16::from_ne_bytes([e, f]).into(), slow);
    p.load(Word, R0, R6, skb::PROTOCOL).jump_if(When::Equal, R0, be16(0x86dd), v6);
    p.jump_if(When::NotEqual, R0, be16(0x0800), slow);
    lead(&mut p, &V4, shortcut, slow);
    p.jump(send).place(v6);
    lead(&mut p, &V6, shortcut, slow);
    p.place(send);
    // The kernel looks the neighbour up again, and so learns that it is in use, and asks whether it is there still.
    p.calculate(Op::Move, R1, shortcut.to.cast_signed()).combine(Op::Move, R2, R10);
    p.calculate(Op::Add, R2, NEIGHBOUR.into()).calculate(Op::Move, R3, NEIGHBOUR_SIZE);
    p.calculate(Op::Move, R4, 0).call(Helper::RedirectToNeighbour).exit();
    // TC_ACT_UNSPEC: whoever is asked next.
    p.place(slow).calculate(Op::Move, R0, -1).exit();
    p.code
}

/// What has no so many bytes behind the Ethernet header, or does not have them at hand, goes the slow way.
fn reach(p: &mut Assembler, bytes: i16, slow: Label) {
    p.combine(Op::Move, R0, R7).calculate(Op::Add, R0, (IP + bytes).into());
    p.jump_if_reg(When::Above, R0, R8, slow);
}

/// Goes on with a packet that is ready to be sent on, and a next hop; everything else goes the slow way.
fn lead(p: &mut Assembler, family: &Family, shortcut: &Shortcut, slow: Label) {
    plain(p, family, slow);
    measure(p, family, slow);
    questions(p, family, shortcut);
    ask(p, THERE);
    p.jump_if(When::NotEqual, R0, 0, slow);
    p.load(Word, R0, R10, THERE + fib::IFINDEX).jump_if(When::NotEqual, R0, shortcut.to.cast_signed(), slow);
    let way_back = p.label();
    ask(p, BACK);
    p.jump_if(When::Equal, R0, 0, way_back).jump_if(When::NotEqual, R0, NO_NEIGHBOUR, slow).place(way_back);
    p.load(Word, R0, R10, BACK + fib::IFINDEX).jump_if(When::NotEqual, R0, shortcut.from.cast_signed(), slow);
    age(p, family);
    p.put(Word, R10, NEIGHBOUR, family.number);
    for at in (0..16).step_by(4) {
        p.load(Word, R0, R10, THERE + fib::DESTINATION + at).store(Word, R10, NEIGHBOUR + 4 + at, R0);
    }
}

/// Neither options nor fragments, and a lifetime left. Leaves the protocol in `R3`.
fn plain(p: &mut Assembler, family: &Family, slow: Label) {
    reach(p, family.header, slow);
    p.load(Byte, R3, R7, IP + family.protocol);
    if family.is_v4() {
        p.load(Byte, R0, R7, IP).jump_if(When::NotEqual, R0, 0x45, slow);
        p.load(Half, R0, R7, IP + 6).jump_if(When::Bits, R0, be16(0x3fff), slow);
    } else {
        let known = p.label();
        p.load(Byte, R0, R7, IP).calculate(Op::And, R0, 0xf0).jump_if(When::NotEqual, R0, 0x60, slow);
        p.jump_if(When::Equal, R3, TCP, known).jump_if(When::Equal, R3, UDP, known);
        p.jump_if(When::NotEqual, R3, ICMP6, slow).place(known);
        // From an address that is good on a link only (fe80::/10), or from a group's.
        p.load(Byte, R0, R7, IP + family.source).jump_if(When::Above, R0, 0xfd, slow);
    }
    p.load(Byte, R0, R7, IP + family.lifetime).jump_if(When::AtMost, R0, 1, slow);
}

/// Leaves in `R9` what has to fit the way there.
fn measure(p: &mut Assembler, family: &Family, slow: Label) {
    let (merged, known) = (p.label(), p.label());
    p.load(Word, R9, R6, skb::GSO_SIZE).jump_if(When::NotEqual, R9, 0, merged);
    p.load(Half, R9, R7, IP + family.length).swap(R9).calculate(Op::Add, R9, family.besides);
    p.load(Word, R0, R6, skb::LEN).calculate(Op::Add, R0, (-IP).into());
    p.jump_if_reg(When::NotEqual, R0, R9, slow).jump(known);
    // Several segments in one: of TCP each is that long, with headers. Of others it depends on what they carry.
    p.place(merged).jump_if(When::NotEqual, R3, TCP, slow);
    reach(p, family.header + 20, slow);
    p.load(Byte, R0, R7, IP + family.header + 12).calculate(Op::ShiftRight, R0, 4);
    p.calculate(Op::ShiftLeft, R0, 2).combine(Op::Add, R9, R0);
    p.calculate(Op::Add, R9, family.header.into()).place(known);
}

/// Writes down what routing is asked.
fn questions(p: &mut Assembler, family: &Family, shortcut: &Shortcut) {
    for at in (BACK..0).step_by(8) {
        p.put(Double, R10, at, 0);
    }
    for (question, link) in [(THERE, shortcut.from), (BACK, shortcut.to)] {
        p.put(Byte, R10, question + fib::FAMILY, family.number);
        p.store(Byte, R10, question + fib::PROTOCOL, R3);
        p.put(Word, R10, question + fib::IFINDEX, link.cast_signed());
    }
    // Any length fits the way back, which nothing is sent by; without one the kernel takes the packet's.
    p.store(Half, R10, THERE + fib::LENGTH, R9).put(Half, R10, BACK + fib::LENGTH, 1);
    if family.is_v4() {
        p.load(Byte, R0, R7, IP + 1).store(Byte, R10, THERE + fib::TOS, R0);
    } else {
        let class_and_flow = i32::from_ne_bytes([0x0f, 0xff, 0xff, 0xff]);
        p.load(Word, R0, R7, IP).calculate(Op::And, R0, class_and_flow).store(
            Word,
            R10,
            THERE + fib::TOS,
            R0,
        );
    }
    let (source, destination) = (family.source, family.source + family.address);
    for at in (0..family.address).step_by(4) {
        p.load(Word, R0, R7, IP + source + at).store(Word, R10, THERE + fib::SOURCE + at, R0);
        p.store(Word, R10, BACK + fib::DESTINATION + at, R0);
        p.load(Word, R0, R7, IP + destination + at).store(Word, R10, THERE + fib::DESTINATION + at, R0);
        p.store(Word, R10, BACK + fib::SOURCE + at, R0);
    }
}

/// Leaves the answer in `R0`, and where the question was.
fn ask(p: &mut Assembler, question: i16) {
    p.combine(Op::Move, R1, R6).combine(Op::Move, R2, R10).calculate(Op::Add, R2, question.into());
    p.calculate(Op::Move, R3, fib::SIZE.into()).calculate(Op::Move, R4, 0).call(Helper::LookUpRoute);
}

/// Takes one from the lifetime, and keeps every checksum right.
fn age(p: &mut Assembler, family: &Family) {
    // KERNEL: of a packet whose sum somebody has made (CHECKSUM_COMPLETE) the old Ethernet header is added to it and the new one
    // subtracted (bpf_push_mac_rcsum, net/core/filter.c; __dev_forward_skb), so their difference is added here. The lifetime
    // of IPv4 is in a checksum of its own. Where nobody has, this fails: the result has no upper half but of an error.
    let ready = p.label();
    p.combine(Op::Move, R1, R6).calculate(Op::Move, R2, 0).call(Helper::UpdateChecksum);
    p.calculate(Op::ShiftRight, R0, 32).jump_if(When::NotEqual, R0, 0, ready);
    p.combine(Op::Move, R1, R7).calculate(Op::Move, R2, 12).combine(Op::Move, R3, R10);
    p.calculate(Op::Add, R3, (THERE + fib::MACS).into()).calculate(Op::Move, R4, 12);
    let less = if family.is_v4() { 0 } else { !be16(1) };
    p.calculate(Op::Move, R5, less).call(Helper::ChecksumDifference);
    p.combine(Op::Move, R2, R0).combine(Op::Move, R1, R6).call(Helper::UpdateChecksum).place(ready);
    p.load(Byte, R0, R7, IP + family.lifetime).calculate(Op::Add, R0, -1);
    p.store(Byte, R7, IP + family.lifetime, R0);
    if family.is_v4() {
        // As ip_decrease_ttl does: one's complement, so what is carried is added again.
        p.load(Half, R0, R7, V4_CHECKSUM).calculate(Op::Add, R0, be16(0x0100)).combine(Op::Move, R1, R0);
        p.calculate(Op::Add, R1, 1).calculate(Op::ShiftRight, R1, 16).combine(Op::Add, R0, R1);
        p.store(Half, R7, V4_CHECKSUM, R0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARDED: Option<Guarded> = Some(Guarded { gate: 7, clock: Clock::Coarse });

    /// The kernel's verifier is the judge: see the scenarios. This is what a reader of `bpftool prog dump` has beside it.
    #[test]
    fn every_jump_lands_within_the_program() {
        let code = program(&Shortcut { from: 3, station: Mac([2, 0, 0, 0, 0, 0xff]), to: 4 }, GUARDED);
        assert!(code.len() < 310, "{}", code.len());
        let mut jumps = 0;
        for (at, [operation, _, low, high, ..]) in code.iter().enumerate() {
            let is_jump = matches!(operation & 7, 5 | 6) && !matches!(operation & 0xf0, 0x80 | 0x90);
            let to = at + 1 + usize::try_from(i16::from_ne_bytes([*low, *high])).unwrap_or(code.len());
            assert!(!is_jump || (to > at + 1 && to < code.len()), "{at} jumps to {to}");
            jumps += usize::from(is_jump);
        }
        assert!(jumps > 20, "{jumps}");
        assert_eq!(code.last().map(|last| last[0]), Some(0x95));
    }

    #[test]
    fn another_link_is_another_program() {
        let one = Shortcut { from: 3, station: Mac([2, 0, 0, 0, 0, 1]), to: 4 };
        let others = [
            Shortcut { from: 5, ..one },
            Shortcut { to: 5, ..one },
            Shortcut { station: Mac([2, 0, 0, 0, 0, 2]), ..one },
        ];
        let gates = [None, Some(Guarded { gate: 8, clock: Clock::Coarse })];
        assert!(gates.iter().all(|gate| program(&one, *gate) != program(&one, GUARDED)));
        assert!(others.iter().all(|other| program(other, GUARDED) != program(&one, GUARDED)));
    }
}
