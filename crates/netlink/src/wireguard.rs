//! `wg`, and `ip link ... type wireguard`: the kernel's WireGuard, and the routes of a mesh of such devices.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::{IpNetwork, Ipv6Network};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use nix::libc;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use weft_model::IfName;

use crate::wire::{attributes, u16_at, u32_at};
use crate::{Error, Request, Socket};

/// Who the mesh's routes are by (rtm_protocol), so that nobody else takes them for theirs.
pub const PROTOCOL: u8 = 202;

/// The metric of the route that says that no address of the mesh is reached another way: any other route wins.
pub const LAST_RESORT: u32 = 4_278_198_272;

/// How many peers one request names: an attribute's length has 16 bits, and a peer with one address takes some 150.
const PEERS: usize = 128;

/// Asks for a new WireGuard device.
pub fn create(name: &IfName, mtu: u32) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Wireguard)
        .name(name.as_str())
        .mtu(mtu)
        .build();
    Request::new(RouteNetlinkMessage::NewLink(message), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Sets how many packets may wait in a link, and has nobody on it asked for Ethernet addresses.
pub fn set_up(index: u32, queue: u32) -> Request {
    let mut message = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .append_extra_attribute(LinkAttribute::TxQueueLen(queue))
        .build();
    message.header.flags |= LinkFlags::Noarp;
    message.header.change_mask |= LinkFlags::Noarp;
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Has packets to one address leave by this link; whatever route of ours there was is replaced in one step.
pub fn route(address: Ipv6Addr, index: u32) -> Request {
    Request::new(RouteNetlinkMessage::NewRoute(to(address, index)), libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
}

/// Takes back [`route`].
pub fn unroute(address: Ipv6Addr, index: u32) -> Request {
    Request::new(RouteNetlinkMessage::DelRoute(to(address, index)), 0)
}

fn to(address: Ipv6Addr, index: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(address, 128)
        .output_interface(index)
        .protocol(RouteProtocol::from(PROTOCOL))
        .scope(RouteScope::Universe)
        .kind(RouteType::Unicast)
        .build()
}

/// Has packets to a prefix refused that no other route takes. The kernel says if that is so already: to replace the
/// route would be announced as a change of it.
pub fn unreachable(prefix: Ipv6Network) -> Request {
    Request::new(RouteNetlinkMessage::NewRoute(nowhere(prefix)), libc::NLM_F_CREATE | libc::NLM_F_EXCL)
}

/// Takes back [`unreachable`].
pub fn not_unreachable(prefix: Ipv6Network) -> Request {
    Request::new(RouteNetlinkMessage::DelRoute(nowhere(prefix)), 0)
}

fn nowhere(prefix: Ipv6Network) -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(prefix.network(), prefix.prefix())
        .protocol(RouteProtocol::from(PROTOCOL))
        .kind(RouteType::Unreachable)
        .build();
    message.attributes.push(RouteAttribute::Priority(LAST_RESORT));
    message
}

/// Returns whether [`unreachable`] is in force.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn is_unreachable(socket: &mut Socket, prefix: Ipv6Network) -> Result<bool, Error> {
    const DESTINATION: u16 = 1;
    const PRIORITY: u16 = 6;

    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    let request = Request::new(RouteNetlinkMessage::GetRoute(message), libc::NLM_F_DUMP);
    let network = prefix.network().octets();
    // struct rtmsg: the length of the destination at offset 1, the protocol at 5, the kind at 7.
    let is_it = |payload: &[u8]| {
        let head = payload.get(1) == Some(&prefix.prefix())
            && payload.get(5) == Some(&PROTOCOL)
            && payload.get(7) == Some(&libc::RTN_UNREACHABLE);
        let body = || attributes(payload.get(12..).unwrap_or_default());
        let metric = || body().find(|(kind, _)| *kind == PRIORITY).and_then(|(_, value)| u32_at(value, 0));
        head && body().any(|(kind, value)| kind == DESTINATION && value == network)
            && metric() == Some(LAST_RESORT)
    };
    let found = socket.dump(&request, |payload| is_it(payload).then_some(()));
    Ok(!found?.is_empty())
}

/// What is shown of a secret.
struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("..")
    }
}

