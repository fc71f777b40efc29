//! Listening to what others do to the ruleset.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use crate::Error;

/// The kernel's group of announcements about tables, chains, rules and sets (linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;
/// The message types NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM and NFT_MSG_NEWGEN, of the subsystem NFNL_SUBSYS_NFTABLES.
const NEW_ELEMENT: u16 = 10 << 8 | 12;
const GONE_ELEMENT: u16 = 10 << 8 | 14;
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// Netlink's header.
const HEADER: usize = 16;
/// More than the kernel puts into one announcement (NLMSG_GOODSIZE).
const ANNOUNCEMENT: usize = 32 * 1024;

/// Announcements of changes to the nf_tables ruleset of a network namespace, whoever makes them.
///
/// `iptables` in its nf_tables flavour is among those who are heard. Of what the old `iptables-legacy`
/// does the kernel says nothing.
#[derive(Debug)]
pub struct Monitor {
    socket: netlink_sys::Socket,
    announcement: Vec<u8>,
}

impl Monitor {
    /// Subscribes to the ruleset of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] when the kernel has no nfnetlink, [`Error::Subscribe`] when it does not let us listen.
    pub fn open() -> Result<Self, Error> {
        let errno = |cause: io::Error| Errno::from_raw(cause.raw_os_error().unwrap_or_default());
        let mut socket =
            netlink_sys::Socket::new(NETLINK_NETFILTER).map_err(|cause| Error::Open(errno(cause)))?;
        let subscribe = |cause| Error::Subscribe(errno(cause));
        socket.bind_auto().map_err(subscribe)?;
        socket.add_membership(NFNLGRP_NFTABLES).map_err(subscribe)?;
        socket.set_non_blocking(true).map_err(subscribe)?;
        Ok(Self { socket, announcement: Vec::with_capacity(ANNOUNCEMENT) })
    }

    /// Reads the announcements that are there without waiting for more, and returns whether one of them tells of
    /// a change that can have taken something away or put something in the way of something.
    ///
    /// An element that was added to a set, which is all that publishing a port does, is no such change. Announcements
    /// that were lost because we were slow are one: nobody knows what they said.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the socket fails.
    pub fn changed(&mut self) -> Result<bool, Error> {
        self.read(is_change)
    }

    /// Reads them as [`Monitor::changed`] does, and returns whether one of them tells of a change of anything but the elements of
    /// sets: of which tables, chains, rules and sets there are.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the socket fails.
    pub fn rules_changed(&mut self) -> Result<bool, Error> {
        self.read(|kind| is_change(kind) && kind != GONE_ELEMENT)
    }

    fn read(&mut self, is_change: impl Fn(u16) -> bool) -> Result<bool, Error> {
        let mut changed = false;
        loop {
            self.announcement.clear();
            match self.socket.recv(&mut self.announcement, MsgFlags::MSG_DONTWAIT.bits()) {
                Ok(_) => changed |= kinds(&self.announcement).any(&is_change),
                Err(cause) => match Errno::from_raw(cause.raw_os_error().unwrap_or_default()) {
                    Errno::EAGAIN => return Ok(changed),
                    Errno::ENOBUFS => changed = true,
                    Errno::EINTR => {}
                    errno => return Err(Error::Socket(errno)),
                },
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Returns whether a datagram of announcements tells of a change.
pub(crate) fn tells_of_a_change(datagram: &[u8]) -> bool {
    kinds(datagram).any(is_change)
}

/// The number of a generation says that a transaction is complete; what it was stands in the messages before.
fn is_change(kind: u16) -> bool {
    kind != NEW_ELEMENT && kind != NEW_GENERATION
}

/// Returns the type of each message. What cannot be read ends the list with a type that is a change.
fn kinds(mut bytes: &[u8]) -> impl Iterator<Item = u16> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(bytes) else {
            bytes = &[];
            return Some(0);
        };
        let length = (message.length() as usize).max(HEADER);
        let kind = message.message_type();
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::{NEW_ELEMENT, NEW_GENERATION, tells_of_a_change};

    /// NFT_MSG_DELTABLE.
    const DELETED_TABLE: u16 = 10 << 8 | 2;

    fn message(kind: u16, payload: usize) -> Vec<u8> {
        let length = u32::try_from(16 + payload).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize((16 + payload).next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn only_what_can_break_something_is_a_change() {
        let told = |messages: &[Vec<u8>]| tells_of_a_change(&messages.concat());
        assert!(!told(&[]));
        assert!(!told(&[message(NEW_ELEMENT, 37), message(NEW_ELEMENT, 4), message(NEW_GENERATION, 20)]));
        assert!(told(&[message(NEW_ELEMENT, 37), message(DELETED_TABLE, 8), message(NEW_GENERATION, 20)]));
        assert!(told(&[message(NEW_ELEMENT, 37), vec![1, 2, 3]]), "half a message is not passed over");
        assert!(told(&[vec![0; 16]]), "a length of nothing does not hold us up");
    }
}
