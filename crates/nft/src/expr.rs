//! Expressions: the machine code of a rule.
//!
//! A rule loads pieces of the packet into registers and compares them; the first comparison that
//! fails ends the rule. There are sixteen registers of 32 bits; longer values take several in a row.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The first of the 32-bit registers that a value takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

/// The header an offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Ethernet.
    Link,
    /// IPv4 or IPv6.
    Network,
    /// TCP, UDP, SCTP.
    Transport,
}

/// A piece of a packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The header it is in.
    pub header: Header,
    /// Its first byte.
    pub offset: u8,
    /// Its length in bytes.
    pub len: u8,
}

impl Field {
    /// The receiver's address of an Ethernet frame.
    pub const ETHER_DESTINATION: Self = Self { header: Header::Link, offset: 0, len: 6 };
    /// The source address of an Ethernet frame.
    pub const ETHER_SOURCE: Self = Self { header: Header::Link, offset: 6, len: 6 };
    /// The source address of an IPv4 packet.
    pub const IP4_SOURCE: Self = Self { header: Header::Network, offset: 12, len: 4 };
    /// The destination address of an IPv4 packet.
    pub const IP4_DESTINATION: Self = Self { header: Header::Network, offset: 16, len: 4 };
    /// The source address of an IPv6 packet.
    pub const IP6_SOURCE: Self = Self { header: Header::Network, offset: 8, len: 16 };
    /// The destination address of an IPv6 packet.
    pub const IP6_DESTINATION: Self = Self { header: Header::Network, offset: 24, len: 16 };
    /// The destination port of TCP, UDP and SCTP.
    pub const PORT_DESTINATION: Self = Self { header: Header::Transport, offset: 2, len: 2 };

    /// Returns the source address field of this address's family.
    pub const fn source_of(family: IpAddr) -> Self {
        if family.is_ipv4() { Self::IP4_SOURCE } else { Self::IP6_SOURCE }
    }

    /// Returns the destination address field of this address's family.
    pub const fn destination_of(family: IpAddr) -> Self {
        if family.is_ipv4() { Self::IP4_DESTINATION } else { Self::IP6_DESTINATION }
    }
}

/// What is known about a packet besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The name of the interface it came in by, 16 bytes.
    InputName,
    /// The name of the interface it leaves by, 16 bytes.
    OutputName,
    /// The kind of the interface it leaves by, `bridge` for example, 16 bytes.
    OutputKind,
    /// The group of the interface it came in by, four bytes in the host's order.
    InputGroup,
    /// The group of the interface it leaves by, four bytes in the host's order.
    OutputGroup,
    /// The protocol family, one byte: 2 for IPv4, 10 for IPv6.
    Family,
    /// The transport protocol, one byte.
    Transport,
    /// The EtherType, two bytes.
    Protocol,
    /// The packet's mark, four bytes in the host's order.
    Mark,
    /// For a frame that passes a bridge: the name of the bridge it came in by, 16 bytes.
    InputBridge,
}

/// What connection tracking knows about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conntrack {
    /// New, established, related, invalid: a bit mask.
    State,
    /// Whether addresses were translated, among others: a bit mask.
    Status,
    /// Which way the packet goes, one byte: 0 as the connection's first packet, 1 the other way.
    Direction,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
}

/// What a rule decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes this base chain.
    Accept,
    /// The packet is gone.
    Drop,
    /// Back to the chain that jumped here; in a base chain, its policy.
    Return,
    /// On to another chain, and back at its end.
    Jump(Cow<'static, str>),
    /// On to another chain, without coming back.
    Goto(Cow<'static, str>),
}

/// What to do with the outcome of a set lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Go on if the key is in the set.
    Match,
    /// Go on if it is not.
    NoMatch,
    /// Do what the verdict map says.
    Verdict,
    /// Put what the map gives here.
    Load(Reg),
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a header field.
    Payload(Field, Reg),
    /// Loads what is known about the packet.
    Meta(Meta, Reg),
    /// Loads what connection tracking knows.
    Conntrack(Conntrack, Reg),
    /// Clears the bits of a register that are not in the mask.
    Mask(Reg, Vec<u8>),
    /// Clears the bits of a register that are not in the first mask, then flips those in the second.
    Bits(Reg, Vec<u8>, Vec<u8>),
    /// Marks the packet with what a register has.
    SetMark(Reg),
    /// Ends the rule unless the comparison holds.
    Compare(Reg, Comparison, Vec<u8>),
    /// Looks a key up.
    Lookup(Cow<'static, str>, Reg, Found),
    /// Decides.
    Verdict(Verdict),
    /// Gives the packet the address of the interface it leaves by.
    Masquerade,
    /// Gives the packet another address, and perhaps another port.
    Nat(Nat),
    /// Loads what kind of address the packet goes to: 2 is the host's own ([`is_for_host`]).
    DestinationKind(Reg),
    /// Writes a register into a header field that no checksum covers.
    SetPayload(Field, Reg),
    /// Loads a value.
    Immediate(Reg, Vec<u8>),
    /// Sends a frame out by the interface whose index a register has. In the `netdev` family only.
    Forward(Reg),
    /// Counts packets and bytes.
    Counter,
    /// Keeps the packet out of connection tracking, and thereby out of address translation. At priority raw only.
    NoTrack,
}

/// Which end of a connection gets another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The sender.
    Source,
    /// The receiver.
    Destination,
}

