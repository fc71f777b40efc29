//! Flows between the addresses of one network.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use nix::errno::Errno;

use super::{
    AT_ONCE, IP_V4_DESTINATION, IP_V4_SOURCE, IP_V6_DESTINATION, IP_V6_SOURCE, Name, STATUS, TUPLE_IP,
    TUPLE_ORIG, TUPLE_REPLY, address, delete, tracks_nothing,
};
use crate::encode::Encoded;
use crate::read::{all, attribute};
use crate::{Error, Socket};

/// IPS_SRC_NAT and IPS_DST_NAT (nf_conntrack_common.h).
const TRANSLATED: u32 = 1 << 4 | 1 << 5;

/// The addresses that flows are between.
#[derive(Clone, Copy, Debug)]
pub struct Among<'a> {
    /// The network's subnets.
    pub subnets: &'a [IpNetwork],
    /// Addresses in them that are the host's own: what comes from or goes there is delivered, and led nowhere.
    pub own: &'a [IpAddr],
}

impl Among<'_> {
    fn has(&self, [from, to]: [IpAddr; 2]) -> bool {
        let is_in = |address| {
            self.subnets.iter().any(|subnet| subnet.contains(address)) && !self.own.contains(&address)
        };
        is_in(from) && is_in(to)
    }
}

/// A flow: who sends to whom, and who to whom in answer.
struct Flow {
    name: Name,
    ways: [[IpAddr; 2]; 2],
    translated: bool,
}

impl Flow {
    fn read(attributes: &[u8]) -> Option<Self> {
        let way = |kind| {
            let ip = attribute(attribute(attributes, kind)?, TUPLE_IP)?;
            let from = address(ip, [IP_V4_SOURCE, IP_V6_SOURCE])?;
            Some([from, address(ip, [IP_V4_DESTINATION, IP_V6_DESTINATION])?])
        };
        let status = attribute(attributes, STATUS)?.try_into().ok().map(u32::from_be_bytes)?;
        Some(Self {
            name: Name::read(attributes)?,
            ways: [way(TUPLE_ORIG)?, way(TUPLE_REPLY)?],
            translated: status & TRANSLATED != 0,
        })
    }
}

pub(super) fn read_all(attributes: &[u8]) {
    drop(Flow::read(attributes));
}

/// Returns for each network a flow one of whose ways is between two addresses of it, and whose addresses are translated: its
/// packets have to be seen by who translates them. The flows are listed once.
///
/// # Errors
///
/// When the kernel refuses, which may track flows and not list them (`CONFIG_NF_CT_NETLINK`).
pub fn translated_among(
    socket: &mut Socket,
    networks: &[Among<'_>],
) -> Result<Vec<Option<[IpAddr; 2]>>, Error> {
    let concerns = |ways: &[[IpAddr; 2]; 2], among: &Among<'_>| ways.iter().any(|way| among.has(*way));
    let concerned = |flow: Flow| {
        let is_concerned = flow.translated && networks.iter().any(|among| concerns(&flow.ways, among));
        is_concerned.then_some(flow.ways)
    };
    let found = list(socket, concerned)?;
    let first = |among| found.iter().find(|ways| concerns(ways, among)).map(|ways| ways[0]);
    Ok(networks.iter().map(first).collect())
}

/// Forgets the flows between two addresses of one of these networks that nobody translates. Returns how many there were.
///
/// Those of them that go on are known again with their next packet, as if they had begun with it.
///
/// # Errors
///
/// When the kernel refuses, for another reason than that it tracks no flows.
pub fn forget_among(socket: &mut Socket, networks: &[Among<'_>]) -> Result<usize, Error> {
    let is_within = |flow: &Flow| networks.iter().any(|among| among.has(flow.ways[0]));
    let of_network = |flow: Flow| (!flow.translated && is_within(&flow)).then_some(flow.name);
    let found = match list(socket, of_network) {
        // A kernel without ctnetlink, or without flows.
        Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT)) => {
            return Ok(0);
        }
        outcome => outcome?,
    };
    let mut forgotten = 0;
    for part in found.chunks(AT_ONCE) {
        forgotten += delete(socket, part.iter())?;
    }
    Ok(forgotten)
}

fn list<T>(socket: &mut Socket, read: impl Fn(Flow) -> Option<T>) -> Result<Vec<T>, Error> {
    if tracks_nothing() {
        return Ok(Vec::new());
    }
    let question = || Encoded {
        family: NetfilterProtoFamily::Unspec,
        flags: NLM_F_DUMP,
        message: ConntrackMessage::Get(Vec::new()).into(),
    };
    // One that cannot be read may be any.
    let read = |attributes: &[u8]| Flow::read(attributes).map_or(Some(None), |flow| read(flow).map(Some));
    all(socket.dump(question, "the list of flows", read)?, || "the list of flows".into())
}
