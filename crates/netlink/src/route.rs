//! `ip route`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;
use nix::libc;
use rtnetlink::RouteMessageBuilder;

use crate::wire::{attributes, ip, u16_at, u32_at};
use crate::{Error, Request, Socket};

/// The table that `ip route` shows.
pub const MAIN: u32 = 254;

/// The scope of destinations on the link.
pub const SCOPE_LINK: u8 = 253;

/// The metric an IPv6 route has that was given none (IP6_RT_PRIO_USER).
const IPV6_METRIC: u32 = 1024;

/// A route to add, remove or look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// The destination.
    pub dst: IpNetwork,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The address packets leave with, unless they have one.
    pub src: Option<IpAddr>,
    /// The index of the link packets leave by.
    pub index: u32,
    /// The metric.
    pub metric: Option<u32>,
    /// The table.
    pub table: u32,
    /// The scope.
    pub scope: u8,
    /// The path MTU.
    pub mtu: Option<u32>,
    /// Whether nobody may change it, and everybody heeds it. KERNEL: of a route's MTU a program that asks for the way hears only
    /// then (ip_mtu_from_fib_result, net/ipv4/route.c; ip6_mtu_from_fib6, net/ipv6/route.c).
    pub mtu_locked: bool,
    /// The largest TCP segment advertised.
    pub advmss: Option<u32>,
    /// Whether packets are led anywhere.
    pub kind: RouteKind,
    /// Who made the route (rtm_protocol): [`BY_HAND`] is what `ip route add` writes.
    pub protocol: u8,
    /// Whether the next hop is taken to be on the link, whatever addresses the link has.
    pub onlink: bool,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// They go to the destination.
    #[default]
    Unicast,
    /// They vanish. Such a route has no link.
    Blackhole,
}

/// The protocol of a route that an administrator made, and no routing daemon (RTPROT_BOOT).
pub const BY_HAND: u8 = 3;
/// The protocol of a route that the kernel made for an address (RTPROT_KERNEL).
pub const BY_KERNEL: u8 = 2;

/// Adds a route. With `append` it joins others to the same destination.
pub fn add(route: &RouteInfo, append: bool) -> Request {
    let flags = if append { libc::NLM_F_APPEND } else { libc::NLM_F_EXCL };
    Request::new(RouteNetlinkMessage::NewRoute(message(route)), libc::NLM_F_CREATE | flags)
}

/// Adds a route in the place of another one to the same destination with the same metric.
pub fn replace(route: &RouteInfo) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Request::new(RouteNetlinkMessage::NewRoute(message(route)), flags)
}

/// Removes a route.
pub fn delete(route: &RouteInfo) -> Request {
    Request::new(RouteNetlinkMessage::DelRoute(message(route)), 0)
}

/// The table of the host's own addresses.
const LOCAL: u32 = 255;
/// The scope of what stays on the host.
const SCOPE_HOST: u8 = 254;

/// Has the host take packets to an address for its own when they come in by this link, too.
///
/// KERNEL: loopback addresses of IPv6 are looked for among the routes of the link that a packet came by
/// (rt6_need_strict), so one that was translated to `::1` finds no way without this.
pub fn accept_at(address: IpNetwork, index: u32, metric: u32) -> Request {
    // KERNEL: the same by the same link is refused (EEXIST). With NLM_F_EXCL so is the same by another one
    // (fib6_add_rt2node).
    Request::new(RouteNetlinkMessage::NewRoute(local(address, index, metric)), libc::NLM_F_CREATE)
}

/// Takes back [`accept_at`].
pub fn refuse_at(address: IpNetwork, index: u32, metric: u32) -> Request {
    Request::new(RouteNetlinkMessage::DelRoute(local(address, index, metric)), 0)
}

/// Returns whether the host takes packets to an address that come in by a link, by a route as [`accept_at`] makes.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn is_accepted_at(socket: &mut Socket, address: IpNetwork, index: u32) -> Result<bool, Error> {
    let (family, octets) = match address.ip() {
        IpAddr::V4(v4) => (AddressFamily::Inet, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::Inet6, v6.octets().to_vec()),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.attributes = vec![RouteAttribute::Table(LOCAL), RouteAttribute::Oif(index)];
    let request = Request::new(RouteNetlinkMessage::GetRoute(message), libc::NLM_F_DUMP);
    let is_it = |payload: &[u8]| {
        let path = Path::read(payload)?;
        let (_, to) = attributes(payload.get(12..)?).find(|(kind, _)| *kind == rta::DST)?;
        Some(path.local && path.index == index && to == octets)
    };
    Ok(socket.dump(&request, is_it)?.contains(&true))
}

