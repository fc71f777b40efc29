//! `ip neighbour` and `bridge fdb`: who has an address, entered by hand and never asked for.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use weft_model::Mac;

use crate::wire::{attributes, ip, u16_at, u32_at};
use crate::{Error, Request, Socket};

/// An entry that stays until somebody deletes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// The index of the link.
    pub index: u32,
    /// Which table it is in.
    pub table: NeighbourTable,
    /// The Ethernet address. In [`NeighbourTable::Forwarding`] it is what entries are told apart by.
    pub mac: Mac,
    /// The address: of the neighbour, or of the host that tunnels to it. It is what neighbours are told apart by.
    pub address: IpAddr,
    /// Who made the entry (NDA_PROTOCOL), numbered as the protocols of routes are; 0 for nobody in particular.
    pub protocol: u8,
}

/// What an entry answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NeighbourTable {
    /// Which Ethernet address a neighbour has: `ip neighbour`.
    Address,
    /// Which host a tunnel sends frames to an Ethernet address to: `bridge fdb ... self`.
    Forwarding,
    /// Which neighbours of others the host answers for: `ip neighbour ... proxy`. The Ethernet address is its own.
    Proxy,
}

/// Adds an entry, or puts it in the place of another of the same link and address.
pub fn replace(entry: &Neighbour) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Request::new(RouteNetlinkMessage::NewNeighbour(message(entry)), flags)
}

/// Removes an entry.
pub fn delete(entry: &Neighbour) -> Request {
    Request::new(RouteNetlinkMessage::DelNeighbour(message(entry)), 0)
}

fn message(entry: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = entry.index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.header.family = match (entry.table, entry.address) {
        (NeighbourTable::Forwarding, _) => AddressFamily::Bridge,
        (_, IpAddr::V4(_)) => AddressFamily::Inet,
        (_, IpAddr::V6(_)) => AddressFamily::Inet6,
    };
    match entry.table {
        NeighbourTable::Address => {}
        NeighbourTable::Forwarding => message.header.flags = NeighbourFlags::Own,
        NeighbourTable::Proxy => message.header.flags = NeighbourFlags::Proxy,
    }
    let address = match entry.address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![NeighbourAttribute::Destination(address)];
    if entry.table != NeighbourTable::Proxy {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()));
    }
    if entry.protocol != 0 {
        message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(entry.protocol)));
    }
    message
}

/// Returns the entries of a link that stay until somebody deletes them.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn of_link(socket: &mut Socket, index: u32) -> Result<Vec<Neighbour>, Error> {
    let families = [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge];
    dumped(socket, index, families.map(|family| (family, NeighbourFlags::empty())))
}

/// Returns the entries of a link by which the host answers for others.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn proxies_of_link(socket: &mut Socket, index: u32) -> Result<Vec<Neighbour>, Error> {
    // KERNEL: these are dumped alone, when this flag and no other is asked for (neigh_dump_info, net/core/neighbour.c).
    let families = [AddressFamily::Inet, AddressFamily::Inet6];
    dumped(socket, index, families.map(|family| (family, NeighbourFlags::Proxy)))
}

fn dumped(
    socket: &mut Socket,
    index: u32,
    tables: impl IntoIterator<Item = (AddressFamily, NeighbourFlags)>,
) -> Result<Vec<Neighbour>, Error> {
    let mut found = Vec::new();
    for (family, flags) in tables {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.flags = flags;
        if family == AddressFamily::Bridge {
            // KERNEL: a dump of forwarding tables reads the index from the header (valid_fdb_dump_strict,
            // net/core/rtnetlink.c), one of neighbours from an attribute (neigh_valid_dump_req).
            message.header.ifindex = index;
        } else {
            message.attributes = vec![NeighbourAttribute::IfIndex(index)];
        }
        let request = Request::new(RouteNetlinkMessage::GetNeighbour(message), libc::NLM_F_DUMP);
        match socket.dump(&request, read) {
            Ok(entries) => found.extend(entries),
            // A host without IPv6 has none of its neighbours.
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    found.retain(|entry| entry.index == index);
    Ok(found)
}

/// Reads the payload of an RTM_NEWNEIGH: `struct ndmsg`, then attributes.
pub(crate) fn read(payload: &[u8]) -> Option<Neighbour> {
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const NDA_PROTOCOL: u16 = 12;
    const PERMANENT: u16 = 0x80;
    const SELF: u8 = 0x02;
    const PROXY: u8 = 0x08;

    let family = i32::from(*payload.first()?);
    let (index, state, flags) = (u32_at(payload, 4)?, u16_at(payload, 8)?, *payload.get(10)?);
    let table = match family {
        libc::AF_BRIDGE if flags & SELF != 0 => NeighbourTable::Forwarding,
        libc::AF_INET | libc::AF_INET6 if flags & PROXY != 0 => NeighbourTable::Proxy,
        libc::AF_INET | libc::AF_INET6 => NeighbourTable::Address,
        _ => return None,
    };
    // KERNEL: those by which the host answers have no state (pneigh_fill_info).
    let (mut mac, proxy) = (None, table == NeighbourTable::Proxy);
    if state & PERMANENT == 0 && !proxy {
        return None;
    }
    let (mut address, mut protocol) = (None, 0);
    for (kind, value) in attributes(payload.get(12..)?) {
        match kind {
            NDA_DST => address = ip(value),
            NDA_LLADDR => mac = value.first_chunk().copied().map(Mac),
            NDA_PROTOCOL => protocol = *value.first()?,
            _ => {}
        }
    }
    let mac = if proxy { Mac([0; 6]) } else { mac? };
    Some(Neighbour { index, table, mac, address: address?, protocol })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    const MAC: Mac = Mac([2, 1, 2, 3, 4, 5]);

    fn bytes(entry: &Neighbour) -> Vec<u8> {
        let message = message(entry);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn what_was_written_is_read_back() {
        for (table, address) in [
            (NeighbourTable::Address, "10.1.0.64"),
            (NeighbourTable::Address, "fd00::40"),
            (NeighbourTable::Forwarding, "192.0.2.2"),
            (NeighbourTable::Forwarding, "2001:db8::2"),
            (NeighbourTable::Proxy, "10.1.0.64"),
            (NeighbourTable::Proxy, "fd00::40"),
        ] {
            let address = address.parse().unwrap();
            let mac = if table == NeighbourTable::Proxy { Mac([0; 6]) } else { MAC };
            let entry = Neighbour { index: 7, table, mac, address, protocol: 201 };
            let bytes = bytes(&entry);
            assert_eq!(read(&bytes), Some(entry));
            for end in 0..bytes.len() {
                assert!(read(&bytes[..end]).is_none_or(|read| read.index == 7));
            }
        }
    }

    #[test]
    fn what_the_kernel_has_found_out_by_itself_is_passed_over() {
        let entry = Neighbour {
            index: 7,
            table: NeighbourTable::Address,
            mac: MAC,
            address: [10, 0, 0, 1].into(),
            protocol: 0,
        };
        let mut bytes = bytes(&entry);
        assert_eq!(read(&bytes), Some(entry));
        bytes[8] = 0x02; // NUD_REACHABLE
        assert_eq!(read(&bytes), None);
    }
}
