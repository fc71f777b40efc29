//! The TUN device: packets of the host's own stack, as large as the kernel can hand them over.
//!
//! It has Ethernet headers (IFF_TAP) that mean nothing: nobody is asked for an address (IFF_NOARP). KERNEL: what VXLAN carries
//! is taken joined only with one in front, virtio_net_hdr_tnl_to_skb (include/linux/virtio_net.h) counts on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::{self, c_int, c_uint, c_ulong};
use weft_model::{IfName, Mac};

use crate::vnet::{Header, LENGTH};

/// What one read may bring: a header, and what the kernel cuts into segments at most.
pub(crate) const BUFFER: usize = LENGTH + ETHERNET + 65_536 + 256;

/// The length of an Ethernet header, and what comes before the two bytes that name the protocol: ours is the only station.
const ETHERNET: usize = 14;
/// The same, as offsets in a packet are counted.
const SHIFT: u16 = 14;
/// The device's Ethernet address, local to this host.
pub(crate) const STATION: Mac = Mac([0x02, 0x77, 0x65, 0x66, 0x74, 0x01]);

// include/uapi/linux/if_tun.h: _IOW('T', n, int), and for TUNSETIFF and TUNSETOFFLOAD of whatever is passed.
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETPERSIST: c_ulong = 0x4004_54cb;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54d8;
const TUNSETVNETLE: c_ulong = 0x4004_54dc;

/// Checksums are completed by us.
const CSUM: c_uint = 0x01;
/// TCP of either family, also with ECN, is cut by us.
const TSO: c_uint = 0x02 | 0x04 | 0x08;
/// UDP of either family is cut by us. KERNEL: since Linux 6.2.
const USO: c_uint = 0x20 | 0x40;
/// What VXLAN carries, too, with no checksum of its own. KERNEL: since Linux 6.17.
const UDP_TUNNEL: c_uint = 0x80;

/// What the kernel leaves to us, the most first.
const LADDER: [c_uint; 4] = [CSUM | TSO | USO | UDP_TUNNEL, CSUM | TSO | USO, CSUM | TSO, 0];

/// An open TUN device.
#[derive(Debug)]
pub(crate) struct Tun {
    file: File,
    offload: c_uint,
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Tun {
    /// Opens a device, which is made if there is none. It stays when we go: what is routed to it is then dropped.
    pub(crate) fn open(name: &IfName, offload: bool) -> io::Result<Self> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
        let mut tun = Self { file, offload: 0 };
        let mut request = [0u8; 40];
        request[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
        let kind = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR).to_ne_bytes();
        request[16..18].copy_from_slice(&kind[..2]);
        if cfg!(target_endian = "big") {
            request[16..18].copy_from_slice(&kind[2..]);
        }
        tun.pointing(TUNSETIFF, request.as_mut_ptr().cast())?;
        tun.set(TUNSETVNETHDRSZ, c_int::try_from(LENGTH).unwrap_or(c_int::MAX))?;
        tun.set(TUNSETVNETLE, 1)?;
        tun.valued(TUNSETPERSIST, 1)?;
        for step in LADDER.into_iter().filter(|step| offload || *step == 0) {
            if tun.valued(TUNSETOFFLOAD, c_ulong::from(step)).is_ok() {
                tun.offload = step;
                break;
            }
        }
        Ok(tun)
    }

    /// Returns whether TCP is taken and handed over in large packets.
    pub(crate) fn takes_tcp(&self) -> bool {
        self.offload & TSO == TSO
    }

    /// Returns whether UDP is.
    pub(crate) fn takes_udp(&self) -> bool {
        self.offload & USO == USO
    }

    /// Returns whether what VXLAN carries is.
    pub(crate) fn takes_tunnels(&self) -> bool {
        self.offload & UDP_TUNNEL != 0
    }

    /// Reads one packet, if there is one.
    pub(crate) fn read<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(Header, &'a [u8])>> {
        let length = match nix::unistd::read(&self.file, buffer) {
            Ok(length) => length,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (head, frame) = buffer[..length].split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        // Nothing real is shorter; a header that points into what is taken away belongs to nothing we know.
        let packet = frame.get(ETHERNET..).unwrap_or_default();
        Ok(Some((Header::read(head).pulled(SHIFT).unwrap_or_default(), packet)))
    }

    /// Writes one packet.
    pub(crate) fn write<'a>(&self, header: Header, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut pieces = pieces.peekable();
        let v6 = pieces.peek().and_then(|piece| piece.first()).is_some_and(|byte| byte >> 4 == 6);
        let mut head = [0; LENGTH + ETHERNET];
        head[..LENGTH].copy_from_slice(&header.pushed(SHIFT).ok_or(io::ErrorKind::InvalidInput)?.write());
        head[LENGTH..LENGTH + 6].copy_from_slice(&STATION.0);
        head[LENGTH + 6..LENGTH + 12].copy_from_slice(&STATION.0);
        head[LENGTH + 12..].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        let mut slices = vec![io::IoSlice::new(&head)];
        for piece in pieces {
            slices.push(io::IoSlice::new(piece));
        }
        nix::sys::uio::writev(&self.file, &slices).map(drop).map_err(Into::into)
    }

    fn set(&self, request: c_ulong, mut value: c_int) -> io::Result<()> {
        self.pointing(request, (&raw mut value).cast())
    }

    fn pointing(&self, request: c_ulong, argument: *mut libc::c_void) -> io::Result<()> {
        #[expect(unsafe_code, reason = "ioctl has no safe form; nix's macros make unsafe functions, too")]
        // SAFETY: each request that is passed here reads, and TUNSETIFF writes, no more than the value behind the pointer,
        // which lives until the call returns: 40 bytes (struct ifreq) or an int (drivers/net/tun.c, __tun_chr_ioctl).
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request as libc::Ioctl, argument) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn valued(&self, request: c_ulong, value: c_ulong) -> io::Result<()> {
        #[expect(unsafe_code, reason = "as above")]
        // SAFETY: these requests take the argument as a number (drivers/net/tun.c, __tun_chr_ioctl).
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request as libc::Ioctl, value) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