fn local(address: IpNetwork, index: u32, metric: u32) -> RouteMessage {
    let route = RouteInfo {
        dst: address,
        gateway: None,
        kind: RouteKind::Unicast,
        protocol: BY_HAND,
        onlink: false,
        src: None,
        index,
        metric: Some(metric),
        table: LOCAL,
        scope: SCOPE_HOST,
        mtu: None,
        mtu_locked: false,
        advmss: None,
    };
    let mut message = message(&route);
    message.header.kind = RouteType::Local;
    message
}

fn message(route: &RouteInfo) -> RouteMessage {
    let mut message = match (route.dst, route.gateway) {
        (IpNetwork::V4(dst), gateway) => {
            let mut builder =
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(dst.network(), dst.prefix());
            builder = match gateway {
                Some(IpAddr::V4(gateway)) => builder.gateway(gateway),
                Some(IpAddr::V6(gateway)) => builder.via(gateway),
                None => builder,
            };
            common(builder, route)
        }
        (IpNetwork::V6(dst), gateway) => {
            let mut builder =
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(dst.network(), dst.prefix());
            if let Some(IpAddr::V6(gateway)) = gateway {
                builder = builder.gateway(gateway);
            }
            common(builder, route)
        }
    };
    let lock = route.mtu_locked.then_some(RouteMetric::Lock(1 << rta::METRIC_MTU));
    let sizes = route.mtu.map(RouteMetric::Mtu).into_iter().chain(route.advmss.map(RouteMetric::Advmss));
    let metrics: Vec<_> = lock.into_iter().chain(sizes).collect();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    if route.onlink {
        message.header.flags |= RouteFlags::Onlink;
    }
    message.attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    message
}

fn common<T>(builder: RouteMessageBuilder<T>, route: &RouteInfo) -> RouteMessage {
    let mut builder = builder
        .table_id(route.table)
        .scope(RouteScope::from(route.scope))
        .protocol(RouteProtocol::from(route.protocol))
        .kind(match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Blackhole => RouteType::BlackHole,
        });
    if route.index != 0 {
        builder = builder.output_interface(route.index);
    }
    if let Some(metric) = route.metric {
        builder = builder.priority(metric);
    }
    builder.build()
}

/// Returns the routes of one table that leave by one link.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn of_link(socket: &mut Socket, table: u32, index: u32) -> Result<Vec<RouteInfo>, Error> {
    list(socket, table, Some(index))
}

/// Returns the routes of one table, whatever link they leave by.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn of_table(socket: &mut Socket, table: u32) -> Result<Vec<RouteInfo>, Error> {
    list(socket, table, None)
}

fn list(socket: &mut Socket, table: u32, index: Option<u32>) -> Result<Vec<RouteInfo>, Error> {
    let mut filter = vec![RouteAttribute::Table(table)];
    filter.extend(index.map(RouteAttribute::Oif));
    let mut routes = dump(socket, &filter, 0)?;
    routes.retain(|route| {
        route.kind == RouteKind::Unicast
            && route.table == table
            && index.is_none_or(|index| route.index == index)
    });
    Ok(routes)
}

/// Returns the routes of both families that the filter lets through; the kernel may let more through.
fn dump(socket: &mut Socket, filter: &[RouteAttribute], protocol: u8) -> Result<Vec<RouteInfo>, Error> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::from(protocol);
        message.attributes = filter.to_vec();
        let request = Request::new(RouteNetlinkMessage::GetRoute(message), libc::NLM_F_DUMP);
        match socket.dump(&request, |payload| Some(RouteInfo::read(payload))) {
            Ok(found) => routes.extend(found.into_iter().flatten()),
            // A table that nothing was ever put into does not exist; nor does IPv6 everywhere.
            Err(error) if error.is_missing() || error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(routes)
}

