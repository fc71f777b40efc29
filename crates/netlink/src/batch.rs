//! Several requests, one send.

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use nix::libc;

use crate::Error;
use crate::link::LinkInfo;

/// One request to the kernel.
#[derive(Clone, Debug)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    pub(crate) fn new(message: RouteNetlinkMessage, flags: i32) -> Self {
        // Flags of the header are 16 bits; libc has them as C ints.
        Self { message, flags: u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default() }
    }
}

/// Requests that travel together, in order. The kernel works on each even when one before it is refused.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each request starts in `bytes`.
    starts: Vec<usize>,
}

/// The right to one request's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(usize);

impl Batch {
    /// Returns a batch without requests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a request.
    pub fn push(&mut self, request: Request) -> Ticket {
        let mut message = NetlinkMessage::from(request.message);
        message.header.flags = request.flags;
        message.finalize();
        let start = self.bytes.len();
        let length = message.buffer_len();
        self.bytes.resize(start + length.next_multiple_of(4), 0);
        message.serialize(&mut self.bytes[start..start + length]);
        self.starts.push(start);
        Ticket(self.starts.len() - 1)
    }

    /// Returns whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Returns the number of requests.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Returns the bytes of the requests `range`, numbered from `sequence`; the last asks to be acknowledged.
    pub(crate) fn numbered(&mut self, range: std::ops::Range<usize>, sequence: u32) -> &[u8] {
        let starts = &self.starts[range.clone()];
        for (start, number) in starts.iter().zip(sequence..) {
            self.bytes[start + 8..start + 12].copy_from_slice(&number.to_ne_bytes());
        }
        if let Some(last) = starts.last() {
            // NLM_F_ACK is in the low byte, whichever end of the word that is.
            let mut flags = [self.bytes[last + 6], self.bytes[last + 7]];
            flags = (u16::from_ne_bytes(flags) | 4).to_ne_bytes();
            self.bytes[last + 6..last + 8].copy_from_slice(&flags);
        }
        let begin = starts.first().copied().unwrap_or_default();
        let end = self.starts.get(range.end).copied().unwrap_or(self.bytes.len());
        &self.bytes[begin..end]
    }
}

/// The kernel's answers to a batch.
#[derive(Debug)]
pub struct Replies(pub(crate) Vec<Result<Reply, Error>>);

impl Replies {
    /// Returns the answer to one request.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn of(&self, ticket: Ticket) -> Result<&Reply, Error> {
        match self.0.get(ticket.0) {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::Malformed("a ticket of another batch")),
        }
    }

    /// Returns which requests were granted, in their order.
    pub fn each(&self) -> impl Iterator<Item = Result<(), Error>> {
        self.0.iter().map(|reply| reply.as_ref().map(drop).map_err(Clone::clone))
    }

    /// Returns the first refusal.
    ///
    /// # Errors
    ///
    /// The kernel's first refusal.
    pub fn all(&self) -> Result<(), Error> {
        self.each().collect()
    }
}

/// What the kernel said to a request it granted.
#[derive(Clone, Debug, Default)]
pub struct Reply(pub(crate) Option<Vec<u8>>);

impl Reply {
    /// Reads the link that the request asked for or created.
    ///
    /// # Errors
    ///
    /// When the answer has no link.
    pub fn link(&self) -> Result<LinkInfo, Error> {
        let bytes = self.0.as_deref().ok_or(Error::Malformed("there is no answer"))?;
        LinkInfo::read(bytes).ok_or(Error::Malformed("a link lacks its index or name"))
    }
}
