//! `ip link ... type vxlan`: frames inside UDP, to hosts that the forwarding table names.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkMessage, VxlanDf};
use nix::libc;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use weft_model::{IfName, Mac};

use crate::Request;
use crate::wire::{attributes, ip, u32_at};

/// A VXLAN device to create. It learns nothing and floods nothing: what is not in its forwarding table is dropped.
#[derive(Clone, Debug)]
pub struct NewVxlan<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// What tells its frames from others'.
    pub options: VxlanInfo,
    /// The namespace it is born in; absent means the socket's. Its UDP socket is in the netlink socket's in any case.
    pub netns: Option<BorrowedFd<'a>>,
}

/// The options of a VXLAN device, as the kernel has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VxlanInfo {
    /// The network identifier.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The address that outer packets have. Its family is that of the device's peers.
    pub local: Option<IpAddr>,
    /// Whether outer packets have a checksum over their contents.
    pub checksum: bool,
    /// Whether it learns from packets who has which address.
    pub learning: bool,
}

/// Asks for a new VXLAN device; the answer is the device.
pub fn create(new: &NewVxlan<'_>) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ECHO;
    Request::new(RouteNetlinkMessage::NewLink(message(new)), flags)
}

fn message(new: &NewVxlan<'_>) -> LinkMessage {
    let options = new.options;
    let mut data = vec![
        InfoVxlan::Id(options.vni),
        InfoVxlan::Port(options.port),
        // KERNEL: learning is on unless it is said that it is not (vxlan_nl2conf, drivers/net/vxlan/vxlan_core.c).
        InfoVxlan::Learning(options.learning),
        InfoVxlan::Ttl(64),
        InfoVxlan::Tos(1),
    ];
    match options.local {
        Some(IpAddr::V4(local)) => {
            data.push(InfoVxlan::Local(local));
            data.push(InfoVxlan::UDPCsum(options.checksum));
            data.push(InfoVxlan::Df(VxlanDf::Set));
        }
        Some(IpAddr::V6(local)) => {
            data.push(InfoVxlan::Local6(local));
            data.push(InfoVxlan::UDPZeroCsumTX(!options.checksum));
            data.push(InfoVxlan::UDPZeroCsumRX(!options.checksum));
        }
        None => data.push(InfoVxlan::UDPCsum(options.checksum)),
    }
    let mut builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Vxlan)
        .name(new.name.as_str())
        .address(new.mac.0.to_vec())
        .set_info_data(InfoData::Vxlan(data));
    if let Some(mtu) = new.mtu {
        builder = builder.mtu(mtu);
    }
    if let Some(netns) = new.netns {
        builder = builder.setns_by_fd(netns.as_raw_fd());
    }
    builder.build()
}

/// Reads IFLA_INFO_DATA of a VXLAN device (include/uapi/linux/if_link.h).
pub(crate) fn read(data: &[u8]) -> VxlanInfo {
    const ID: u16 = 1;
    const LOCAL: u16 = 4;
    const LEARNING: u16 = 7;
    const PORT: u16 = 15;
    const LOCAL6: u16 = 17;
    const UDP_CSUM: u16 = 18;
    const UDP_ZERO_CSUM6_TX: u16 = 19;

    let mut found = VxlanInfo::default();
    let (mut checksum, mut zero6) = (false, false);
    let on = |value: &[u8]| value.first().is_some_and(|on| *on != 0);
    for (kind, value) in attributes(data) {
        match kind {
            ID => found.vni = u32_at(value, 0).unwrap_or_default(),
            LOCAL | LOCAL6 => found.local = ip(value).filter(|local| !local.is_unspecified()),
            LEARNING => found.learning = on(value),
            PORT => found.port = value.first_chunk().copied().map(u16::from_be_bytes).unwrap_or_default(),
            UDP_CSUM => checksum = on(value),
            UDP_ZERO_CSUM6_TX => zero6 = on(value),
            _ => {}
        }
    }
    found.checksum = if found.local.is_some_and(|local| local.is_ipv6()) { !zero6 } else { checksum };
    found
}
