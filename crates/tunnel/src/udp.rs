//! The UDP socket: many datagrams a call, and the kernel cuts and joins them.
//!
//! KERNEL: UDP_SEGMENT (since 4.18) cuts one buffer into datagrams of one size; UDP_GRO (since 5.0) joins datagrams of one
//! size into one buffer and tells the size.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, setsockopt, sockopt};

/// How many buffers one receive fills.
const RECEIVED: usize = 16;
/// What a buffer holds: the longest datagram, or as many as are joined.
const BUFFER: usize = 65_536;
/// How many datagrams one buffer is cut into (UDP_MAX_SEGMENTS before Linux 6.9).
const SEGMENTS: usize = 64;
/// How much is cut at once, in bytes: an IP packet is not longer, headers included.
const TOTAL: usize = 65_000;
/// What waits in the socket: 4 ms of 10 Gb/s are 5 MB.
const QUEUE: usize = 7 << 20;
/// The length of an address of any family.
const ADDRESS: libc::socklen_t = 128;
const _: () = assert!(size_of::<libc::sockaddr_storage>() == ADDRESS as usize);
/// Room for one control message that holds an int.
const CONTROL: usize = 64;

/// A socket of both families, or of IPv4 where there is no IPv6.
#[derive(Debug)]
pub(crate) struct Udp {
    fd: OwnedFd,
    v6: bool,
    cuts: AtomicBool,
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Udp {
    /// Opens a socket on all addresses.
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let open = |family| socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
        let (fd, v6) = match open(AddressFamily::Inet6) {
            Ok(fd) => (fd, true),
            Err(Errno::EAFNOSUPPORT) => (open(AddressFamily::Inet)?, false),
            Err(error) => return Err(error.into()),
        };
        let address: SocketAddr = if v6 {
            setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
            (Ipv6Addr::UNSPECIFIED, port).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, port).into()
        };
        // More than the system's limit, if we may; else as much as that.
        setsockopt(&fd, sockopt::SndBufForce, &QUEUE)
            .or_else(|_| setsockopt(&fd, sockopt::SndBuf, &QUEUE))
            .ok();
        setsockopt(&fd, sockopt::RcvBufForce, &QUEUE)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &QUEUE))
            .ok();
        // Without it datagrams come one by one.
        setsockopt(&fd, sockopt::UdpGroSegment, &true).ok();
        socket::bind(fd.as_raw_fd(), &socket::SockaddrStorage::from(address))?;
        Ok(Self { fd, v6, cuts: AtomicBool::new(true) })
    }

    /// Returns whether the kernel cuts what is sent.
    pub(crate) fn cuts(&self) -> bool {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Sends datagrams to one address, in order, as few system calls as it takes.
    pub(crate) fn send<T: AsRef<[u8]>>(&self, to: SocketAddr, datagrams: &[T]) -> io::Result<()> {
        if self.cuts() {
            match self.transmit(to, datagrams, SEGMENTS) {
                // No checksum offload on the way out, or datagrams longer than the path's MTU: one by one they may pass.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)) =>
                {
                    if error.raw_os_error() == Some(libc::EIO) {
                        self.cuts.store(false, Ordering::Relaxed);
                    }
                }
                other => return other,
            }
        }
        self.transmit(to, datagrams, 1)
    }

    fn transmit<T: AsRef<[u8]>>(&self, to: SocketAddr, datagrams: &[T], most: usize) -> io::Result<()> {
        let mut address = self.address(to);
        let mut slices: Vec<libc::iovec> = datagrams
            .iter()
            .map(|datagram| {
                let bytes = datagram.as_ref();
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
            })
            .collect();
        let runs = runs(datagrams, most);
        let mut controls = vec![[0u64; CONTROL / 8]; runs.len()];
        let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(runs.len());
        let mut start = 0;
        for (run, control) in runs.iter().zip(&mut controls) {
            let message = message(&mut address, &mut slices[start..start + run], control);
            let size = datagrams[start].as_ref().len();
            messages.push(if *run > 1 { cut_into(message, size) } else { message });
            start += run;
        }
        self.send_all(&mut messages)
    }

    fn send_all(&self, mut messages: &mut [libc::mmsghdr]) -> io::Result<()> {
        while !messages.is_empty() {
            let count = libc::c_uint::try_from(messages.len()).unwrap_or(libc::c_uint::MAX);
            #[expect(unsafe_code, reason = "nix's sendmmsg allocates for every call")]
            // SAFETY: `messages` are `count` headers whose pointers lead to the address, the slices and the control messages
            // that transmit() owns and that outlive this call.
            let sent = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
            match usize::try_from(sent) {
                Ok(sent) => messages = messages.get_mut(sent.max(1)..).unwrap_or_default(),
                Err(_) if Errno::last() == Errno::EINTR => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }

    /// Returns the address as the socket's family writes it.
    fn address(&self, to: SocketAddr) -> socket::SockaddrStorage {
        match to {
            SocketAddr::V4(v4) if self.v6 => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            other => other.into(),
        }
    }
}

/// Returns how many datagrams go together: those of one size, and one that is shorter at the end.
fn runs<T: AsRef<[u8]>>(datagrams: &[T], most: usize) -> Vec<usize> {
    let mut runs = Vec::new();
    let mut rest = datagrams;
    while let Some(first) = rest.first() {
        let size = first.as_ref().len().max(1);
        let most = most.min(TOTAL / size).max(1);
        let same = rest.iter().take(most).take_while(|next| next.as_ref().len() == size).count();
        let shorter = rest.get(same).is_some_and(|next| (1..size).contains(&next.as_ref().len()));
        let run = same.max(1) + usize::from(shorter && same > 0 && same < most);
        runs.push(run);
        rest = &rest[run..];
    }
    runs
}

fn message(
    address: &mut socket::SockaddrStorage,
    slices: &mut [libc::iovec],
    control: &mut [u64; CONTROL / 8],
) -> libc::mmsghdr {
    use nix::sys::socket::SockaddrLike;
    #[expect(unsafe_code, reason = "struct msghdr has private padding on some targets")]
    // SAFETY: all zeros are a message without anything.
    let mut header: libc::mmsghdr = unsafe { zeroed() };
    header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
    header.msg_hdr.msg_namelen = address.len();
    header.msg_hdr.msg_iov = slices.as_mut_ptr();
    header.msg_hdr.msg_iovlen = slices.len() as _;
    header.msg_hdr.msg_control = control.as_mut_ptr().cast();
    header.msg_hdr.msg_controllen = 0;
    header
}

/// Has the kernel cut a message into datagrams of this size.
fn cut_into(mut message: libc::mmsghdr, size: usize) -> libc::mmsghdr {
    let size = u16::try_from(size).unwrap_or(u16::MAX);
    const LENGTH: libc::c_uint = 2;
    #[expect(unsafe_code, reason = "control messages are laid out by macros")]
    // SAFETY: msg_control points to CONTROL bytes, aligned to 8, more than CMSG_SPACE(2) is anywhere, so CMSG_FIRSTHDR is not
    // null and CMSG_DATA has room for the number.
    unsafe {
        message.msg_hdr.msg_controllen = libc::CMSG_SPACE(LENGTH) as _;
        let control = libc::CMSG_FIRSTHDR(&raw const message.msg_hdr);
        (*control).cmsg_level = libc::SOL_UDP;
        (*control).cmsg_type = libc::UDP_SEGMENT;
        (*control).cmsg_len = libc::CMSG_LEN(LENGTH) as _;
        libc::CMSG_DATA(control).cast::<u16>().write_unaligned(size);
    }
    message
}

/// Buffers that datagrams are received into.
pub(crate) struct Receiver {
    buffers: Vec<BytesMut>,
    addresses: Vec<libc::sockaddr_storage>,
    controls: Vec<[u64; CONTROL / 8]>,
}

/// Datagrams of one sender in one buffer.
#[derive(Debug)]
pub(crate) struct Datagrams {
    /// Who sent them.
    pub(crate) from: SocketAddr,
    /// All of them.
    pub(crate) bytes: BytesMut,
    /// How long each is, the last one at most.
    pub(crate) size: usize,
}

impl Iterator for Datagrams {
    type Item = BytesMut;

    fn next(&mut self) -> Option<BytesMut> {
        let length = self.size.min(self.bytes.len());
        (length > 0).then(|| self.bytes.split_to(length))
    }
}

impl Receiver {
    pub(crate) fn new() -> Self {
        #[expect(unsafe_code, reason = "a socket address as libc declares it")]
        // SAFETY: all zeros are an address of no family.
        let address: libc::sockaddr_storage = unsafe { zeroed() };
        Self {
            buffers: (0..RECEIVED).map(|_| BytesMut::with_capacity(BUFFER)).collect(),
            addresses: vec![address; RECEIVED],
            controls: vec![[0; CONTROL / 8]; RECEIVED],
        }
    }

    /// Waits for datagrams and hands over those there are. Buffers whose pieces are all gone by the next call are used again.
    pub(crate) fn receive(&mut self, socket: &Udp, mut each: impl FnMut(Datagrams)) -> io::Result<()> {
        let mut slices = Vec::with_capacity(RECEIVED);
        for buffer in &mut self.buffers {
            buffer.reserve(BUFFER);
            let room: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
            slices.push(libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: BUFFER.min(room.len()) });
        }
        let mut messages: Vec<libc::mmsghdr> = Vec::with_capacity(RECEIVED);
        for ((slice, address), control) in slices.iter_mut().zip(&mut self.addresses).zip(&mut self.controls)
        {
            #[expect(unsafe_code, reason = "struct msghdr has private padding on some targets")]
            // SAFETY: all zeros are a message without anything.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_name = (&raw mut *address).cast();
            message.msg_hdr.msg_namelen = ADDRESS;
            message.msg_hdr.msg_iov = slice;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL as _;
            messages.push(message);
        }
        let count = libc::c_uint::try_from(messages.len()).unwrap_or_default();
        let flags = libc::MSG_WAITFORONE;
        let fd = socket.fd.as_raw_fd();
        #[expect(unsafe_code, reason = "nix's recvmmsg wants initialised buffers")]
        // SAFETY: `messages` are `count` headers whose pointers lead to the buffers' spare room, the addresses and the control
        // messages; all are borrowed mutably until the call returns, and each length is that of what the pointer leads to.
        let received =
            unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), count, flags as _, std::ptr::null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (index, message) in messages[..received].iter().enumerate() {
            let length = usize::try_from(message.msg_len).unwrap_or_default().min(BUFFER);
            let buffer = &mut self.buffers[index];
            #[expect(unsafe_code, reason = "the kernel has written into what was spare")]
            // SAFETY: the buffer was empty, and the kernel has initialised the first `length` bytes of its spare room.
            unsafe {
                buffer.set_len(length);
            }
            let size = segment_size(&message.msg_hdr).filter(|size| *size > 0).unwrap_or(length);
            let bytes = buffer.split();
            if let Some(from) = address(&self.addresses[index]) {
                each(Datagrams { from, bytes, size });
            }
        }
        Ok(())
    }
}