/// Returns the routes of the main table that somebody made who signs with this protocol number.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn of_protocol(socket: &mut Socket, protocol: u8) -> Result<Vec<RouteInfo>, Error> {
    let mut routes = dump(socket, &[RouteAttribute::Table(MAIN)], protocol)?;
    routes.retain(|route| route.table == MAIN && route.protocol == protocol);
    Ok(routes)
}

/// Returns the index of the link that the main table's IPv4 default route leaves by, else the IPv6 one's,
/// in the calling thread's namespace.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn default_link() -> Result<Option<u32>, Error> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.attributes = vec![RouteAttribute::Table(MAIN)];
        let request = Request::new(RouteNetlinkMessage::GetRoute(message), libc::NLM_F_DUMP);
        // KERNEL: a dump goes from the shortest prefix of the lowest address up, and from the lowest
        // metric up (fn_trie_dump_leaf, net/ipv4/fib_trie.c), so the first default route is the best
        // one, and for IPv4 it is in the first piece however long the table.
        let found = Socket::open()?.find(&request, |payload| {
            RouteInfo::read(payload).into_iter().find(|route| {
                route.table == MAIN && route.dst.prefix() == 0 && route.kind == RouteKind::Unicast
            })
        });
        match found {
            Ok(Some(route)) => return Ok(Some(route.index)),
            Ok(None) => {}
            Err(error) if error.is_missing() || error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Whether the address is the host's own.
    pub local: bool,
    /// The index of the link packets leave by.
    pub index: u32,
}

