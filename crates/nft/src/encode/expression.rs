//! Expressions as netlink attributes.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta as MetaAttribute, MetaKey, Operator,
    Payload, Register, Verdict as VerdictCode, VerdictAttribute,
};

use super::{NF_ACCEPT, NF_DROP};
use crate::expr::{Comparison, Conntrack, Expr, Found, Header, Meta, Nat, NatKind, Reg, Verdict};

const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_KEY_STATE: u32 = 0;
const CT_KEY_DIRECTION: u32 = 1;
const CT_KEY_STATUS: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const PAYLOAD_SREG: u16 = 5;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_REG_ADDR_MIN: u16 = 3;
const NAT_REG_ADDR_MAX: u16 = 4;
const NAT_REG_PROTO_MIN: u16 = 5;
const NAT_REG_PROTO_MAX: u16 = 6;
const NAT_FLAGS: u16 = 7;
const NF_NAT_RANGE_PROTO_OFFSET: u32 = 1 << 5;
const FIB_DREG: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_DADDR: u32 = 1 << 1;
const FWD_SREG_DEV: u16 = 1;

pub(super) fn expression(expr: &Expr) -> Expressions {
    match expr {
        Expr::Payload(field, to) => Expressions::Payload(vec![
            Payload::DestinationRegister(register(*to)),
            Payload::Base(base(field.header)),
            Payload::Offset(field.offset.into()),
            Payload::Len(field.len.into()),
        ]),
        Expr::Meta(meta, to) => Expressions::Meta(vec![
            MetaAttribute::DestinationRegister(register(*to)),
            MetaAttribute::Key(match meta {
                Meta::InputName => MetaKey::Iifname,
                Meta::OutputName => MetaKey::Oifname,
                Meta::OutputKind => MetaKey::Oifkind,
                Meta::InputGroup => MetaKey::Iifgroup,
                Meta::OutputGroup => MetaKey::Oifgroup,
                Meta::Family => MetaKey::Nfproto,
                Meta::Transport => MetaKey::L4Proto,
                Meta::Protocol => MetaKey::EtherTypeProtocol,
                Meta::Mark => MetaKey::Mark,
                Meta::InputBridge => MetaKey::BriIifname,
            }),
        ]),
        Expr::SetMark(from) => Expressions::Meta(vec![
            MetaAttribute::Key(MetaKey::Mark),
            MetaAttribute::SourceRegister(register(*from)),
        ]),
        Expr::Conntrack(what, to) => conntrack(*what, *to),
        Expr::Mask(reg, mask) => bitwise(*reg, mask, &vec![0; mask.len()]),
        Expr::Bits(reg, mask, flip) => bitwise(*reg, mask, flip),
        Expr::Compare(reg, comparison, value) => Expressions::Cmp(vec![
            Cmp::SourceRegister(register(*reg)),
            Cmp::Op(match comparison {
                Comparison::Equal => Operator::Equal,
                Comparison::NotEqual => Operator::NotEqual,
            }),
            Cmp::Data(DataAttribute::Value(value.clone())),
        ]),
        Expr::Lookup(set, reg, found) => lookup(set, *reg, *found),
        Expr::Verdict(what) => Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            Immediate::Data(verdict(what)),
        ]),
        Expr::Immediate(to, value) => Expressions::Immediate(vec![
            Immediate::DestinationRegister(register(*to)),
            Immediate::Data(DataAttribute::Value(value.clone())),
        ]),
        Expr::SetPayload(field, from) => other(
            "payload",
            vec![
                number(PAYLOAD_BASE, base(field.header)),
                number(PAYLOAD_OFFSET, field.offset.into()),
                number(PAYLOAD_LEN, field.len.into()),
                number(PAYLOAD_SREG, register(*from).into()),
            ],
        ),
        Expr::Masquerade => other("masq", Vec::new()),
        Expr::Nat(nat) => translation(nat),
        Expr::DestinationKind(to) => other(
            "fib",
            vec![
                number(FIB_DREG, register(*to).into()),
                number(FIB_RESULT, FIB_RESULT_ADDRTYPE),
                number(FIB_FLAGS, FIB_F_DADDR),
            ],
        ),
        Expr::Forward(device) => other("fwd", vec![number(FWD_SREG_DEV, register(*device).into())]),
        Expr::Counter => other("counter", Vec::new()),
        Expr::NoTrack => other("notrack", Vec::new()),
    }
}

