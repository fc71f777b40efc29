//! `ip link`.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, InfoVrf, LinkAttribute, LinkExtentMask, LinkMessage,
};
use nix::libc;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use weft_model::{IfName, Mac};

use crate::netconf::Parameters;
use crate::vxlan::{self, VxlanInfo};
use crate::wire::{attributes, string, u16_at, u32_at};
use crate::{Error, Kind, Request, Socket};

type Builder = LinkMessageBuilder<LinkUnspec>;

/// A bridge to create.
#[derive(Clone, Debug)]
pub struct NewBridge<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Whether it tells its ports apart by VLAN.
    pub vlan_filtering: bool,
    /// Whether it takes frames meant for other stations.
    pub promisc: bool,
    /// Whether it is born up.
    pub up: bool,
}

/// A veth pair to create.
#[derive(Clone, Debug)]
pub struct NewVeth<'a> {
    /// The name of the near end.
    pub name: &'a IfName,
    /// The near end's Ethernet address; absent means the kernel draws one.
    pub mac: Option<Mac>,
    /// The MTU of both ends; absent means Ethernet's.
    pub mtu: Option<u32>,
    /// The index of the bridge that the near end joins.
    pub master: Option<u32>,
    /// Whether the near end is born up.
    pub up: bool,
    /// The far end's name.
    pub peer: &'a IfName,
    /// The far end's Ethernet address; absent means the kernel draws one.
    pub peer_mac: Option<Mac>,
    /// The namespace the far end is born in; absent means the near end's.
    pub peer_netns: Option<BorrowedFd<'a>>,
}

/// What to change about a link. What is absent stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Up or down.
    pub up: Option<bool>,
    /// The MTU.
    pub mtu: Option<u32>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
    /// Whether frames meant for other stations are taken.
    pub promisc: Option<bool>,
    /// Whether frames to any group are taken.
    pub allmulti: Option<bool>,
    /// How many frames may wait to be sent.
    pub tx_queue_len: Option<u32>,
    /// The index of the bridge to join; 0 leaves the present one.
    pub master: Option<u32>,
    /// A bridge's VLAN filtering.
    pub vlan_filtering: Option<bool>,
    /// The alias, a text that the kernel keeps with a link for people and programs.
    pub alias: Option<&'static str>,
}

/// How a bridge treats one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Whether frames may leave by the port they came in by.
    pub hairpin: bool,
    /// Whether the port is kept from other isolated ports.
    pub isolated: bool,
}

/// What a bridge lets pass of what one of its ports receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    /// The state's number (`BR_STATE_FORWARDING`, linux/if_bridge.h; 3 is forwarding).
    pub state: u8,
    /// Whether only stations pass that the bridge has been told of.
    pub locked: bool,
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// The index.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The alias, if somebody gave the link one.
    pub alias: Option<String>,
    /// The kind, such as `bridge` or `veth`; absent for a physical device and for `lo`.
    pub kind: Option<String>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
    /// The MTU.
    pub mtu: u32,
    /// Whether the link is administratively up.
    pub up: bool,
    /// Whether it was told to take frames meant for other stations.
    pub promisc: bool,
    /// Whether it was told to take frames to any group.
    pub allmulti: bool,
    /// How many frames may wait to be sent.
    pub tx_queue_len: u32,
    /// The group, a number by which rules know links.
    pub group: u32,
    /// Whether frames pass (operational state UP).
    pub operational: bool,
    /// The operational state's number (RFC 2863; 6 is up).
    pub operstate: u8,
    /// The index of the bridge or other controller the link belongs to.
    pub master: Option<u32>,
    /// The index of the link below, or of a veth's other end.
    pub peer: Option<u32>,
    /// The id of the namespace `peer` is in, when it is another one; -1 when it has no id.
    pub peer_netns: Option<i32>,
    /// What it is more exactly, for the kinds that need no more than a lower link.
    pub own: Option<Kind>,
    /// A VRF's table.
    pub table: Option<u32>,
    /// A bridge's options.
    pub bridge: Option<BridgeInfo>,
    /// A bridge port's options.
    pub port: Option<PortOptions>,
    /// What passes a bridge port.
    pub port_state: Option<PortState>,
    /// A VXLAN device's options.
    pub vxlan: Option<VxlanInfo>,
    /// Whether a program decides about what it receives before anything else does (XDP).
    pub xdp: bool,
    /// Its parameters under `net/ipv4/conf` and `net/ipv6/conf`.
    pub parameters: Parameters,
}

/// The options of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeInfo {
    /// Whether it tells its ports apart by VLAN.
    pub vlan_filtering: bool,
    /// The VLAN a new port is in; 0 means none.
    pub default_pvid: u16,
}

