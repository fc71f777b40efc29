//! `ip address`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use nix::errno::Errno;
use nix::libc;
use rtnetlink::AddressMessageBuilder;

use crate::wire::{attributes, ip, u32_at};
use crate::{Error, Request, Socket};

/// An address as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressInfo {
    /// The index of the link that carries it.
    pub index: u32,
    /// The address and the length of its network's prefix.
    pub address: IpNetwork,
    /// Whether it reaches beyond the link: neither link-local nor loopback.
    pub global: bool,
    /// Whether it is still being probed for duplicates.
    pub tentative: bool,
    /// Whether another station has it.
    pub duplicate: bool,
}

fn message(index: u32, address: IpNetwork) -> AddressMessage {
    match address {
        IpNetwork::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(v4.ip(), v4.prefix())
            .build(),
        IpNetwork::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(index)
            .address(v6.ip(), v6.prefix())
            .build(),
    }
}

/// Adds an address. Without `dad`, an IPv6 address is usable at once.
///
/// KERNEL: probing for duplicates takes an address 1.0 to 1.6 s to become usable; `optimistic`
/// helps only those who ask for it. What an IPAM assigned needs no probing.
pub fn add(index: u32, address: IpNetwork, dad: bool) -> Request {
    let mut message = message(index, address);
    if address.is_ipv6() && !dad {
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    Request::new(RouteNetlinkMessage::NewAddress(message), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Adds an address whose network is not on the link: the route that comes with an address is left out. Without
/// `dad`, an IPv6 address is usable at once.
pub fn add_alone(index: u32, address: IpNetwork, dad: bool) -> Request {
    let mut message = message(index, address);
    let mut flags = AddressFlags::Noprefixroute;
    if address.is_ipv6() && !dad {
        flags |= AddressFlags::Nodad;
    }
    // KERNEL: the flag does not fit into the header's eight bits (IFA_FLAGS, include/uapi/linux/if_addr.h).
    message.attributes.push(AddressAttribute::Flags(flags));
    Request::new(RouteNetlinkMessage::NewAddress(message), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Removes an address.
pub fn delete(index: u32, address: IpNetwork) -> Request {
    Request::new(RouteNetlinkMessage::DelAddress(message(index, address)), 0)
}

/// Returns a link's addresses.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn of_link(socket: &mut Socket, index: u32) -> Result<Vec<AddressInfo>, Error> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    let request = Request::new(RouteNetlinkMessage::GetAddress(message), libc::NLM_F_DUMP);
    let mut addresses = match socket.dump(&request, AddressInfo::read) {
        // KERNEL: asked about a link that is gone, the dump itself is refused (inet_dump_ifaddr).
        Err(error) if error.is_missing() => Vec::new(),
        other => other?,
    };
    addresses.retain(|address| address.index == index);
    Ok(addresses)
}

/// Returns the index of the link of the socket's namespace that has an address.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn holder(socket: &mut Socket, address: IpAddr) -> Result<Option<u32>, Error> {
    let request = Request::new(RouteNetlinkMessage::GetAddress(AddressMessage::default()), libc::NLM_F_DUMP);
    let addresses = socket.dump(&request, AddressInfo::read)?;
    Ok(addresses.into_iter().find(|found| found.address.ip() == address).map(|found| found.index))
}

/// Returns the addresses in another namespace, by the id that the socket's has for it; none when it has gone.
///
/// KERNEL: before Linux 4.20, or without strict checking, the id is ignored and these are the socket's own namespace's.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn elsewhere(socket: &mut Socket, netns: i32) -> Result<Vec<AddressInfo>, Error> {
    let mut message = AddressMessage::default();
    message.attributes.push(AddressAttribute::TargetNetNsId(netns));
    let request = Request::new(RouteNetlinkMessage::GetAddress(message), libc::NLM_F_DUMP);
    match socket.dump(&request, AddressInfo::read) {
        // KERNEL: rtnl_get_net_ns_capable has this for an id that is nobody's any more (net/core/rtnetlink.c).
        Err(Error::Refused { errno: Errno::EINVAL, .. }) => Ok(Vec::new()),
        Err(error) if error.is_missing() => Ok(Vec::new()),
        outcome => outcome,
    }
}

impl AddressInfo {
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const RT_SCOPE_UNIVERSE: u8 = 0;

        let flags = u32::from(*payload.get(2)?);
        let (mut local, mut address): (Option<IpAddr>, Option<IpAddr>) = (None, None);
        for (kind, value) in attributes(payload.get(8..)?) {
            match kind {
                IFA_LOCAL => local = ip(value),
                IFA_ADDRESS => address = ip(value),
                _ => {}
            }
        }
        Some(Self {
            index: u32_at(payload, 4)?,
            // On a point-to-point link IFA_ADDRESS is the other side's.
            address: IpNetwork::new(local.or(address)?, *payload.get(1)?).ok()?,
            global: *payload.get(3)? == RT_SCOPE_UNIVERSE,
            tentative: flags & libc::IFA_F_TENTATIVE != 0,
            duplicate: flags & libc::IFA_F_DADFAILED != 0,
        })
    }
}