fn bitwise(reg: Reg, mask: &[u8], flip: &[u8]) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(reg)),
        Bitwise::DestinationRegister(register(reg)),
        Bitwise::Length(u32::try_from(mask.len()).unwrap_or(u32::MAX)),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(flip.to_vec())),
    ])
}

fn lookup(set: &str, reg: Reg, found: Found) -> Expressions {
    let mut attributes = vec![Lookup::Set(set.into()), Lookup::SourceRegister(register(reg))];
    match found {
        // Else an inverted lookup of somebody else's would have all that ours has.
        Found::Match => attributes.push(Lookup::Flags(0)),
        Found::NoMatch => attributes.push(Lookup::Flags(LOOKUP_INVERTED)),
        Found::Verdict => attributes.push(Lookup::DestinationRegister(Register::Verdict)),
        Found::Load(to) => attributes.push(Lookup::DestinationRegister(register(to))),
    }
    Expressions::Lookup(attributes)
}

fn conntrack(what: Conntrack, to: Reg) -> Expressions {
    let key = match what {
        Conntrack::State => CT_KEY_STATE,
        Conntrack::Direction => CT_KEY_DIRECTION,
        Conntrack::Status => CT_KEY_STATUS,
    };
    other("ct", vec![number(CT_DREG, register(to).into()), number(CT_KEY, key)])
}

fn translation(nat: &Nat) -> Expressions {
    let mut attributes = vec![
        number(
            NAT_TYPE,
            match nat.kind {
                NatKind::Source => 0,
                NatKind::Destination => 1,
            },
        ),
        // NFPROTO_IPV4 and NFPROTO_IPV6 (linux/netfilter.h).
        number(NAT_FAMILY, if nat.family.is_ipv4() { 2 } else { 10 }),
        number(NAT_REG_ADDR_MIN, register(nat.address).into()),
    ];
    let mut push = |kind, reg: Reg| attributes.push(number(kind, register(reg).into()));
    if let Some((address, _)) = nat.last {
        push(NAT_REG_ADDR_MAX, address);
    }
    if let Some(port) = nat.port {
        push(NAT_REG_PROTO_MIN, port);
    }
    if let Some((_, port)) = nat.last {
        push(NAT_REG_PROTO_MAX, port);
    }
    if nat.by_remainder {
        attributes.push(number(NAT_FLAGS, NF_NAT_RANGE_PROTO_OFFSET));
    }
    other("nat", attributes)
}

const fn base(header: Header) -> u32 {
    match header {
        Header::Link => 0,
        Header::Network => 1,
        Header::Transport => 2,
    }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.into(), attributes }
}

/// The 32-bit registers start at number 8 (NFT_REG32_00).
fn register(reg: Reg) -> Register {
    Register::from(8 + u32::from(reg.0))
}

pub(super) fn verdict(verdict: &Verdict) -> DataAttribute {
    let (code, chain) = match verdict {
        Verdict::Accept => (VerdictCode::Other(NF_ACCEPT), None),
        Verdict::Drop => (VerdictCode::Other(NF_DROP), None),
        Verdict::Return => (VerdictCode::Return, None),
        Verdict::Jump(chain) => (VerdictCode::Jump, Some(chain)),
        Verdict::Goto(chain) => (VerdictCode::Goto, Some(chain)),
    };
    let mut attributes = vec![VerdictAttribute::Code(code)];
    attributes.extend(chain.map(|chain| VerdictAttribute::Chain(chain.to_string())));
    DataAttribute::Verdict(attributes)
}