/// Another address for a connection, from registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Which end gets it.
    pub kind: NatKind,
    /// The family of the address, told by any address of it.
    pub family: IpAddr,
    /// The address.
    pub address: Reg,
    /// The port, if that changes too.
    pub port: Option<Reg>,
    /// The last address and the last port, if there is a choice.
    pub last: Option<(Reg, Reg)>,
    /// How the port is chosen: by its remainder. KERNEL: the new port is `min + old % (max - min + 1)`, since nft_nat
    /// gives no base to subtract from the old one (NF_NAT_RANGE_PROTO_OFFSET, nf_nat_l4proto_unique_tuple).
    pub by_remainder: bool,
}

/// Returns the steps that go on only for packets to an address of the host itself.
pub fn is_for_host() -> [Expr; 2] {
    // RTN_LOCAL (linux/rtnetlink.h).
    [Expr::DestinationKind(Reg(0)), Expr::Compare(Reg(0), Comparison::Equal, 2_u32.to_ne_bytes().to_vec())]
}

/// Returns the steps that go on only if one of these bits of a connection's state or status is set.
pub fn has_bits(what: Conntrack, bits: u32) -> [Expr; 3] {
    [
        Expr::Conntrack(what, Reg(0)),
        Expr::Mask(Reg(0), bits.to_ne_bytes().to_vec()),
        Expr::Compare(Reg(0), Comparison::NotEqual, vec![0; 4]),
    ]
}

/// Returns the steps that go on only for packets of this address's family.
pub fn is_family(family: IpAddr) -> [Expr; 2] {
    // NFPROTO_IPV4 and NFPROTO_IPV6 (linux/netfilter.h).
    let number = if family.is_ipv4() { 2 } else { 10 };
    [Expr::Meta(Meta::Family, Reg(0)), Expr::Compare(Reg(0), Comparison::Equal, vec![number])]
}

/// Returns the steps that go on only if an address field is, or is not, inside a network.
pub fn is_within(field: Field, network: IpNetwork, comparison: Comparison) -> Vec<Expr> {
    let mut exprs = vec![Expr::Payload(field, Reg(0))];
    if network.prefix() < if network.is_ipv4() { 32 } else { 128 } {
        exprs.push(Expr::Mask(Reg(0), octets(network.mask())));
    }
    exprs.push(Expr::Compare(Reg(0), comparison, octets(network.network())));
    exprs
}

/// Returns the steps that set bits of the packet's mark.
pub fn mark(bits: u32) -> [Expr; 3] {
    change_mark(!bits, bits)
}

/// Returns the steps that clear bits of the packet's mark.
pub fn unmark(bits: u32) -> [Expr; 3] {
    change_mark(!bits, 0)
}

fn change_mark(keep: u32, flip: u32) -> [Expr; 3] {
    let bits = Expr::Bits(Reg(0), keep.to_ne_bytes().to_vec(), flip.to_ne_bytes().to_vec());
    [Expr::Meta(Meta::Mark, Reg(0)), bits, Expr::SetMark(Reg(0))]
}

/// Returns the steps that go on only if one of these bits of the packet's mark is set.
pub fn is_marked(bits: u32) -> [Expr; 3] {
    [
        Expr::Meta(Meta::Mark, Reg(0)),
        Expr::Mask(Reg(0), bits.to_ne_bytes().to_vec()),
        Expr::Compare(Reg(0), Comparison::NotEqual, vec![0; 4]),
    ]
}

/// Returns the bytes of an address in the order of the wire.
pub fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}