/// Asks for a link by name.
pub fn get(name: &IfName) -> Request {
    get_built(Builder::new().name(name.as_str()))
}

/// Asks for a link by index.
pub fn get_index(index: u32) -> Request {
    get_built(Builder::new().index(index))
}

/// Asks for a link of another namespace, by the id that this namespace has for it and by index.
pub fn get_elsewhere(netns: i32, index: u32) -> Request {
    get_built(Builder::new().index(index).append_extra_attribute(LinkAttribute::IfNetnsId(netns)))
}

fn get_built(builder: Builder) -> Request {
    // Counters are half of what the kernel says about a link, and nobody here reads them.
    let message =
        builder.append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])).build();
    Request::new(RouteNetlinkMessage::GetLink(message), 0)
}

/// Asks for a new bridge; the answer is the bridge.
pub fn create_bridge(new: &NewBridge<'_>) -> Request {
    let mut builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
        .name(new.name.as_str())
        .address(new.mac.0.to_vec());
    if new.vlan_filtering {
        builder = builder.set_info_data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]));
    }
    if new.promisc {
        builder = builder.promiscuous(true);
    }
    create(up(builder, new.up).build())
}

/// Asks for a new veth pair; the answer is the near end, whose `peer` is the far end's index.
///
/// KERNEL: only the near end can be born up and in a bridge: the far end has no peer yet when it is
/// registered, and `veth_open` then refuses with ENOTCONN (drivers/net/veth.c).
pub fn create_veth(new: &NewVeth<'_>) -> Request {
    let mut peer = one_queue(Builder::new().name(new.peer.as_str()));
    if let Some(netns) = new.peer_netns {
        peer = peer.setns_by_fd(netns.as_raw_fd());
    }
    let peer = sized(peer, new.mtu, new.peer_mac).build();
    let mut builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .name(new.name.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    if let Some(master) = new.master {
        builder = builder.controller(master);
    }
    create(up(one_queue(sized(builder, new.mtu, new.mac)), new.up).build())
}

/// Asks for a new intermediate functional block, which sends what is redirected to it to where that came from; the
/// answer is the link.
pub fn create_ifb(name: &IfName, mtu: u32) -> Request {
    let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Ifb).name(name.as_str());
    create(one_queue(builder.mtu(mtu).up()).build())
}

/// Asks for a new VRF, which is up; the answer is the link.
pub fn create_vrf(name: &IfName, table: u32) -> Request {
    let builder = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Vrf).name(name.as_str());
    create(builder.set_info_data(InfoData::Vrf(vec![InfoVrf::TableId(table)])).up().build())
}

/// KERNEL: a veth gets a queue for each CPU, and each queue costs sysfs objects; one carries all we send.
fn one_queue(builder: Builder) -> Builder {
    builder
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
}

fn sized(builder: Builder, mtu: Option<u32>, mac: Option<Mac>) -> Builder {
    let builder = mtu.into_iter().fold(builder, Builder::mtu);
    mac.into_iter().fold(builder, |builder, mac| builder.address(mac.0.to_vec()))
}

fn up(builder: Builder, up: bool) -> Builder {
    if up { builder.up() } else { builder }
}

fn create(message: LinkMessage) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ECHO;
    Request::new(RouteNetlinkMessage::NewLink(message), flags)
}

/// Sets a bridge port's options and the group it is in, by the port's name so that the request can follow the one that
/// creates it. Without a group it stays in its own.
pub fn set_port(name: &IfName, options: PortOptions, group: Option<u32>) -> Request {
    let data = vec![InfoBridgePort::HairpinMode(options.hairpin), InfoBridgePort::Isolated(options.isolated)];
    let builder = Builder::new()
        .name(name.as_str())
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(data));
    let group = group.map(LinkAttribute::Group);
    let message = group.into_iter().fold(builder, Builder::append_extra_attribute).build();
    Request::new(RouteNetlinkMessage::NewLink(message), 0)
}

/// Keeps a link from getting a link-local IPv6 address when it goes up, by name so that the request can follow
/// the one that creates the link.
pub fn without_ipv6_address(name: &IfName) -> Request {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let message = Builder::new()
        .name(name.as_str())
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]))
        .build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Changes a link.
pub fn change(index: u32, change: &Change) -> Request {
    changed(Builder::new().index(index), change)
}