/// A peer to set. What is absent stays as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct SetPeer {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Whether it is to be removed; the rest means nothing then.
    pub remove: bool,
    /// The secret mixed into handshakes.
    pub preshared_key: Option<[u8; 32]>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// After how many seconds of silence it is sent something; 0 for never. From 0 to another number: at once.
    pub keepalive: Option<u16>,
    /// What is sent to it and taken from it, instead of what was.
    pub allowed: Option<Vec<IpNetwork>>,
}

impl fmt::Debug for SetPeer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SetPeer")
            .field("public_key", &self.public_key)
            .field("remove", &self.remove)
            .field("preshared_key", &self.preshared_key.map(|_| Hidden))
            .field("endpoint", &self.endpoint)
            .field("keepalive", &self.keepalive)
            .field("allowed", &self.allowed)
            .finish()
    }
}

impl SetPeer {
    /// Returns a change of nothing.
    pub fn new(public_key: [u8; 32]) -> Self {
        Self {
            public_key,
            remove: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            allowed: None,
        }
    }
}

/// A device as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireguardInfo {
    /// Its public key, if it has one.
    pub public_key: Option<[u8; 32]>,
    /// The UDP port it listens on.
    pub port: u16,
    /// Its peers.
    pub peers: Vec<PeerInfo>,
}

/// A peer as the kernel describes it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Where it was last heard of.
    pub endpoint: Option<SocketAddr>,
    /// How long ago the last handshake was complete.
    pub handshake: Option<Duration>,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
    /// The secret mixed into handshakes; zeros for none.
    pub preshared_key: [u8; 32],
    /// What is sent to it and taken from it.
    pub allowed: Vec<IpNetwork>,
}

impl fmt::Debug for PeerInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PeerInfo")
            .field("public_key", &self.public_key)
            .field("endpoint", &self.endpoint)
            .field("handshake", &self.handshake)
            .field("received", &self.received)
            .field("sent", &self.sent)
            .field("preshared_key", &Hidden)
            .field("allowed", &self.allowed)
            .finish()
    }
}

/// The numbers of the generic netlink family (include/uapi/linux/wireguard.h).
mod wg {
    pub(super) const GET_DEVICE: u8 = 0;
    pub(super) const SET_DEVICE: u8 = 1;
    pub(super) const IFNAME: u16 = 2;
    pub(super) const PRIVATE_KEY: u16 = 3;
    pub(super) const PUBLIC_KEY: u16 = 4;
    pub(super) const LISTEN_PORT: u16 = 6;
    pub(super) const PEERS: u16 = 8;
    pub(super) const PEER_KEY: u16 = 1;
    pub(super) const PEER_SECRET: u16 = 2;
    pub(super) const PEER_FLAGS: u16 = 3;
    pub(super) const PEER_ENDPOINT: u16 = 4;
    pub(super) const PEER_KEEPALIVE: u16 = 5;
    pub(super) const PEER_HANDSHAKE: u16 = 6;
    pub(super) const PEER_RECEIVED: u16 = 7;
    pub(super) const PEER_SENT: u16 = 8;
    pub(super) const PEER_ALLOWED: u16 = 9;
    pub(super) const REMOVE_ME: u32 = 1;
    pub(super) const REPLACE_ALLOWED: u32 = 2;
    pub(super) const FAMILY: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const MASK: u16 = 3;
}

/// A socket to the kernel's WireGuard.
#[derive(Debug)]
pub struct Wireguard {
    socket: Socket,
    family: u16,
}

