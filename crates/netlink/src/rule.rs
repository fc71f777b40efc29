//! `ip rule`.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use nix::libc;

use crate::wire::{attributes, ip, u32_at};
use crate::{Error, Request, Socket};

/// A rule by which packets from one address look for their way in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The address; none for rules about something else.
    pub from: Option<IpAddr>,
    /// The table.
    pub table: u32,
    /// Who made it, as with routes; 0 where nobody says, or the kernel is older than Linux 4.17.
    pub protocol: u8,
    /// Whether it asks for more of a packet than its addresses, protocol, mark, class and way in: for ports, a tunnel's identifier, a
    /// label.
    pub asks_more: bool,
}

/// Adds a rule for packets from one address, signed with a protocol number.
pub fn add(from: IpAddr, table: u32, protocol: u8) -> Request {
    let mut message = message(from, table);
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(protocol)));
    Request::new(RouteNetlinkMessage::NewRule(message), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Removes a rule for packets from one address.
pub fn delete(from: IpAddr, table: u32) -> Request {
    Request::new(RouteNetlinkMessage::DelRule(message(from, table)), 0)
}

fn message(from: IpAddr, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    (message.header.family, message.header.src_len) = match from {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![RuleAttribute::Source(from), RuleAttribute::Table(table)];
    message
}

/// Returns the rules of both families.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn all(socket: &mut Socket) -> Result<Vec<RuleInfo>, Error> {
    let mut rules = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let request = Request::new(RouteNetlinkMessage::GetRule(message), libc::NLM_F_DUMP);
        match socket.dump(&request, RuleInfo::read) {
            Ok(found) => rules.extend(found),
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rules)
}

impl RuleInfo {
    /// Reads the payload of an RTM_NEWRULE.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        const FRA_SRC: u16 = 2;
        const FRA_TUN_ID: u16 = 12;
        const FRA_TABLE: u16 = 15;
        const FRA_PROTOCOL: u16 = 21;
        const FRA_SPORT_RANGE: u16 = 23;
        const FRA_DPORT_RANGE: u16 = 24;
        /// The first of those that are about labels of IPv6 and parts of ports, and the last.
        const FRA_FLOWLABEL: u16 = 26;
        const FRA_DPORT_MASK: u16 = 29;
        let (length, table) = (*payload.get(2)?, *payload.get(4)?);
        let mut rule = Self { from: None, table: table.into(), protocol: 0, asks_more: false };
        for (kind, value) in attributes(payload.get(12..)?) {
            match kind {
                FRA_SRC => {
                    rule.from = ip(value).filter(|from| length == if from.is_ipv4() { 32 } else { 128 })
                }
                FRA_TABLE => rule.table = u32_at(value, 0)?,
                FRA_PROTOCOL => rule.protocol = value.first().copied().unwrap_or_default(),
                FRA_TUN_ID | FRA_SPORT_RANGE | FRA_DPORT_RANGE | FRA_FLOWLABEL..=FRA_DPORT_MASK => {
                    rule.asks_more = true;
                }
                _ => {}
            }
        }
        Some(rule)
    }
}
