//! Flows the kernel remembers: which of them lead to a published port, and forgetting those.
//!
//! Address translation is decided with a flow's first packet. A UDP client that goes on sending has one flow for as
//! long as it does, so it would reach the former holder of a port, or nobody, however often the rules change.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_DUMP};
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
use nix::errno::Errno;

use crate::encode::Encoded;
use crate::read::attribute;
use crate::{Error, Socket};

mod among;

pub use among::{Among, forget_among, translated_among};

/// Attributes of `linux/netfilter/nfnetlink_conntrack.h`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIG_FLAGS: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
const PROTO_NUMBER: u16 = 1;
const PROTO_DESTINATION_PORT: u16 = 3;

/// What the kernel compares in a filtered list (CTA_FILTER_F_*, net/netfilter/nf_internals.h).
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// How many flows are forgotten in one send: their refusals fit a socket's receive buffer.
const AT_ONCE: usize = 128;
/// How often a list is read again that changed meanwhile.
const ATTEMPTS: usize = 4;

/// Where a published port is, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// The protocol's number.
    pub protocol: u8,
    /// The address that clients call; the unspecified one of a family stands for all of the host's.
    pub address: IpAddr,
    /// The ports that clients call.
    pub ports: RangeInclusive<u16>,
    /// The container.
    pub target: IpAddr,
}

/// Which flows of a published port to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those that lead anywhere but to the target: what came before a publication.
    Others,
    /// Those that lead to the target: what outlives one.
    Ours,
}

/// Forgets flows to published ports and returns how many there were.
///
/// Only flows whose first packet went to one of the addresses and ports are looked at. Where the address is
/// unspecified it must have been one of the host's own: what the host forwards for others has nothing to do with us.
///
/// # Errors
///
/// When the kernel refuses, for another reason than that it tracks no flows.
pub fn forget(socket: &mut Socket, tuples: &[Tuple], whose: Whose) -> Result<usize, Error> {
    if tuples.is_empty() || tracks_nothing() {
        return Ok(0);
    }
    let mut groups: Vec<Vec<&Tuple>> = Vec::new();
    for tuple in tuples {
        let alike = |group: &&mut Vec<&Tuple>| {
            group[0].protocol == tuple.protocol && group[0].address.is_ipv4() == tuple.address.is_ipv4()
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(tuple),
            None => groups.push(vec![tuple]),
        }
    }
    let mut forgotten = 0;
    let mut routes = Routes::default();
    for group in groups {
        let flows = list(socket, &group)?;
        let stale: Vec<Flow> = flows
            .into_iter()
            .filter(|flow| group.iter().any(|tuple| flow.is_of(tuple, whose, &mut routes)))
            .collect();
        for part in stale.chunks(AT_ONCE) {
            forgotten += delete(socket, part.iter().map(|flow| &flow.name))?;
        }
    }
    Ok(forgotten)
}

/// Returns whether the kernel remembers no flow of this namespace.
///
/// KERNEL: the table is one for all namespaces, and a list walks every bucket of it, filtered or not: 5 ms with the
/// 262,144 buckets of a host with more than 4 GB (ctnetlink_dump_table).
fn tracks_nothing() -> bool {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
    count.is_ok_and(|count| count.trim() == "0")
}

/// Lists the flows that a group of tuples, all of one protocol and family, may be about.
fn list(socket: &mut Socket, group: &[&Tuple]) -> Result<Vec<Flow>, Error> {
    let mut filtered = true;
    for _ in 0..ATTEMPTS {
        let filter = if filtered { filter(group) } else { Vec::new() };
        let message = ConntrackMessage::Get(filter);
        let question =
            Encoded { family: family(group[0].address), flags: NLM_F_DUMP, message: message.into() };
        match socket.list(question, "the list of flows", Flow::read) {
            Ok(Some(flows)) => return Ok(flows),
            Ok(None) => {}
            Err(error) => match error.errno() {
                // KERNEL: lists are filtered since Linux 5.8; we look at every flow again in any case.
                Some(Errno::EOPNOTSUPP | Errno::EINVAL) if filtered => filtered = false,
                // A kernel without ctnetlink, or without flows.
                Some(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EPROTONOSUPPORT) => return Ok(Vec::new()),
                _ => return Err(error),
            },
        }
    }
    Err(Error::Answer("the list of flows".into()))
}

/// What a whole group has in common, as the kernel compares it.
fn filter(group: &[&Tuple]) -> Vec<ConntrackAttribute> {
    let first = group[0];
    let mut flags = BY_PROTOCOL;
    let mut tuple = Vec::new();
    if !first.address.is_unspecified() && group.iter().all(|tuple| tuple.address == first.address) {
        flags |= BY_DESTINATION;
        let address = match first.address {
            IpAddr::V4(v4) => DefaultNla::new(IP_V4_DESTINATION, v4.octets().to_vec()),
            IpAddr::V6(v6) => DefaultNla::new(IP_V6_DESTINATION, v6.octets().to_vec()),
        };
        tuple.push(nest(TUPLE_IP, &[address]));
    }
    let port = *first.ports.start();
    let mut proto = vec![DefaultNla::new(PROTO_NUMBER, vec![first.protocol])];
    if group.iter().all(|tuple| tuple.ports == (port..=port)) {
        flags |= BY_DESTINATION_PORT;
        proto.push(DefaultNla::new(PROTO_DESTINATION_PORT, port.to_be_bytes().to_vec()));
    }
    tuple.push(nest(TUPLE_PROTO, &proto));
    let flags = DefaultNla::new(FILTER_ORIG_FLAGS, flags.to_ne_bytes().to_vec());
    [nest(TUPLE_ORIG, &tuple), nest(FILTER, &[flags])].map(ConntrackAttribute::Other).into()
}

