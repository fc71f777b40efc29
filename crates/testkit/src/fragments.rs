//! IP fragments made by hand: what no kernel would cut that way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

/// A piece of an IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// Which packet it is a piece of.
    pub packet: u16,
    /// Where in the packet it begins, in bytes: a multiple of 8.
    pub offset: u16,
    /// Whether more comes behind it.
    pub more: bool,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// Returns a UDP datagram with its header and checksum (RFC 768, RFC 8200 section 8.1).
pub fn udp_datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut datagram = [&ports[..], &length, &[0, 0], payload].concat();
    let pseudo = [&octets(from.ip())[..], &octets(to.ip()), &[0, UDP], &length].concat();
    let checksum = match checksum(&[&pseudo, &datagram]) {
        // Zero says that there is none.
        0 => u16::MAX,
        other => other,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    datagram
}

/// Sends a fragment of a UDP datagram from the calling thread's namespace.
///
/// # Errors
///
/// When there is no way to the address, or the kernel does not let us.
pub fn send_fragment(from: IpAddr, to: IpAddr, fragment: &Fragment<'_>) -> io::Result<()> {
    let Fragment { packet, offset, more, bytes } = *fragment;
    let header = if to.is_ipv4() {
        // The kernel fills in the length and the checksum (raw(7)).
        let place = (u16::from(more) << 13) | (offset / 8);
        [&[0x45, 0, 0, 0][..], &packet.to_be_bytes(), &place.to_be_bytes(), &[64, UDP, 0, 0]].concat()
    } else {
        let length = u16::try_from(8 + bytes.len()).unwrap_or(u16::MAX);
        [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[FRAGMENT, 64]].concat()
    };
    let extension = if to.is_ipv4() {
        Vec::new()
    } else {
        // RFC 8200, section 4.5.
        let place = offset | u16::from(more);
        [&[UDP, 0][..], &place.to_be_bytes(), &[0, 0], &packet.to_be_bytes()].concat()
    };
    let whole = [&header[..], &octets(from), &octets(to), &extension, bytes].concat();
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // KERNEL: a socket of IPPROTO_RAW sends what it is given, header and all (raw(7)).
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    sendto(socket.as_raw_fd(), &whole, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty())?;
    Ok(())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071). All but the last part have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[1]]), !0x0100);
    }
}
