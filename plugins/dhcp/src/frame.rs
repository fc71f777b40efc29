//! IPv4 and UDP around a message (RFC 791, RFC 768). Total: any bytes give a message or nothing.

use std::net::Ipv4Addr;

/// The port that servers listen on.
pub(crate) const SERVER: u16 = 67;
/// The port that clients listen on.
pub(crate) const CLIENT: u16 = 68;

const UDP: u8 = 17;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// Puts a message from a client into a packet. A UDP checksum of 0 is none, which IPv4 allows.
pub(crate) fn wrap(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(UDP_HEADER + message.len()).ok()?;
    let length = udp_length.checked_add(20)?;
    let mut packet = vec![0x45, 0x10];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(CLIENT.to_be_bytes());
    packet.extend(SERVER.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(message);
    Some(packet)
}

fn checksum(header: &[u8]) -> u16 {
    let words =
        header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Returns the message in a packet from a server to a client, if it is one.
///
/// KERNEL: a packet from this machine may still lack its UDP checksum, so that of neither protocol is looked at.
pub(crate) fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let be = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    let length = usize::from(be(2)?);
    let whole = packet.get(..length)?;
    // A fragment has no whole message.
    let fragment = be(6)? & 0x3fff != 0;
    if first >> 4 != 4 || header < IP_HEADER || fragment || *packet.get(9)? != UDP {
        return None;
    }
    if be(header)? != SERVER || be(header + 2)? != CLIENT {
        return None;
    }
    let end = header + usize::from(be(header + 4)?);
    whole.get(header + UDP_HEADER..end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(message: &[u8]) -> Vec<u8> {
        let mut packet = wrap(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, message).unwrap();
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet
    }

    #[test]
    fn what_goes_in_comes_out() {
        let packet = reply(b"message");
        assert_eq!(unwrap(&packet), Some(&b"message"[..]));
        // With its checksum, a header adds up to nothing.
        assert_eq!(checksum(&packet[..20]), 0);
        // A request is none for a client, and neither is what only looks like a reply.
        assert_eq!(unwrap(&wrap(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"x").unwrap()), None);
        for (at, value) in [(0, 0x65), (0, 0x44), (6, 0x20), (9, 6), (20, 1), (23, 67), (25, 200), (2, 200)] {
            let mut wrong = packet.clone();
            wrong[at] = value;
            assert_eq!(unwrap(&wrong), None, "byte {at}");
        }
        assert_eq!(wrap(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, &[0; 70_000]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = unwrap(&bytes);
            let whole = reply(&bytes);
            prop_assert_eq!(unwrap(&whole), Some(&bytes[..]));
        }
    }
}
