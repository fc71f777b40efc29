//! `ss --listening`: who of the host waits at a port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use weft_model::port::{PortRange, Protocol};

use crate::wire::{attributes, u32_at};
use crate::{Error, Socket};

/// The kind of request and answer (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// What marks an IPv6 socket that takes no IPv4 (linux/inet_diag.h).
const INET_DIAG_SKV6ONLY: u16 = 11;
/// The states we ask for, as bits (net/tcp_states.h): UDP sockets that are not connected count as closed.
const CLOSED: u32 = 1 << 7;
const LISTENING: u32 = 1 << 10;

/// A socket that takes connections or datagrams from anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its address; the unspecified one of a family for all of the host's.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it is an IPv6 socket that takes IPv4, too.
    pub both_families: bool,
    /// The number of its inode, by which `/proc` names it.
    pub inode: u32,
}

impl Listener {
    /// Tells whether it and another listener at `address`, of the same protocol and port, would be in each
    /// other's way: an unspecified address is every address of its family.
    pub fn is_in_the_way_of(&self, address: IpAddr) -> bool {
        if self.both_families && address.is_ipv4() {
            return true;
        }
        self.address.is_ipv4() == address.is_ipv4()
            && (self.address.is_unspecified() || address.is_unspecified() || self.address == address)
    }

    /// Returns the process that has the socket, as name and number, if `/proc` shows it to us.
    pub fn process(&self) -> Option<(String, u32)> {
        let link = format!("socket:[{}]", self.inode);
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|id: u32| {
            let folder = Path::new("/proc").join(id.to_string());
            let mut files = std::fs::read_dir(folder.join("fd")).ok()?.flatten();
            files.find(|file| {
                std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str())
            })?;
            let name = std::fs::read_to_string(folder.join("comm")).unwrap_or_default();
            Some((name.trim_end().to_owned(), id))
        })
    }
}

/// Returns who waits at these ports in the calling thread's network namespace, for either family.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure. A protocol the kernel does not have has no listeners.
pub fn listeners(protocol: Protocol, ports: PortRange) -> Result<Vec<Listener>, Error> {
    let mut socket = Socket::of(netlink_sys::protocols::NETLINK_SOCK_DIAG)?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        match socket.list(&question(family, protocol, ports), Listener::read) {
            Ok(listeners) => found.extend(listeners),
            // The kernel has no such protocol, or cannot list it.
            Err(error) if error.is_missing() || error.is_unsupported() => {
                found.extend(listed_in_proc(family, protocol));
            }
            Err(Error::Refused { errno: Errno::EINVAL, .. }) => {
                found.extend(listed_in_proc(family, protocol))
            }
            Err(error) => return Err(error),
        }
    }
    found.retain(|listener| ports.contains(listener.port));
    Ok(found)
}

/// A `struct inet_diag_req_v2` behind a netlink header. The kernel compares one port, not several.
fn question(family: i32, protocol: Protocol, ports: PortRange) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;

    let state = if protocol == Protocol::Udp { CLOSED } else { LISTENING };
    let port = if ports.is_single() { ports.first() } else { 0 };
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or_default();
    let mut bytes = Vec::with_capacity(LENGTH as usize);
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(family).unwrap_or_default(), protocol.number(), 0, 0]);
    bytes.extend(state.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH as usize, 0);
    bytes
}

impl Listener {
    /// Reads a `struct inet_diag_msg`.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let port = payload.get(4..)?.first_chunk().copied().map(u16::from_be_bytes)?;
        let source = payload.get(8..24)?;
        let inode = u32_at(payload, 68)?;
        if i32::from(*payload.first()?) == libc::AF_INET {
            let address = IpAddr::from(*source.first_chunk::<4>()?);
            return Some(Self { address, port, both_families: false, inode });
        }
        let only = attributes(payload.get(72..)?)
            .any(|(kind, value)| kind == INET_DIAG_SKV6ONLY && value.first().is_some_and(|only| *only != 0));
        Some(Self::ipv6(Ipv6Addr::from(*source.first_chunk::<16>()?), port, only, inode))
    }

    fn ipv6(address: Ipv6Addr, port: u16, only: bool, inode: u32) -> Self {
        let both_families = address.is_unspecified() && !only;
        Self { address: IpAddr::from(address).to_canonical(), port, both_families, inode }
    }
}

/// Reads `/proc/net/tcp` and its like, for kernels that cannot be asked. It does not tell which IPv6 sockets take
/// IPv4, so all are taken for such.
fn listed_in_proc(family: i32, protocol: Protocol) -> Vec<Listener> {
    let six = if family == libc::AF_INET { "" } else { "6" };
    let file = format!("/proc/thread-self/net/{protocol}{six}");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| listed(line, protocol)).collect()
}

/// Reads `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode`. Addresses are words in the byte
/// order of the machine, ports are numbers.
fn listed(line: &str, protocol: Protocol) -> Option<Listener> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = words.get(1)?.split_once(':')?;
    let state = if protocol == Protocol::Udp { "07" } else { "0A" };
    if *words.get(3)? != state {
        return None;
    }
    let (port, inode) = (u16::from_str_radix(port, 16).ok()?, words.get(9)?.parse().ok()?);
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if address.len() == 8 {
        return Some(Listener {
            address: Ipv4Addr::from(word(0)?).into(),
            port,
            both_families: false,
            inode,
        });
    }
    let mut octets = [0; 16];
    for (at, part) in octets.chunks_exact_mut(4).enumerate() {
        part.copy_from_slice(&word(at * 8)?);
    }
    Some(Listener::ipv6(octets.into(), port, false, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let ne = |word: u32| format!("{:08X}", u32::from_ne_bytes(word.to_be_bytes()));
        let v4 = format!("0: {}:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4711 1", ne(0xc000_0201));
        let listener = listed(&v4, Protocol::Tcp).unwrap();
        assert_eq!((listener.address, listener.port), ("192.0.2.1".parse().unwrap(), 8080));
        assert_eq!((listener.inode, listener.both_families), (4711, false));
        assert_eq!(listed(&v4, Protocol::Udp), None, "another state");

        let address = [0x2001_0db8, 0, 0, 1].map(ne).concat();
        let v6 = format!("1: {address}:0035 {:032}:0000 07 0:0 0:0 0 0 0 9 1", 0);
        let listener = listed(&v6, Protocol::Udp).unwrap();
        assert_eq!((listener.address, listener.port), ("2001:db8::1".parse().unwrap(), 53));
        for line in ["", "0:", "0: 1:2 3 0A", "0: zz:1F90 0:0 0A 0:0 0:0 0 0 0 1 1"] {
            assert_eq!(listed(line, Protocol::Tcp), None, "{line:?}");
        }
    }

    #[test]
    fn unspecified_addresses_are_in_everybodys_way() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at =
            |text: &str, both_families| Listener { address: ip(text), port: 80, both_families, inode: 0 };
        let table = [
            (at("0.0.0.0", false), "192.0.2.1", true),
            (at("127.0.0.53", false), "0.0.0.0", true),
            (at("127.0.0.53", false), "192.0.2.1", false),
            (at("0.0.0.0", false), "::", false),
            (at("::", true), "192.0.2.1", true),
            (at("::", false), "192.0.2.1", false),
            (at("::", false), "::1", true),
            (at("::1", false), "::1", true),
        ];
        for (listener, address, expected) in table {
            assert_eq!(listener.is_in_the_way_of(ip(address)), expected, "{listener:?} and {address}");
        }
    }
}