impl Wireguard {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// When the kernel has no WireGuard ([`Error::is_missing`]), or none that is loaded: a device that was made loads it.
    pub fn open() -> Result<Self, Error> {
        const CONTROL: u16 = 16;
        const GETFAMILY: u8 = 3;
        const FAMILY_ID: u16 = 1;
        const FAMILY_NAME: u16 = 2;

        let mut socket = Socket::of(NETLINK_GENERIC)?;
        let mut ask = Attributes::request(CONTROL, libc::NLM_F_ACK, GETFAMILY);
        ask.put(FAMILY_NAME, b"wireguard\0");
        let id = |payload: &[u8]| {
            let mut found = attributes(payload.get(4..)?);
            found.find(|(kind, _)| *kind == FAMILY_ID).and_then(|(_, value)| u16_at(value, 0))
        };
        let family = socket.list(&ask.finish(), id)?.first().copied();
        Ok(Self { socket, family: family.ok_or(Error::Malformed("a family has no number"))? })
    }

    /// Sets a device's private key and port.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, such as a port somebody else has.
    pub fn set_device(&mut self, name: &IfName, private_key: &[u8; 32], port: u16) -> Result<(), Error> {
        let mut request = self.request(wg::SET_DEVICE, libc::NLM_F_ACK, name);
        request.put(wg::PRIVATE_KEY, private_key);
        request.put(wg::LISTEN_PORT, &port.to_ne_bytes());
        self.socket.list(&request.finish(), |_| None::<()>).map(drop)
    }

    /// Sets, adds or removes peers; others stay.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn set_peers(&mut self, name: &IfName, peers: &[SetPeer]) -> Result<(), Error> {
        for some in peers.chunks(PEERS) {
            let mut request = self.request(wg::SET_DEVICE, libc::NLM_F_ACK, name);
            request.nest(wg::PEERS, |list| {
                some.iter().for_each(|peer| list.nest(0, |entry| write_peer(entry, peer)))
            });
            self.socket.list(&request.finish(), |_| None::<()>)?;
        }
        Ok(())
    }

    /// Returns a device and its peers.
    ///
    /// # Errors
    ///
    /// The kernel's refusal: there is no such device, or it is no WireGuard device.
    pub fn device(&mut self, name: &IfName) -> Result<WireguardInfo, Error> {
        let request = self.request(wg::GET_DEVICE, libc::NLM_F_DUMP, name);
        let parts = self.socket.list(&request.finish(), |payload| Some(read_device(payload)))?;
        // KERNEL: a device with many peers comes in several messages; a peer that is cut in two comes twice.
        let mut whole = WireguardInfo::default();
        for part in parts {
            whole.public_key = whole.public_key.or(part.public_key);
            whole.port = whole.port.max(part.port);
            for peer in part.peers {
                match whole.peers.last_mut().filter(|last| last.public_key == peer.public_key) {
                    Some(last) => last.allowed.extend(peer.allowed),
                    None => whole.peers.push(peer),
                }
            }
        }
        Ok(whole)
    }

    fn request(&self, command: u8, flags: i32, name: &IfName) -> Attributes {
        let mut request = Attributes::request(self.family, flags, command);
        request.put(wg::IFNAME, &[name.as_str().as_bytes(), &[0]].concat());
        request
    }
}

fn write_peer(entry: &mut Attributes, peer: &SetPeer) {
    entry.put(wg::PEER_KEY, &peer.public_key);
    let replace = if peer.allowed.is_some() { wg::REPLACE_ALLOWED } else { 0 };
    let flags = if peer.remove { wg::REMOVE_ME } else { replace };
    entry.put(wg::PEER_FLAGS, &flags.to_ne_bytes());
    if peer.remove {
        return;
    }
    if let Some(secret) = &peer.preshared_key {
        entry.put(wg::PEER_SECRET, secret);
    }
    if let Some(endpoint) = peer.endpoint {
        entry.put(wg::PEER_ENDPOINT, &socket_address(endpoint));
    }
    if let Some(seconds) = peer.keepalive {
        entry.put(wg::PEER_KEEPALIVE, &seconds.to_ne_bytes());
    }
    let Some(allowed) = &peer.allowed else { return };
    entry.nest(wg::PEER_ALLOWED, |list| {
        for network in allowed {
            list.nest(0, |entry| {
                let family = if network.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
                entry.put(wg::FAMILY, &u16::try_from(family).unwrap_or_default().to_ne_bytes());
                match network.network() {
                    IpAddr::V4(address) => entry.put(wg::ADDRESS, &address.octets()),
                    IpAddr::V6(address) => entry.put(wg::ADDRESS, &address.octets()),
                }
                entry.put(wg::MASK, &[network.prefix()]);
            });
        }
    });
}