/// Returns the size of the datagrams that were joined, if some were.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    #[expect(unsafe_code, reason = "control messages are laid out by macros")]
    // SAFETY: the kernel has filled msg_control and set msg_controllen to what it used, so the macros stay inside; UDP_GRO
    // carries an int (udp_cmsg_recv, net/ipv4/udp.c).
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            if message.cmsg_level == libc::SOL_UDP && message.cmsg_type == libc::UDP_GRO {
                let size = libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok();
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// Reads the sender, IPv4's as what it is.
fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let storage = std::ptr::from_ref(storage);
    #[expect(unsafe_code, reason = "a socket address is read by its family")]
    // SAFETY: sockaddr_storage is at least as large and as aligned as either, and all their bit patterns are values.
    let (v4, v6) = unsafe { (&*storage.cast::<libc::sockaddr_in>(), &*storage.cast::<libc::sockaddr_in6>()) };
    match i32::from(v4.sin_family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, port).into(),
                None => SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_one_size_go_together_and_one_that_is_shorter() {
        let sized = |sizes: &[usize]| -> Vec<Vec<u8>> { sizes.iter().map(|size| vec![0; *size]).collect() };
        let runs_of = |sizes: &[usize], most| runs(&sized(sizes), most);
        assert_eq!(runs_of(&[9, 9, 9, 4, 4, 9], 64), [4, 1, 1]);
        assert_eq!(runs_of(&[4, 9, 9], 64), [1, 2]);
        assert_eq!(runs_of(&[9, 9, 9], 1), [1, 1, 1]);
        assert_eq!(runs_of(&[9; 5], 2), [2, 2, 1]);
        assert_eq!(runs_of(&[40_000, 40_000, 1], 64), [1, 1, 1]);
        assert_eq!(runs_of(&[0, 0], 64), [1, 1]);
        assert_eq!(runs_of(&[], 64), [0; 0]);
    }

    #[test]
    fn datagrams_arrive_as_they_were_sent() {
        for to in ["127.0.0.1", "::1"] {
            let (one, other) = (Udp::open(0).unwrap(), Udp::open(0).unwrap());
            let port = socket::getsockname::<socket::SockaddrIn6>(other.fd.as_raw_fd()).unwrap().port();
            let to = SocketAddr::new(to.parse().unwrap(), port);
            let mut wanted: Vec<Vec<u8>> = (0..150u8).map(|number| vec![number; 1200]).collect();
            wanted.extend([vec![7; 600], vec![8; 1200], vec![9; 1]]);
            one.send(to, &wanted).unwrap();
            let (mut receiver, mut found) = (Receiver::new(), Vec::new());
            while found.len() < wanted.len() {
                receiver
                    .receive(&other, |datagrams| {
                        assert_eq!(datagrams.from.ip(), to.ip());
                        found.extend(datagrams.map(|datagram| datagram.to_vec()));
                    })
                    .unwrap();
            }
            assert!(found == wanted);
        }
    }
}
