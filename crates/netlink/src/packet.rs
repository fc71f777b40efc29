//! IP packets sent and received by a link whatever its addresses: what a DHCP client needs before it has one.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recvfrom,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use weft_model::Mac;

/// Everybody on the link.
pub const BROADCAST: Mac = Mac([0xff; 6]);

/// A socket for the IPv4 packets of one link.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    index: u32,
}

impl PacketSocket {
    /// Opens a socket on a link of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// When we lack CAP_NET_RAW, or there is no such link.
    pub fn open(index: u32) -> io::Result<Self> {
        // Protocol 0 hears nothing: what arrives counts once the socket is bound to the link.
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None::<SockProtocol>)?;
        bind(socket.as_raw_fd(), &address(index, BROADCAST)?)?;
        Ok(Self { socket, index })
    }

    /// Sends an IPv4 packet, header and all.
    ///
    /// # Errors
    ///
    /// When the link is down or gone.
    pub fn send(&self, packet: &[u8], to: Mac) -> io::Result<()> {
        let address = address(self.index, to)?;
        sendto(self.socket.as_raw_fd(), packet, &address, MsgFlags::empty())?;
        Ok(())
    }

    /// Receives an IPv4 packet, header and all, and who sent it; nothing when none comes in time.
    ///
    /// # Errors
    ///
    /// When the link is down or gone.
    pub fn receive(&self, buffer: &mut [u8], patience: Duration) -> io::Result<Option<(usize, Mac)>> {
        // KERNEL: a time of 0 means for ever.
        let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX).clamp(1, 3_600_000);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))?;
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer) {
            Ok((length, sender)) => {
                let mac = sender.and_then(|sender| sender.addr()).map_or(BROADCAST, Mac);
                Ok(Some((length, mac)))
            }
            Err(error) => match io::Error::from(error) {
                error if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
                error => Err(error),
            },
        }
    }
}

fn address(index: u32, to: Mac) -> io::Result<LinkAddr> {
    let protocol = u16::try_from(libc::ETH_P_IP).unwrap_or_default().to_be();
    let mut octets = [0; 8];
    octets[..6].copy_from_slice(&to.0);
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: protocol,
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: octets,
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).ok();
    #[expect(unsafe_code, reason = "nix makes this address from the C structure alone")]
    // SAFETY: `raw` is a whole `sockaddr_ll` of the family AF_PACKET and lives until the call has copied it.
    let address = unsafe { LinkAddr::from_raw((&raw const raw).cast::<libc::sockaddr>(), length) };
    address.ok_or_else(|| io::Error::other("a link's address is malformed"))
}