/// Returns where packets to an address go, as `ip route get` does; `None` if they go nowhere.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn get(socket: &mut Socket, address: IpAddr) -> Result<Option<Path>, Error> {
    let mut message = RouteMessage::default();
    let (family, prefix, address) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = prefix;
    message.attributes = vec![RouteAttribute::Destination(address)];
    match socket.request(Request::new(RouteNetlinkMessage::GetRoute(message), 0)) {
        Ok(reply) => Ok(reply.0.as_deref().and_then(Path::read)),
        // Unreachable, prohibited and black holes are answers, too.
        Err(error) if error.is_missing() || error.is_unsupported() => Ok(None),
        Err(Error::Refused {
            errno: Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Path {
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let kind = *payload.get(7)?;
        let index = attributes(payload.get(12..)?).find(|(kind, _)| *kind == rta::OIF);
        let index = index.and_then(|(_, value)| u32_at(value, 0)).unwrap_or_default();
        match kind {
            libc::RTN_LOCAL | libc::RTN_ANYCAST => Some(Self { local: kind == libc::RTN_LOCAL, index }),
            libc::RTN_UNICAST | libc::RTN_MULTICAST | libc::RTN_BROADCAST => {
                Some(Self { local: false, index })
            }
            _ => None,
        }
    }
}

/// The flag of a next hop that is taken to be on the link (RTNH_F_ONLINK).
const ONLINK: u32 = 4;

/// The attributes we read (include/uapi/linux/rtnetlink.h).
mod rta {
    pub(super) const DST: u16 = 1;
    pub(super) const OIF: u16 = 4;
    pub(super) const GATEWAY: u16 = 5;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const PREFSRC: u16 = 7;
    pub(super) const METRICS: u16 = 8;
    pub(super) const MULTIPATH: u16 = 9;
    pub(super) const TABLE: u16 = 15;
    pub(super) const VIA: u16 = 18;
    pub(super) const METRIC_LOCK: u16 = 1;
    pub(super) const METRIC_MTU: u16 = 2;
    pub(super) const METRIC_ADVMSS: u16 = 8;
}

impl RouteInfo {
    /// Reads the payload of an RTM_NEWROUTE: one route, or one for each hop of a multipath route;
    /// none for what is neither a unicast route nor a black hole.
    pub(crate) fn read(payload: &[u8]) -> Vec<Self> {
        Self::read_hops(payload).unwrap_or_default()
    }

    fn read_hops(payload: &[u8]) -> Option<Vec<Self>> {
        let (family, prefix, scope) = (i32::from(*payload.first()?), *payload.get(1)?, *payload.get(6)?);
        let any: IpAddr = match family {
            libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let kind = match *payload.get(7)? {
            libc::RTN_UNICAST => RouteKind::Unicast,
            libc::RTN_BLACKHOLE => RouteKind::Blackhole,
            _ => return None,
        };
        let flags = u32_at(payload, 8)?;
        let mut route = Self {
            dst: IpNetwork::new(any, prefix).ok()?,
            gateway: None,
            kind,
            protocol: *payload.get(5)?,
            onlink: flags & ONLINK != 0,
            src: None,
            index: 0,
            metric: None,
            table: u32::from(*payload.get(4)?),
            scope,
            mtu: None,
            mtu_locked: false,
            advmss: None,
        };
        let mut hops = None;
        for (kind, value) in attributes(payload.get(12..)?) {
            match kind {
                rta::DST => route.dst = IpNetwork::new(ip(value)?, prefix).ok()?,
                rta::OIF => route.index = u32_at(value, 0)?,
                rta::GATEWAY | rta::VIA => route.gateway = gateway(kind, value),
                rta::PREFSRC => route.src = ip(value),
                rta::PRIORITY => route.metric = u32_at(value, 0),
                rta::TABLE => route.table = u32_at(value, 0)?,
                rta::METRICS => route.read_metrics(value),
                rta::MULTIPATH => hops = Some(value),
                _ => {}
            }
        }
        Some(hops.map_or_else(|| vec![route], |hops| route.each_hop(hops)))
    }

    fn read_metrics(&mut self, metrics: &[u8]) {
        for (kind, value) in attributes(metrics) {
            match kind {
                rta::METRIC_LOCK => {
                    self.mtu_locked =
                        u32_at(value, 0).is_some_and(|locks| locks & (1 << rta::METRIC_MTU) != 0);
                }
                rta::METRIC_MTU => self.mtu = u32_at(value, 0),
                rta::METRIC_ADVMSS => self.advmss = u32_at(value, 0),
                _ => {}
            }
        }
    }

    /// Reads `struct rtnexthop`s: length (2), flags (1), weight (1), interface (4), attributes.
    fn each_hop(self, mut rest: &[u8]) -> Vec<Self> {
        let mut hops = Vec::new();
        while let Some(length) = u16_at(rest, 0).map(usize::from).filter(|length| *length >= 8) {
            let Some(hop) = rest.get(..length) else { break };
            let via = attributes(&hop[8..]).find(|(kind, _)| matches!(*kind, rta::GATEWAY | rta::VIA));
            let gateway = via.and_then(|(kind, value)| gateway(kind, value));
            hops.push(Self { gateway, index: u32_at(hop, 4).unwrap_or_default(), ..self });
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        hops
    }

    /// Returns whether `other`, read from the kernel, is another route to the same destination that leaves no room
    /// for this one.
    pub fn is_rival_of(&self, other: &Self) -> bool {
        let same = |route: &Self| (route.dst.network(), route.dst.prefix(), route.table, route.priority());
        same(self) == same(other) && !self.is_met_by(other)
    }

    /// Returns the metric as the kernel keeps it.
    pub fn priority(&self) -> u32 {
        match (self.metric.unwrap_or(0), self.dst) {
            // KERNEL: IPv6 has no metric 0 (ip6_route_info_create, net/ipv6/route.c).
            (0, IpNetwork::V6(_)) => IPV6_METRIC,
            (metric, _) => metric,
        }
    }

    /// Returns whether `found`, read from the kernel, is this route. What this route leaves open may be anything.
    pub fn is_met_by(&self, found: &Self) -> bool {
        self.dst.network() == found.dst.network()
            && self.dst.prefix() == found.dst.prefix()
            && self.gateway == found.gateway
            && self.index == found.index
            && self.table == found.table
            && self.priority() == found.priority()
            // IPv6 routes have no scope: the kernel says 0 whatever was asked for.
            && (self.dst.is_ipv6() || self.scope == found.scope)
            && self.src.is_none_or(|src| found.src == Some(src))
            && self.kind == found.kind
            && self.mtu.is_none_or(|mtu| found.mtu == Some(mtu))
            && self.advmss.is_none_or(|advmss| found.advmss == Some(advmss))
    }
}

fn gateway(kind: u16, value: &[u8]) -> Option<IpAddr> {
    // RTA_VIA starts with the address family.
    if kind == rta::VIA { ip(value.get(2..)?) } else { ip(value) }
}
