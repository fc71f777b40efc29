//! The messages in what the kernel answers.

use netlink_packet_core::NetlinkBuffer;

/// The type of an answer that is an error or an acknowledgement, and of the end of a list.
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
/// Netlink's header and netfilter's.
const HEADERS: usize = 16 + 4;

/// Returns the error number of an error message or of the end of a list, 0 for an acknowledgement.
pub(crate) fn error_code(body: &[u8]) -> i32 {
    // Neither has a netfilter header: the four bytes before the attributes are the code. An end may have none.
    body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code).saturating_neg())
}

/// What we use of a netlink header.
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
}

/// The messages in a buffer, each as its header and its attributes; `None` for a broken one.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Option<(Header, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let Ok(message) = NetlinkBuffer::new_checked(bytes) else { return Some(None) };
        let (kind, len) = (message.message_type(), message.length() as usize);
        let start = if matches!(kind, NLMSG_ERROR | NLMSG_DONE) { HEADERS - 4 } else { HEADERS };
        let header = Header { kind, flags: message.flags(), sequence: message.sequence_number() };
        self.0 = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(bytes.get(start.min(len)..len).map(|body| (header, body)))
    }
}
