//! A list as the kernel sends it: in several datagrams, up to an end that says whether all of it has come.

use netlink_packet_core::NLM_F_DUMP_INTR;
use nix::errno::Errno;
use nix::libc;

use crate::message::{Messages, NLMSG_DONE, NLMSG_ERROR, error_code};

/// What has come of a list.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    /// The number of the question; what answers another one is passed over.
    sequence: u32,
    found: Vec<T>,
    torn: bool,
}

/// How a list has ended.
#[derive(Debug, PartialEq)]
pub(crate) enum End<T> {
    /// All of it has come.
    Whole(Vec<T>),
    /// It changed while it was read, so that some of it may be missing.
    Torn,
    /// The kernel has broken it off, or not begun it.
    Refused(Errno),
    /// It cannot be read.
    Strange,
}

impl<T> Listing<T> {
    /// Returns the list that answers the question of this number.
    pub(crate) fn new(sequence: u32) -> Self {
        Self { sequence, found: Vec::new(), torn: false }
    }

    /// Adds what `read` makes of a datagram. Returns the list when that was its end.
    ///
    /// KERNEL: what breaks off a list after its beginning is said by its end, the message that says that all is well, too
    /// (netlink_dump_done, net/netlink/af_netlink.c).
    pub(crate) fn add(&mut self, datagram: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<End<T>> {
        for message in Messages(datagram) {
            let Some((header, body)) = message else { return Some(End::Strange) };
            // What an exchange before this one has left, when it failed.
            if header.sequence != self.sequence {
                continue;
            }
            self.torn |= header.flags & NLM_F_DUMP_INTR != 0;
            match (header.kind, error_code(body)) {
                (NLMSG_DONE, 0) if self.torn => return Some(End::Torn),
                (NLMSG_DONE, 0) => return Some(End::Whole(std::mem::take(&mut self.found))),
                // A set that went meanwhile has no elements, and neither has one that never was.
                (NLMSG_DONE | NLMSG_ERROR, libc::ENOENT) => return Some(End::Whole(Vec::new())),
                (NLMSG_DONE | NLMSG_ERROR, errno) => return Some(End::Refused(Errno::from_raw(errno))),
                _ => self.found.extend(read(body)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: u32 = 7;
    /// NFT_MSG_NEWRULE of NFNL_SUBSYS_NFTABLES.
    const RULE: u16 = 10 << 8 | 6;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Netfilter's header and one byte that is read.
    fn object(number: u8) -> Vec<u8> {
        message(RULE, 2, NUMBER, &[1, 0, 0, 0, number, 0, 0, 0])
    }

    fn done(code: i32) -> Vec<u8> {
        message(NLMSG_DONE, 2, NUMBER, &code.to_ne_bytes())
    }

    /// Reads datagrams up to the end.
    fn end(datagrams: &[Vec<u8>]) -> Option<End<u8>> {
        let mut listing = Listing::new(NUMBER);
        datagrams.iter().find_map(|bytes| listing.add(bytes, |body| body.first().copied()))
    }

    #[test]
    fn a_list_is_whole_only_when_its_end_says_so() {
        assert_eq!(end(&[object(1), object(2), done(0)]), Some(End::Whole(vec![1, 2])));
        assert_eq!(end(&[[object(1), done(0)].concat()]), Some(End::Whole(vec![1])));
        assert_eq!(end(&[object(1), object(2)]), None);
        // An old kernel's end has no code.
        assert_eq!(end(&[object(1), message(NLMSG_DONE, 2, NUMBER, &[])]), Some(End::Whole(vec![1])));
    }

    #[test]
    fn a_list_that_is_broken_off_is_refused() {
        for errno in [Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN, Errno::EIO] {
            let code = -(errno as i32);
            assert_eq!(end(&[object(1), done(code)]), Some(End::Refused(errno)));
            let refusal = message(NLMSG_ERROR, 0, NUMBER, &[&code.to_ne_bytes()[..], &[0; 16]].concat());
            assert_eq!(end(&[refusal]), Some(End::Refused(errno)));
        }
    }

    #[test]
    fn what_is_not_there_has_no_elements() {
        let missing = -(Errno::ENOENT as i32);
        assert_eq!(end(&[object(1), done(missing)]), Some(End::Whole(Vec::new())));
        let refusal = message(NLMSG_ERROR, 0, NUMBER, &[&missing.to_ne_bytes()[..], &[0; 16]].concat());
        assert_eq!(end(&[refusal]), Some(End::Whole(Vec::new())));
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_torn_wherever_it_says_so() {
        let torn = |mut bytes: Vec<u8>| {
            bytes[6..8].copy_from_slice(&(2 | NLM_F_DUMP_INTR).to_ne_bytes());
            bytes
        };
        assert_eq!(end(&[torn(object(1)), object(2), done(0)]), Some(End::Torn));
        assert_eq!(end(&[object(1), torn(done(0))]), Some(End::Torn));
        let code = -(Errno::ENOMEM as i32);
        assert_eq!(end(&[torn(object(1)), done(code)]), Some(End::Refused(Errno::ENOMEM)));
    }

    #[test]
    fn answers_to_others_neither_end_a_list_nor_tear_it() {
        let other = |kind, flags, body: &[u8]| message(kind, flags, NUMBER - 1, body);
        let code = (-(Errno::ENOENT as i32)).to_ne_bytes();
        let stale = [
            other(RULE, 2 | NLM_F_DUMP_INTR, &[1, 0, 0, 0, 9, 0, 0, 0]),
            other(NLMSG_ERROR, 0, &[&code[..], &[0; 16]].concat()),
            other(NLMSG_DONE, 2, &[0; 4]),
        ];
        assert_eq!(end(&[stale.concat(), object(1), done(0)]), Some(End::Whole(vec![1])));
    }

    #[test]
    fn half_a_message_is_no_end() {
        let whole = [object(1), done(0)].concat();
        for length in 1..whole.len() {
            let found = end(&[whole[..length].to_vec()]);
            let is_between = length == object(1).len();
            assert_eq!(found, if is_between { None } else { Some(End::Strange) }, "cut at {length}");
        }
    }
}
