//! Links that are made by one request and need no more than a lower link, by kind.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, LinkAttribute};
use nix::libc;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use weft_model::{IfName, Mac};

use crate::Request;
use crate::ipvlan::Ipvlan;
use crate::macvlan::Macvlan;
use crate::tun::Tap;
use crate::vlan::Vlan;

/// What such a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A link that nothing comes in by or goes out by.
    Dummy,
    /// A link with addresses of its own on another one.
    Ipvlan(Ipvlan),
    /// A link with a MAC address of its own on another one.
    Macvlan(Macvlan),
    /// A link whose frames a program reads and writes. It is made by [`crate::tun::create`].
    Tap(Tap),
    /// A link for one tag of another one.
    Vlan(Vlan),
}

impl Kind {
    /// Returns the kind's name as ip-link(8) has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Dummy => "dummy",
            Self::Ipvlan(_) => "ipvlan",
            Self::Macvlan(_) => "macvlan",
            Self::Tap(_) => "tun",
            Self::Vlan(_) => "vlan",
        }
    }

    fn info(&self) -> (InfoKind, Option<InfoData>) {
        match self {
            Self::Dummy => (InfoKind::Dummy, None),
            Self::Ipvlan(own) => (InfoKind::IpVlan, Some(own.info())),
            Self::Macvlan(own) => (InfoKind::MacVlan, Some(own.info())),
            Self::Tap(_) => (InfoKind::Tun, None),
            Self::Vlan(own) => (InfoKind::Vlan, Some(own.info())),
        }
    }

    /// Reads what the kernel says of a link; nothing when it is none of these.
    pub(crate) fn read(name: &str, data: &[u8]) -> Option<Self> {
        match name {
            "dummy" => Some(Self::Dummy),
            "ipvlan" => Ipvlan::read(data).map(Self::Ipvlan),
            "macvlan" => Macvlan::read(data).map(Self::Macvlan),
            "tun" => Tap::read(data).map(Self::Tap),
            "vlan" => Vlan::read(data).map(Self::Vlan),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dummy => out.write_str("dummy"),
            Self::Ipvlan(own) => own.fmt(out),
            Self::Macvlan(own) => own.fmt(out),
            Self::Tap(own) => own.fmt(out),
            Self::Vlan(own) => own.fmt(out),
        }
    }
}

/// A link to create.
#[derive(Clone, Copy, Debug)]
pub struct NewLink<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// What it is.
    pub kind: &'a Kind,
    /// The index of the link it is on, in the namespace of the socket.
    pub lower: Option<u32>,
    /// The namespace it is born in; absent means the socket's.
    pub netns: Option<BorrowedFd<'a>>,
    /// Its Ethernet address; absent means the kernel's choice.
    pub mac: Option<Mac>,
    /// Its MTU; absent means the lower link's.
    pub mtu: Option<u32>,
}

/// Asks for a new link; the answer is the link, unless it is born in another namespace.
///
/// KERNEL: before Linux 6.14 the name must be free in the namespace of the socket, too (`rtnl_newlink`,
/// net/core/rtnetlink.c), although the link is never there.
pub fn create(new: &NewLink<'_>) -> Request {
    let (kind, data) = new.kind.info();
    let mut builder =
        LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind).name(new.name.as_str().to_owned());
    builder = data.into_iter().fold(builder, LinkMessageBuilder::set_info_data);
    builder = new.mtu.into_iter().fold(builder, LinkMessageBuilder::mtu);
    builder = new.mac.into_iter().fold(builder, |builder, mac| builder.address(mac.0.to_vec()));
    if let Some(lower) = new.lower {
        builder = builder.append_extra_attribute(LinkAttribute::Link(lower));
    }
    if let Some(netns) = new.netns {
        builder = builder.setns_by_fd(netns.as_raw_fd());
    }
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ECHO;
    Request::new(RouteNetlinkMessage::NewLink(builder.build()), flags)
}

/// Asks whether the kernel has links of a kind (a name of ip-link(8)): one that has not says so, and one that has refuses what no link
/// can have. Nothing is made.
///
/// KERNEL: the kind is looked for, and its module loaded, before anything else is looked at (`rtnl_newlink`,
/// net/core/rtnetlink.c); no link has no queue (`rtnl_create_link`, the same).
pub fn probe(kind: &str) -> Request {
    let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Other(kind.into()))
        .append_extra_attribute(LinkAttribute::NumTxQueues(0));
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Request::new(RouteNetlinkMessage::NewLink(builder.build()), flags)
}

/// Returns the option of the kernel's configuration that links of a kind (a name of ip-link(8)) need.
pub fn kernel_option(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "bridge" => "CONFIG_BRIDGE",
        "dummy" => "CONFIG_DUMMY",
        "ifb" => "CONFIG_IFB",
        "ipvlan" => "CONFIG_IPVLAN",
        "macvlan" => "CONFIG_MACVLAN",
        "tun" => "CONFIG_TUN",
        "veth" => "CONFIG_VETH",
        "vlan" => "CONFIG_VLAN_8021Q",
        "vrf" => "CONFIG_NET_VRF",
        "vxlan" => "CONFIG_VXLAN",
        "wireguard" => "CONFIG_WIREGUARD",
        _ => return None,
    })
}
