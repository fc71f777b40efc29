//! Packets made by hand, for protocols that a kernel may have no sockets for, and an ear that hears what arrives.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvmsg, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{Container, Lab};

const SCTP: u8 = 132;
const UDP: u8 = 17;
const PATIENCE: Duration = Duration::from_secs(2);

/// What an ear heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The protocol's number.
    pub protocol: u8,
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
    /// The port it is for.
    pub port: u16,
}

/// Hears every packet that arrives in a namespace, from any link.
#[derive(Debug)]
pub struct Ear {
    socket: OwnedFd,
    own: IpAddr,
    /// The port of the last packet that the namespace was made to send to itself.
    marked: AtomicU16,
}

impl Container {
    /// Sends the first packet of an SCTP association and waits for no answer.
    ///
    /// # Errors
    ///
    /// When there is no way to the address, or the kernel does not let us.
    pub fn send_sctp(&self, to: IpAddr, port: u16) -> io::Result<()> {
        self.inside(|| send_sctp(SocketAddr::new(to, port)))
    }

    /// Starts to listen to everything that arrives. `own` is the address of the container by which it
    /// calls itself, for which its loopback interface is raised.
    pub fn ear(&self, own: IpAddr) -> Ear {
        self.ip("link set lo up");
        self.inside(|| Ear::open(own)).unwrap_or_else(|error| panic!("{}: an ear: {error}", self.name()))
    }
}

impl Lab {
    /// Sends the first packet of an SCTP association from the host and waits for no answer.
    ///
    /// # Errors
    ///
    /// When there is no way to the address, or the kernel does not let us.
    pub fn send_sctp(&self, to: IpAddr, port: u16) -> io::Result<()> {
        send_sctp(SocketAddr::new(to, port))
    }
}

impl Ear {
    fn open(own: IpAddr) -> io::Result<Self> {
        let all = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, all)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(2000))?;
        Ok(Self { socket, own, marked: AtomicU16::new(0) })
    }

    /// Waits for a packet of this protocol and port; says what came if it does not come.
    ///
    /// # Panics
    ///
    /// When nothing of the kind arrives within two seconds.
    #[track_caller]
    pub fn expect(&self, protocol: u8, port: u16) -> Heard {
        let deadline = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        while let Some(heard) = self.next().filter(|_| Instant::now() < deadline) {
            if (heard.protocol, heard.port) == (protocol, port) {
                return heard;
            }
            others.push(heard);
        }
        panic!("protocol {protocol} port {port} was not heard, but {others:?}")
    }

    /// Returns everything that has arrived since it was asked last, in order.
    ///
    /// A packet that the namespace then sends to itself comes after all that, so nothing has to be waited for. It is
    /// heard twice, as it leaves and as it arrives: each call has a port of its own.
    pub fn so_far(&self, of: &Container) -> Vec<Heard> {
        let mark = SocketAddr::new(self.own, self.marked.fetch_add(1, Ordering::Relaxed) + 1);
        of.inside(|| UdpSocket::bind(SocketAddr::new(self.own, 0))?.send_to(b"!", mark))
            .unwrap_or_else(|error| panic!("{}: cannot call itself: {error}", of.name()));
        let mut found = Vec::new();
        while let Some(heard) = self.next() {
            let is_mark = (heard.protocol, heard.source, heard.destination) == (UDP, self.own, self.own);
            match is_mark {
                true if heard.port == mark.port() => return found,
                true => {}
                false => found.push(heard),
            }
        }
        panic!("{}: did not hear itself, but {found:?}", of.name())
    }

    /// Returns the next packet of a protocol with ports; `None` when none comes for two seconds.
    fn next(&self) -> Option<Heard> {
        loop {
            let mut packet = [0; 128];
            let mut parts = [IoSliceMut::new(&mut packet)];
            let fd = self.socket.as_raw_fd();
            let length = recvmsg::<()>(fd, &mut parts, None, MsgFlags::empty()).ok()?.bytes;
            if let Some(heard) = read(&packet[..length]) {
                return Some(heard);
            }
        }
    }
}

/// Reads an IP packet; `None` for anything else and for protocols without ports.
fn read(packet: &[u8]) -> Option<Heard> {
    let v4 = |at| packet.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets));
    let v6 = |at| packet.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets));
    let (protocol, source, destination, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, v4(12)?, v4(16)?, usize::from(packet[0] & 15) * 4),
        6 => (*packet.get(6)?, v6(8)?, v6(24)?, 40),
        _ => return None,
    };
    let port = packet.get(header + 2..)?.first_chunk().map(|port| u16::from_be_bytes(*port))?;
    matches!(protocol, 6 | UDP | SCTP).then_some(Heard { protocol, source, destination, port })
}

fn send_sctp(to: SocketAddr) -> io::Result<()> {
    // Which of our addresses the kernel takes is found out by asking it.
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = UdpSocket::bind(any)?;
    probe.connect(to)?;
    let from = probe.local_addr()?;
    let init = init(from.port(), to.port());
    let packet = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, SCTP, 0, 0];
            packet.extend([from.octets(), to.octets()].concat());
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut packet = vec![0x60, 0, 0, 0, 0, u8::try_from(init.len()).unwrap_or_default(), SCTP, 64];
            packet.extend([from.octets(), to.octets()].concat());
            packet
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let packet = [packet, init].concat();
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // KERNEL: a socket of IPPROTO_RAW sends what it is given, header and all (raw(7)).
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let target = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    sendto(socket.as_raw_fd(), &packet, &target, MsgFlags::empty())?;
    Ok(())
}

/// An SCTP packet with an INIT chunk (RFC 9260, section 3.3.2).
fn init(from: u16, to: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend(0x0102_0304_u32.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1_u32.to_be_bytes());
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// The checksum of SCTP (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