fn nest(kind: u16, parts: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; parts.buffer_len()];
    parts.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

fn family(address: IpAddr) -> NetfilterProtoFamily {
    if address.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 }
}

/// Forgets flows; one that has ended meanwhile is no error.
///
/// KERNEL: a request without a tuple forgets every flow there is (ctnetlink_del_conntrack), so the tuple is
/// part of the type. The id keeps a later flow of the same tuple.
fn delete<'a>(socket: &mut Socket, flows: impl Iterator<Item = &'a Name>) -> Result<usize, Error> {
    let request = |flow: &Name| {
        let mut attributes = vec![DefaultNla::new(TUPLE_ORIG | NLA_F_NESTED, flow.original.clone())];
        attributes.extend(flow.zone.clone().map(|zone| DefaultNla::new(ZONE, zone)));
        attributes.extend(flow.id.clone().map(|id| DefaultNla::new(ID, id)));
        let attributes = attributes.into_iter().map(ConntrackAttribute::Other).collect();
        Encoded {
            family: family(flow.destination),
            flags: 0,
            message: ConntrackMessage::Delete(attributes).into(),
        }
    };
    let requests: Vec<Encoded> = flows.map(request).collect();
    let count = requests.len();
    let refused = socket.tell(requests)?;
    match refused.iter().find(|(_, errno)| *errno != Errno::ENOENT) {
        Some((_, errno)) => Err(Error::Refused { object: "a flow".into(), errno: *errno }),
        None => Ok(count - refused.len()),
    }
}

/// Reads all that anybody reads of a flow.
pub(crate) fn read_all(attributes: &[u8]) {
    drop(Flow::read(attributes));
    among::read_all(attributes);
}

/// What the kernel tells a flow from others by.
#[derive(Debug)]
struct Name {
    /// Its first direction, as the kernel wrote it.
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    /// What was called.
    destination: IpAddr,
}

impl Name {
    fn read(attributes: &[u8]) -> Option<Self> {
        let original = attribute(attributes, TUPLE_ORIG)?;
        Some(Self {
            destination: address(attribute(original, TUPLE_IP)?, [IP_V4_DESTINATION, IP_V6_DESTINATION])?,
            zone: attribute(attributes, ZONE).map(<[u8]>::to_vec),
            id: attribute(attributes, ID).map(<[u8]>::to_vec),
            original: original.to_vec(),
        })
    }
}

/// One flow.
#[derive(Debug)]
struct Flow {
    name: Name,
    protocol: u8,
    port: u16,
    /// Who answers.
    answered_by: IpAddr,
}

impl Flow {
    /// Reads a flow; `None` for one without ports.
    fn read(attributes: &[u8]) -> Option<Self> {
        let original = attribute(attributes, TUPLE_ORIG)?;
        let proto = attribute(original, TUPLE_PROTO)?;
        let reply = attribute(attributes, TUPLE_REPLY)?;
        Some(Self {
            protocol: *attribute(proto, PROTO_NUMBER)?.first()?,
            port: attribute(proto, PROTO_DESTINATION_PORT)?.try_into().ok().map(u16::from_be_bytes)?,
            answered_by: address(attribute(reply, TUPLE_IP)?, [IP_V4_SOURCE, IP_V6_SOURCE])?,
            name: Name::read(attributes)?,
        })
    }

    fn is_of(&self, tuple: &Tuple, whose: Whose, routes: &mut Routes) -> bool {
        let called = self.protocol == tuple.protocol && tuple.ports.contains(&self.port);
        called
            && (self.answered_by == tuple.target) == (whose == Whose::Ours)
            && match tuple.address {
                any if any.is_unspecified() && any.is_ipv4() == self.name.destination.is_ipv4() => {
                    match whose {
                        // It went to an address that was not the container's, and the container answers.
                        Whose::Ours => self.name.destination != tuple.target,
                        Whose::Others => routes.is_local(self.name.destination),
                    }
                }
                address => self.name.destination == address,
            }
    }
}

fn address(ip: &[u8], [v4, v6]: [u16; 2]) -> Option<IpAddr> {
    match attribute(ip, v4) {
        Some(octets) => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        None => <[u8; 16]>::try_from(attribute(ip, v6)?).ok().map(IpAddr::from),
    }
}

/// Which addresses are the host's own. Asked only about flows that match in everything else.
#[derive(Default)]
struct Routes {
    socket: Option<weft_netlink::Socket>,
    known: Vec<(IpAddr, bool)>,
}

impl Routes {
    fn is_local(&mut self, address: IpAddr) -> bool {
        if let Some((_, local)) = self.known.iter().find(|(known, _)| *known == address) {
            return *local;
        }
        if self.socket.is_none() {
            self.socket = weft_netlink::Socket::open().ok();
        }
        let socket = self.socket.as_mut();
        let path = socket.and_then(|socket| weft_netlink::route::get(socket, address).ok().flatten());
        let local = path.is_some_and(|path| path.local);
        self.known.push((address, local));
        local
    }
}