pub(crate) fn read_device(payload: &[u8]) -> WireguardInfo {
    let mut device = WireguardInfo::default();
    for (kind, value) in attributes(payload.get(4..).unwrap_or_default()) {
        match kind {
            wg::PUBLIC_KEY => device.public_key = value.first_chunk().copied(),
            wg::LISTEN_PORT => device.port = u16_at(value, 0).unwrap_or_default(),
            wg::PEERS => device.peers = attributes(value).filter_map(|(_, entry)| read_peer(entry)).collect(),
            _ => {}
        }
    }
    device
}

fn read_peer(entry: &[u8]) -> Option<PeerInfo> {
    let mut peer = PeerInfo::default();
    let mut key = None;
    let number = |value: &[u8]| value.first_chunk().copied().map(u64::from_ne_bytes).unwrap_or_default();
    for (kind, value) in attributes(entry) {
        match kind {
            wg::PEER_KEY => key = value.first_chunk().copied(),
            wg::PEER_ENDPOINT => peer.endpoint = read_socket_address(value),
            // struct __kernel_timespec: seconds since 1970, nanoseconds; zero for never.
            wg::PEER_HANDSHAKE => {
                let (seconds, nanos) = (number(value), u32_at(value, 8).unwrap_or_default());
                let when = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos.min(999_999_999)));
                let age =
                    when.and_then(|when| SystemTime::now().duration_since(when).ok()).unwrap_or_default();
                peer.handshake = (seconds != 0).then_some(age);
            }
            wg::PEER_RECEIVED => peer.received = number(value),
            wg::PEER_SENT => peer.sent = number(value),
            wg::PEER_SECRET => peer.preshared_key = value.first_chunk().copied().unwrap_or_default(),
            wg::PEER_ALLOWED => {
                peer.allowed = attributes(value).filter_map(|(_, entry)| read_network(entry)).collect();
            }
            _ => {}
        }
    }
    Some(PeerInfo { public_key: key?, ..peer })
}

fn read_network(entry: &[u8]) -> Option<IpNetwork> {
    let of = |wanted| attributes(entry).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (address, length) = (of(wg::ADDRESS)?, *of(wg::MASK)?.first()?);
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        _ => IpAddr::from(*address.first_chunk::<16>()?),
    };
    IpNetwork::new(address, length).ok()
}

/// Returns an address as struct sockaddr_in or sockaddr_in6.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let family = |family: i32| u16::try_from(family).unwrap_or_default().to_ne_bytes();
    match address {
        SocketAddr::V4(v4) => {
            [&family(libc::AF_INET)[..], &v4.port().to_be_bytes(), &v4.ip().octets(), &[0; 8]].concat()
        }
        SocketAddr::V6(v6) => [
            &family(libc::AF_INET6)[..],
            &v6.port().to_be_bytes(),
            &[0; 4],
            &v6.ip().octets(),
            &v6.scope_id().to_ne_bytes(),
        ]
        .concat(),
    }
}

fn read_socket_address(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*value.get(2..)?.first_chunk()?);
    match i32::from(u16_at(value, 0)?) {
        libc::AF_INET => Some((Ipv4Addr::from(*value.get(4..)?.first_chunk::<4>()?), port).into()),
        libc::AF_INET6 => Some((Ipv6Addr::from(*value.get(8..)?.first_chunk::<16>()?), port).into()),
        _ => None,
    }
}

/// Attributes being written, behind the headers of a request.
struct Attributes(Vec<u8>);

impl Attributes {
    /// Begins a request: netlink's header, whose length comes last, and generic netlink's.
    fn request(family: u16, flags: i32, command: u8) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&family.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend([command, 1, 0, 0]);
        Self(bytes)
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        // Values here are shorter than a message of 64 KiB.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        const NESTED: u16 = 0x8000;

        let start = self.0.len();
        self.put(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests;
