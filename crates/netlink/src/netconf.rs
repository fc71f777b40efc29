//! Parameters of links, as `ip netconf` shows them: `net/ipv4/conf` and `net/ipv6/conf` of `/proc/sys` without files.
//!
//! KERNEL: `/proc/sys/net` is one directory for all namespaces, and the names below it are looked up among those of every
//! namespace that anybody has asked about (`proc_sys_compare`, fs/proc/proc_sysctl.c): with a thousand
//! containers on a host, opening such a file takes fifty times as long as with one. Netlink knows the namespace.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::libc;

use crate::wire::{attributes, u32_at};
use crate::{Error, Request, Socket};

/// What we read of what the kernel tells with a link: the family and the name below `/proc/sys/net`, and the place in the
/// kernel's list (IPV4_DEVCONF_* of linux/ip.h, less one; DEVCONF_* of linux/ipv6.h).
const TOLD: [(&str, &str, usize); 4] = [
    ("ipv4", ARP_NOTIFY, 21),
    ("ipv6", "accept_ra", 3),
    ("ipv6", "disable_ipv6", 26),
    ("ipv6", "accept_dad", 27),
];

const ARP_NOTIFY: &str = "arp_notify";

/// IFLA_INET_CONF (linux/if_link.h), and the same in IPv6's nest.
const INET_CONF: u16 = 1;
const INET6_CONF: u16 = 2;
/// IFLA_AF_SPEC and NLA_F_NESTED.
const AF_SPEC: u16 = 26;
const NESTED: u16 = 1 << 15;

/// The parameters of a link that came with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters([Option<i32>; TOLD.len()]);

impl Parameters {
    /// Reads the value of IFLA_AF_SPEC: nests by address family, each with a list of 32-bit numbers.
    pub(crate) fn read(spec: &[u8]) -> Self {
        let list = |family: i32, conf: u16| {
            let nest = attributes(spec).find(|(kind, _)| i32::from(*kind) == family)?.1;
            attributes(nest).find(|(kind, _)| *kind == conf).map(|(_, list)| list)
        };
        let (v4, v6) = (list(libc::AF_INET, INET_CONF), list(libc::AF_INET6, INET6_CONF));
        Self(TOLD.map(|(family, _, place)| {
            let list = if family == "ipv4" { v4 } else { v6 };
            u32_at(list?, place * 4).map(u32::cast_signed)
        }))
    }

    /// Returns the value of `net/FAMILY/conf/LINK/NAME`, if it is one of those that are read.
    pub fn get(&self, family: &str, name: &str) -> Option<i32> {
        let place = TOLD.iter().position(|told| (told.0, told.1) == (family, name))?;
        self.0[place]
    }
}

/// Sets `net/FAMILY/conf/LINK/NAME`; nothing where the kernel takes it by its file alone, as it does for IPv6
/// (`inet_set_link_af`, net/ipv4/devinet.c).
pub fn set(index: u32, family: &str, name: &str, value: i32) -> Option<Request> {
    let (_, _, place) = TOLD.iter().find(|told| (told.0, told.1) == (family, name) && family == "ipv4")?;
    let number = u16::try_from(place + 1).ok()?;
    let nest = |kind: u16, value: &[u8]| -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
    };
    let one = nest(number, &value.to_ne_bytes());
    let family = u16::try_from(libc::AF_INET).ok()?;
    let spec = nest(family | NESTED, &nest(INET_CONF | NESTED, &one));
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Other(DefaultNla::new(AF_SPEC | NESTED, spec)));
    Some(Request::new(RouteNetlinkMessage::SetLink(message), 0))
}

/// Returns whether a namespace forwards packets between its links: `net/ipv4/ip_forward`, or
/// `net/ipv6/conf/all/forwarding`. Nothing where it lacks the family.
///
/// # Errors
///
/// When the kernel refuses to answer.
pub fn forwards(socket: &mut Socket, v4: bool) -> Result<Option<bool>, Error> {
    /// RTM_GETNETCONF (linux/rtnetlink.h), NETCONFA_IFINDEX, NETCONFA_FORWARDING and NETCONFA_IFINDEX_ALL
    /// (linux/netconf.h).
    const GETNETCONF: u16 = 82;
    const IFINDEX: u16 = 1;
    const FORWARDING: u16 = 2;
    const ALL: i32 = -1;

    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
    let mut request = Vec::with_capacity(28);
    request.extend(28_u32.to_ne_bytes());
    request.extend(GETNETCONF.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([u8::try_from(family).unwrap_or_default(), 0, 0, 0]);
    request.extend(8_u16.to_ne_bytes());
    request.extend(IFINDEX.to_ne_bytes());
    request.extend(ALL.to_ne_bytes());
    let read = |payload: &[u8]| {
        let mut told = attributes(payload.get(4..)?);
        told.find(|(kind, _)| *kind == FORWARDING).and_then(|(_, value)| u32_at(value, 0))
    };
    match socket.list(&request, read) {
        Ok(found) => Ok(found.first().map(|value| *value != 0)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_not_there() {
        let mut spec = vec![0; 4 + 4 + 22 * 4];
        let length = u16::try_from(spec.len()).unwrap();
        spec[..2].copy_from_slice(&length.to_ne_bytes());
        spec[2..4].copy_from_slice(&2_u16.to_ne_bytes());
        spec[4..6].copy_from_slice(&(length - 4).to_ne_bytes());
        spec[6..8].copy_from_slice(&INET_CONF.to_ne_bytes());
        spec[8 + 21 * 4] = 1;
        assert_eq!(
            Parameters::read(&spec).get("ipv4", ARP_NOTIFY),
            Some(1).filter(|_| cfg!(target_endian = "little"))
        );
        assert_eq!(Parameters::read(&spec).get("ipv6", "accept_ra"), None);
        for end in 0..spec.len() {
            assert_eq!(Parameters::read(&spec[..end]), Parameters::default(), "cut at {end}");
        }
    }
}
