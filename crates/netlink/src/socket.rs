//! The blocking socket.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as Raw, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use weft_model::IfName;

use crate::Error;
use crate::batch::{Batch, Replies, Reply, Request};
use crate::link::{LinkInfo, get};
use crate::listing::Listing;
use crate::wire::{Message, messages};

/// What one receive can hold. KERNEL: a dump comes in pieces of at most 32 KiB (netlink_dump, net/netlink/af_netlink.c).
const BUFFER: usize = 32 * 1024;

/// How many requests travel at once. Refusals queue up in the socket until we read them; this many
/// fit its default buffer with room to spare.
const CHUNK: usize = 64;

/// How often a dump is repeated that changed while it was read.
const DUMP_ATTEMPTS: usize = 5;

/// A netlink socket of the network namespace it was opened in.
pub struct Socket {
    raw: Raw,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Socket").field("fd", &self.raw.as_raw_fd()).finish_non_exhaustive()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn open() -> Result<Self, Error> {
        Self::of(NETLINK_ROUTE)
    }

    /// Opens a socket of another netlink protocol.
    pub(crate) fn of(protocol: isize) -> Result<Self, Error> {
        let raw = Raw::new(protocol).map_err(Error::socket("open"))?;
        // Each of these is a courtesy of newer kernels: without it we work, with less said in errors.
        drop(raw.set_cap_ack(true));
        drop(raw.set_ext_ack(true));
        // Since Linux 4.20; without it the kernel ignores what dumps filter by, so readers filter again.
        drop(raw.set_netlink_get_strict_chk(true));
        Ok(Self { raw, sequence: 1, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Subscribes to multicast groups, a bit mask of `RTMGRP_*`.
    pub(crate) fn subscribe(&mut self, groups: i32) -> Result<(), Error> {
        let address = SocketAddr::new(0, groups.cast_unsigned());
        self.raw.bind(&address).map_err(Error::socket("subscribe"))
    }

    /// Lets nobody wait for announcements: where there are none, reading fails with EAGAIN.
    pub(crate) fn set_non_blocking(&self) -> Result<(), Error> {
        self.raw.set_non_blocking(true).map_err(Error::socket("set up"))
    }

    /// Sends the requests and returns the kernel's answers.
    ///
    /// # Errors
    ///
    /// When the socket fails. What the kernel refuses is in the answers.
    pub fn call(&mut self, batch: &mut Batch) -> Result<Replies, Error> {
        let mut replies = Vec::with_capacity(batch.len());
        while replies.len() < batch.len() {
            let range = replies.len()..batch.len().min(replies.len() + CHUNK);
            replies.append(&mut self.exchange(batch, range)?);
        }
        Ok(Replies(replies))
    }

    /// Sends one request and returns the kernel's answer.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or the socket's failure.
    pub fn request(&mut self, request: Request) -> Result<Reply, Error> {
        let mut batch = Batch::new();
        let ticket = batch.push(request);
        self.call(&mut batch)?.of(ticket).cloned()
    }

    /// Returns a link, or nothing if there is none.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or the socket's failure.
    pub fn link(&mut self, request: Request) -> Result<Option<LinkInfo>, Error> {
        match self.request(request) {
            Ok(reply) => reply.link().map(Some),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the link that a request has created.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or the socket's failure.
    pub fn created(&mut self, reply: &Reply, name: &IfName) -> Result<LinkInfo, Error> {
        // KERNEL: RTM_NEWLINK honours NLM_F_ECHO since Linux 6.2; before, the link has to be asked for.
        if reply.0.is_some() {
            return reply.link();
        }
        self.link(get(name))?.ok_or(Error::refused(Errno::ENODEV))
    }

    /// Sends a part of a batch and collects the answers up to the last request's.
    ///
    /// Only the last is acknowledged: the kernel works in order and reports every refusal, so a
    /// request without an answer by then was granted.
    fn exchange(
        &mut self,
        batch: &mut Batch,
        range: Range<usize>,
    ) -> Result<Vec<Result<Reply, Error>>, Error> {
        let first = self.sequence;
        let count = range.len();
        self.send(batch.numbered(range, first))?;
        let mut replies = vec![Ok(Reply::default()); count];
        let mut open = true;
        while open {
            self.receive(|message| {
                // An answer to nobody here is one to an exchange that failed half-way.
                let Some(position) = position(message.sequence, first, count) else { return Ok(()) };
                if i32::from(message.kind) == libc::NLMSG_ERROR {
                    if let Err(error) = message.verdict() {
                        replies[position] = Err(error);
                    }
                    open &= position + 1 != count;
                } else if let Ok(reply) = &mut replies[position] {
                    reply.0 = Some(message.payload.to_vec());
                }
                Ok(())
            })?;
        }
        Ok(replies)
    }

    /// Sends a dump request and hands each message's payload to `visit`.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, or the socket's failure.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if self.dump_once(request.clone(), &mut |payload| found.extend(read(payload)))? {
                return Ok(found);
            }
        }
        Err(Error::refused(Errno::EINTR))
    }

    /// Sends a dump request and returns the first thing found, without reading the rest.
    ///
    /// The rest stays in the socket, which therefore goes.
    pub(crate) fn find<T>(
        mut self,
        request: &Request,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut batch = Batch::new();
            batch.push(request.clone());
            let first = self.sequence;
            self.send(batch.numbered(0..1, first))?;
            let (mut listing, mut found) = (Listing::new(first), None);
            while listing.is_open() && found.is_none() {
                self.receive(|message| {
                    listing.add(message, &mut |payload| found = found.take().or_else(|| read(payload)));
                    Ok(())
                })?;
            }
            if found.is_some() {
                return Ok(found);
            }
            if listing.whole()? {
                return Ok(None);
            }
        }
        Err(Error::refused(Errno::EINTR))
    }

    /// Dumps once; returns whether nothing changed meanwhile.
    fn dump_once(&mut self, request: Request, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Error> {
        let mut batch = Batch::new();
        batch.push(request);
        let first = self.sequence;
        self.send(batch.numbered(0..1, first))?;
        self.read_dump(first, visit)
    }

    /// Sends a request that is no message of rtnetlink, as bytes that are given their sequence number here, and returns what
    /// `read` makes of the answers.
    pub(crate) fn list<T>(
        &mut self,
        request: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            let first = self.sequence;
            let mut numbered = request.to_vec();
            // What is left over from a request that ended early has another number (struct nlmsghdr, nlmsg_seq).
            if let Some(sequence) = numbered.get_mut(8..12) {
                sequence.copy_from_slice(&first.to_ne_bytes());
            }
            self.send(&numbered)?;
            if self.read_dump(first, &mut |payload| found.extend(read(payload)))? {
                return Ok(found);
            }
        }
        Err(Error::refused(Errno::EINTR))
    }

    fn read_dump(&mut self, first: u32, visit: &mut dyn FnMut(&[u8])) -> Result<bool, Error> {
        let mut listing = Listing::new(first);
        while listing.is_open() {
            self.receive(|message| {
                listing.add(message, visit);
                Ok(())
            })?;
        }
        listing.whole()
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(u32::try_from(CHUNK).unwrap_or(u32::MAX)).max(1);
        loop {
            match self.raw.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket("send to")(error)),
            }
        }
    }

    /// Receives one datagram and visits its messages.
    pub(crate) fn receive(
        &mut self,
        mut visit: impl FnMut(Message<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.buffer.clear();
        let (length, sender) = loop {
            match self.raw.recv_from(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(received) => break received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::socket("receive from")(error)),
            }
        };
        // Anybody may send to a netlink socket; only port 0 is the kernel.
        if sender.port_number() != 0 {
            return Ok(());
        }
        if length > self.buffer.len() {
            return Err(Error::Malformed("a datagram is larger than the kernel promises"));
        }
        messages(&self.buffer).try_for_each(|message| visit(message?))
    }
}

/// Returns which of `count` requests numbered from `first` has this number.
fn position(sequence: u32, first: u32, count: usize) -> Option<usize> {
    usize::try_from(sequence.wrapping_sub(first)).ok().filter(|position| *position < count)
}