/// Gives a link an alias, which the kernel takes no notice of when the link is created; an empty one is none.
pub fn set_alias(index: u32, alias: &str) -> Request {
    let message =
        Builder::new().index(index).append_extra_attribute(LinkAttribute::IfAlias(alias.into())).build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Changes a link by name.
pub fn change_named(name: &IfName, change: &Change) -> Request {
    changed(Builder::new().name(name.as_str()), change)
}

fn changed(builder: Builder, change: &Change) -> Request {
    let mut builder = sized(builder, change.mtu, change.mac);
    builder = match change.up {
        Some(true) => builder.up(),
        Some(false) => builder.down(),
        None => builder,
    };
    if let Some(alias) = change.alias {
        builder = builder.append_extra_attribute(LinkAttribute::IfAlias(alias.into()));
    }
    builder = change.promisc.into_iter().fold(builder, Builder::promiscuous);
    builder = change.allmulti.into_iter().fold(builder, Builder::allmulticast);
    if let Some(length) = change.tx_queue_len {
        builder = builder.append_extra_attribute(LinkAttribute::TxQueueLen(length));
    }
    builder = change.master.into_iter().fold(builder, Builder::controller);
    let Some(filtering) = change.vlan_filtering else {
        return Request::new(RouteNetlinkMessage::SetLink(builder.build()), 0);
    };
    // KERNEL: only RTM_NEWLINK reaches a kind's own options (rtnl_changelink, net/core/rtnetlink.c).
    let mut message = builder.build();
    let bridge = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Bridge)
        .set_info_data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(filtering)]));
    message.attributes.extend(bridge.build().attributes);
    Request::new(RouteNetlinkMessage::NewLink(message), 0)
}

/// Moves a link into another namespace, where it has this name and this alias. It is down there, and has lost its
/// addresses.
///
/// KERNEL: the move comes first, then the name, then the alias; what fails leaves what was done before it
/// (do_setlink, net/core/rtnetlink.c).
pub fn move_to(index: u32, netns: BorrowedFd<'_>, name: &IfName, alias: &str) -> Request {
    let message = Builder::new()
        .index(index)
        .name(name.as_str())
        .setns_by_fd(netns.as_raw_fd())
        .append_extra_attribute(LinkAttribute::IfAlias(alias.into()))
        .build();
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives a link, which must be down, another name.
pub fn rename(index: u32, name: &IfName) -> Request {
    Request::new(RouteNetlinkMessage::SetLink(Builder::new().index(index).name(name.as_str()).build()), 0)
}

/// Deletes a link by index, which no later link of the same name can have.
pub fn delete_index(index: u32) -> Request {
    Request::new(RouteNetlinkMessage::DelLink(Builder::new().index(index).build()), 0)
}

/// Deletes a link by name.
pub fn delete(name: &IfName) -> Request {
    Request::new(RouteNetlinkMessage::DelLink(Builder::new().name(name.as_str()).build()), 0)
}

/// Returns the links of the socket's namespace that belong to a bridge or other controller.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn ports(socket: &mut Socket, master: u32) -> Result<Vec<LinkInfo>, Error> {
    let message = Builder::new()
        .controller(master)
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    let request = Request::new(RouteNetlinkMessage::GetLink(message), libc::NLM_F_DUMP);
    let mut links = socket.dump(&request, LinkInfo::read)?;
    links.retain(|link| link.master == Some(master));
    Ok(links)
}

/// Returns all links of the socket's namespace.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn all(socket: &mut Socket) -> Result<Vec<LinkInfo>, Error> {
    let message = Builder::new()
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
        .build();
    socket.dump(&Request::new(RouteNetlinkMessage::GetLink(message), libc::NLM_F_DUMP), LinkInfo::read)
}

/// The attributes we read (include/uapi/linux/if_link.h).
mod ifla {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const IFNAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINK: u16 = 5;
    pub(super) const MASTER: u16 = 10;
    pub(super) const TXQLEN: u16 = 13;
    pub(super) const OPERSTATE: u16 = 16;
    pub(super) const LINKINFO: u16 = 18;
    pub(super) const IFALIAS: u16 = 20;
    pub(super) const AF_SPEC: u16 = 26;
    pub(super) const GROUP: u16 = 27;
    pub(super) const LINK_NETNSID: u16 = 37;
    pub(super) const XDP: u16 = 43;
    pub(super) const XDP_ATTACHED: u16 = 2;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
    pub(super) const INFO_SLAVE_KIND: u16 = 4;
    pub(super) const INFO_SLAVE_DATA: u16 = 5;
    pub(super) const VRF_TABLE: u16 = 1;
    pub(super) const BR_VLAN_FILTERING: u16 = 7;
    pub(super) const BR_VLAN_DEFAULT_PVID: u16 = 39;
    pub(super) const BRPORT_STATE: u16 = 1;
    pub(super) const BRPORT_MODE: u16 = 4;
    pub(super) const BRPORT_ISOLATED: u16 = 33;
    pub(super) const BRPORT_LOCKED: u16 = 39;
}

/// The operational state of a link that passes frames.
const OPER_UP: u8 = 6;

