//! Reading netlink messages and attributes. Total: any bytes give an answer or an error, never a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::libc;

use crate::Error;

/// The bits of an attribute's type that are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const TYPE_MASK: u16 = 0x3fff;

/// The length of a netlink message's header.
const HEADER: usize = 16;

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Reads the messages of one datagram. A malformed one is the last.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Error>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = message(rest);
        rest = match &message {
            Ok((_, length)) => rest.get(length.next_multiple_of(4)..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(message.map(|(message, _)| message))
    })
}

fn message(bytes: &[u8]) -> Result<(Message<'_>, usize), Error> {
    let short = Error::Malformed("a message is cut short");
    let length = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| (HEADER..=bytes.len()).contains(length)) else {
        return Err(short);
    };
    match (u16_at(bytes, 4), u16_at(bytes, 6), u32_at(bytes, 8), bytes.get(HEADER..length)) {
        (Some(kind), Some(flags), Some(sequence), Some(payload)) => {
            Ok((Message { kind, flags, sequence, payload }, length))
        }
        _ => Err(short),
    }
}

/// Reads attributes: their types without flags, and their values. Whatever follows a malformed one is ignored.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

impl Message<'_> {
    /// Reads an NLMSG_ERROR or NLMSG_DONE: nothing for an acknowledgement, else the refusal.
    pub(crate) fn verdict(&self) -> Result<(), Error> {
        const NLM_F_CAPPED: u16 = 0x100;
        const NLM_F_ACK_TLVS: u16 = 0x200;
        const NLMSGERR_ATTR_MSG: u16 = 1;

        // An NLMSG_DONE of old kernels has no code.
        let code = u32_at(self.payload, 0).unwrap_or_default().cast_signed();
        if code == 0 {
            return Ok(());
        }
        // The refused request follows the code: its header alone if capped, all of it if not.
        let request = match (i32::from(self.kind) == libc::NLMSG_DONE, self.flags & NLM_F_CAPPED != 0) {
            (true, _) => 0,
            (false, true) => HEADER,
            (false, false) => {
                u32_at(self.payload, 4).and_then(|length| usize::try_from(length).ok()).unwrap_or(HEADER)
            }
        };
        let details = match self.flags & NLM_F_ACK_TLVS {
            0 => &[],
            _ => self.payload.get(request.next_multiple_of(4).saturating_add(4)..).unwrap_or_default(),
        };
        let message =
            attributes(details).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, text)| string(text));
        Err(Error::Refused { errno: Errno::from_raw(code.saturating_neg()), message })
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

/// Reads text up to its NUL.
pub(crate) fn string(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Reads an IPv4 or IPv6 address, told apart by length.
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk().map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).into()),
        16 => bytes.first_chunk().map(|octets: &[u8; 16]| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal of EEXIST with the kernel's text, as `NETLINK_EXT_ACK` and `NETLINK_CAP_ACK` make it.
    fn refusal() -> Vec<u8> {
        let text = b"Address already assigned\0";
        let mut bytes = Vec::new();
        let attribute = 4 + text.len();
        let length = HEADER + 4 + HEADER + attribute.next_multiple_of(4);
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&2u16.to_ne_bytes());
        bytes.extend_from_slice(&0x300u16.to_ne_bytes());
        bytes.extend_from_slice(&7u32.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&(-17i32).to_ne_bytes());
        bytes.extend_from_slice(&[0; HEADER]);
        bytes.extend_from_slice(&u16::try_from(attribute).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&1u16.to_ne_bytes());
        bytes.extend_from_slice(text);
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let bytes = refusal();
        let message = messages(&bytes).next().unwrap().unwrap();
        assert_eq!((message.kind, message.sequence), (2, 7));
        let error = message.verdict().unwrap_err();
        assert!(error.is_exists());
        assert_eq!(error.to_string(), "file exists: Address already assigned");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let original = refusal();
        let read = |bytes: &[u8]| {
            for message in messages(bytes).flatten() {
                drop(message.verdict());
                attributes(message.payload).for_each(drop);
            }
        };
        for end in 0..original.len() {
            read(&original[..end]);
        }
        // Every byte takes every value that lengths trip over.
        for position in 0..original.len() {
            for value in [0, 1, 3, 4, 15, 16, 17, 0x7f, 0x80, 0xff] {
                let mut bytes = original.clone();
                bytes[position] = value;
                read(&bytes);
            }
        }
    }

    #[test]
    fn a_message_that_claims_too_much_is_an_error_and_the_last() {
        let mut bytes = refusal();
        bytes[0] = 0xff;
        let all: Vec<_> = messages(&bytes).collect();
        assert!(matches!(all.as_slice(), [Err(Error::Malformed(_))]));
    }
}
