//! A list as the kernel sends it: message by message, up to an end that says whether all of it has come.

use nix::libc;

use crate::Error;
use crate::wire::Message;

/// It changed while it was read (linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;

/// How far a list has come.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The number of the question; what answers another one is passed over.
    sequence: u32,
    torn: bool,
    end: Option<Result<(), Error>>,
}

impl Listing {
    /// Returns the list that answers the question of this number.
    pub(crate) fn new(sequence: u32) -> Self {
        Self { sequence, torn: false, end: None }
    }

    /// Hands an object's payload to `visit`, and notices the end.
    pub(crate) fn add(&mut self, message: Message<'_>, visit: &mut dyn FnMut(&[u8])) {
        if message.sequence != self.sequence || self.end.is_some() {
            return;
        }
        self.torn |= message.flags & NLM_F_DUMP_INTR != 0;
        match i32::from(message.kind) {
            // KERNEL: what breaks off a list after its beginning is said by its end (netlink_dump_done, net/netlink/af_netlink.c).
            libc::NLMSG_DONE | libc::NLMSG_ERROR => self.end = Some(message.verdict()),
            _ => visit(message.payload),
        }
    }

    /// Returns whether more is to come.
    pub(crate) fn is_open(&self) -> bool {
        self.end.is_none()
    }

    /// Returns whether all of it has come: not if it changed meanwhile, so that something may be missing.
    ///
    /// # Errors
    ///
    /// The kernel's refusal to begin it, or to go on.
    pub(crate) fn whole(self) -> Result<bool, Error> {
        self.end.unwrap_or(Err(Error::Malformed("a list has no end"))).map(|()| !self.torn)
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    const NUMBER: u32 = 7;

    /// The flags and the payload of the messages of one list.
    fn whole(messages: &[(i32, u16, u32, &[u8])]) -> Result<(bool, usize), Error> {
        let mut listing = Listing::new(NUMBER);
        let mut visited = 0;
        for (kind, flags, sequence, payload) in messages {
            let kind = u16::try_from(*kind).unwrap();
            let message = Message { kind, flags: *flags, sequence: *sequence, payload };
            listing.add(message, &mut |_| visited += 1);
        }
        listing.whole().map(|whole| (whole, visited))
    }

    #[test]
    fn a_list_is_whole_only_when_its_end_says_so() {
        const OBJECT: (i32, u16, u32, &[u8]) = (16, 2, NUMBER, &[1]);
        let end = |code: &'static [u8], flags| (libc::NLMSG_DONE, flags, NUMBER, code);
        assert_eq!(whole(&[OBJECT, OBJECT, end(&[0; 4], 2)]), Ok((true, 2)));
        assert_eq!(whole(&[OBJECT, end(&[], 2)]), Ok((true, 1)), "an old kernel's end has no code");
        assert_eq!(whole(&[OBJECT]), Err(Error::Malformed("a list has no end")));
        for errno in [Errno::ENOMEM, Errno::EINTR] {
            let code = (-(errno as i32)).to_ne_bytes();
            for kind in [libc::NLMSG_DONE, libc::NLMSG_ERROR] {
                let refused = whole(&[OBJECT, (kind, 2, NUMBER, &code)]);
                assert_eq!(refused, Err(Error::refused(errno)), "{kind}");
            }
        }
        let torn = (16, 2 | NLM_F_DUMP_INTR, NUMBER, &[1][..]);
        assert_eq!(whole(&[torn, OBJECT, end(&[0; 4], 2)]), Ok((false, 2)));
        assert_eq!(whole(&[OBJECT, end(&[0; 4], 2 | NLM_F_DUMP_INTR)]), Ok((false, 1)));
        let stale = (libc::NLMSG_DONE, NLM_F_DUMP_INTR, NUMBER - 1, &[1, 1, 1, 1][..]);
        assert_eq!(whole(&[stale, OBJECT, end(&[0; 4], 2)]), Ok((true, 1)), "what is left over of another");
    }
}