impl LinkInfo {
    /// Reads the payload of an RTM_NEWLINK or RTM_DELLINK; nothing without an index and a name.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let flags = u32_at(payload, 8)?;
        let flag = |bit: i32| flags & bit.cast_unsigned() != 0;
        let mut link = Self {
            index: u32_at(payload, 4)?,
            up: flag(libc::IFF_UP),
            promisc: flag(libc::IFF_PROMISC),
            allmulti: flag(libc::IFF_ALLMULTI),
            ..Self::default()
        };
        for (kind, value) in attributes(payload.get(16..)?) {
            match kind {
                ifla::IFNAME => link.name = string(value),
                ifla::ADDRESS => link.mac = value.first_chunk().copied().map(Mac),
                ifla::MTU => link.mtu = u32_at(value, 0)?,
                ifla::TXQLEN => link.tx_queue_len = u32_at(value, 0)?,
                ifla::LINK => link.peer = u32_at(value, 0),
                ifla::LINK_NETNSID => link.peer_netns = u32_at(value, 0).map(u32::cast_signed),
                ifla::MASTER => link.master = u32_at(value, 0),
                ifla::OPERSTATE => link.operstate = *value.first()?,
                ifla::LINKINFO => link.read_kind(value),
                ifla::IFALIAS => link.alias = Some(string(value)),
                ifla::AF_SPEC => link.parameters = Parameters::read(value),
                ifla::GROUP => link.group = u32_at(value, 0)?,
                ifla::XDP => {
                    let attached = attributes(value).find(|(kind, _)| *kind == ifla::XDP_ATTACHED);
                    link.xdp = attached.is_some_and(|(_, how)| how.first().is_some_and(|how| *how != 0));
                }
                _ => {}
            }
        }
        link.operational = link.operstate == OPER_UP;
        Some(link).filter(|link| link.index != 0 && !link.name.is_empty())
    }

    fn read_kind(&mut self, info: &[u8]) {
        let (mut data, mut port_kind, mut port_data) = (None, None, None);
        for (kind, value) in attributes(info) {
            match kind {
                ifla::INFO_KIND => self.kind = Some(string(value)),
                ifla::INFO_DATA => data = Some(value),
                ifla::INFO_SLAVE_KIND => port_kind = Some(string(value)),
                ifla::INFO_SLAVE_DATA => port_data = Some(value),
                _ => {}
            }
        }
        self.own = self.kind.as_deref().and_then(|kind| Kind::read(kind, data.unwrap_or_default()));
        if self.kind.as_deref() == Some("bridge") {
            self.bridge = Some(read_bridge(data.unwrap_or_default()));
        }
        if self.kind.as_deref() == Some("vxlan") {
            self.vxlan = Some(vxlan::read(data.unwrap_or_default()));
        }
        if self.kind.as_deref() == Some("vrf") {
            let table = |(kind, value)| (kind == ifla::VRF_TABLE).then(|| u32_at(value, 0)).flatten();
            self.table = attributes(data.unwrap_or_default()).find_map(table);
        }
        if port_kind.as_deref() == Some("bridge") {
            self.port = port_data.map(read_port);
            self.port_state = port_data.map(read_port_state);
        }
    }

    /// Returns whether the link is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.bridge.is_some()
    }

    /// Returns whether the link is one end of a veth pair whose other end is in another namespace.
    pub fn leads_away(&self) -> bool {
        self.is_veth() && self.peer_netns.is_some()
    }

    /// Returns whether the link is one end of a veth pair.
    pub fn is_veth(&self) -> bool {
        self.kind.as_deref() == Some("veth")
    }
}

fn read_bridge(data: &[u8]) -> BridgeInfo {
    attributes(data).fold(BridgeInfo::default(), |mut bridge, (kind, value)| {
        match kind {
            ifla::BR_VLAN_FILTERING => bridge.vlan_filtering = value.first().is_some_and(|on| *on != 0),
            ifla::BR_VLAN_DEFAULT_PVID => bridge.default_pvid = u16_at(value, 0).unwrap_or_default(),
            _ => {}
        }
        bridge
    })
}

fn read_port(data: &[u8]) -> PortOptions {
    let on = |wanted| {
        attributes(data).any(|(kind, value)| kind == wanted && value.first().is_some_and(|on| *on != 0))
    };
    PortOptions { hairpin: on(ifla::BRPORT_MODE), isolated: on(ifla::BRPORT_ISOLATED) }
}

fn read_port_state(data: &[u8]) -> PortState {
    attributes(data).fold(PortState::default(), |mut port, (kind, value)| {
        let value = value.first().copied().unwrap_or_default();
        match kind {
            ifla::BRPORT_STATE => port.state = value,
            ifla::BRPORT_LOCKED => port.locked = value != 0,
            _ => {}
        }
        port
    })
}
