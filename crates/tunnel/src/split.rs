//! Cutting a packet that stands for several, as the kernel hands them over, into what goes on the wire.
//!
//! KERNEL: tcp_gso_segment, __udp_gso_segment and, around them, skb_udp_tunnel_segment (net/ipv4/) do the same for devices
//! that cannot; the test in `segments.rs` compares the two.

use bytes::BytesMut;

use crate::packet::{Layout, TCP, Transport, UDP, be16, fold, put16, sum};
use crate::vnet::Header;

/// TCP's flags that only the first, or only the last, of several segments has.
const FIN_AND_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// Copies a packet, or each that it stands for, to the end of `arena`, padded as WireGuard wants it, and hands it to `each`.
///
/// What is not as the header says is dropped, and `false` returned.
pub(crate) fn split(
    header: Header,
    packet: &[u8],
    mtu: usize,
    arena: &mut BytesMut,
    mut each: impl FnMut(BytesMut),
) -> bool {
    let Some(size) = header.segment() else {
        let Some(whole) = single(header, packet, mtu, arena) else { return false };
        each(whole);
        return true;
    };
    let Some(layout) = layout(header, packet) else { return false };
    let headers = &packet[..layout.payload];
    let payload = &packet[layout.payload..];
    let count = payload.len().div_ceil(size);
    for (number, part) in payload.chunks(size).enumerate() {
        arena.reserve(padded(headers.len() + part.len(), mtu));
        arena.extend_from_slice(headers);
        arena.extend_from_slice(part);
        finish(arena, &layout, header.checksum().is_some(), number, size, number + 1 == count);
        pad(arena, mtu);
        each(arena.split());
    }
    true
}

/// Returns where the headers are that each of several packets gets.
fn layout(header: Header, packet: &[u8]) -> Option<Layout> {
    let layout = if header.is_tunnelled() {
        Layout::inside(packet, header.outer_transport(), header.inner_network())?
    } else {
        Layout::read(packet, None)?
    };
    // A tunnel's own checksum would have to be completed as well: we tell the kernel that we do not.
    let outer_sum = layout.outer.and_then(|outer| be16(packet, outer.transport + 6)).unwrap_or_default();
    let agrees =
        header.checksum().is_none_or(|place| place == (layout.inner.transport, layout.checksum_at()));
    (agrees && outer_sum == 0).then_some(layout)
}

/// Copies a packet that stands for itself, and completes its checksum.
fn single(header: Header, packet: &[u8], mtu: usize, arena: &mut BytesMut) -> Option<BytesMut> {
    arena.reserve(padded(packet.len(), mtu));
    arena.extend_from_slice(packet);
    if let Some((start, at)) = header.checksum() {
        let part = arena.get_mut(start..).filter(|part| at + 2 <= start + part.len());
        let Some(part) = part else {
            arena.clear();
            return None;
        };
        // The sum of the pseudo header is there already.
        let checksum = !fold(sum(part, 0));
        let is_udp = at - start == 6;
        put16(part, at - start, if is_udp && checksum == 0 { 0xffff } else { checksum.into() });
    }
    pad(arena, mtu);
    Some(arena.split())
}

/// Makes the headers of one of several segments its own.
fn finish(segment: &mut [u8], layout: &Layout, summed: bool, number: usize, size: usize, last: bool) {
    if let Some(outer) = layout.outer {
        outer.count(segment, number);
        outer.set_length(segment);
        put16(segment, outer.transport + 4, segment.len() - outer.transport);
    }
    let inner = layout.inner;
    inner.count(segment, number);
    inner.set_length(segment);
    let at = layout.checksum_at();
    let protocol = match layout.kind {
        Transport::Tcp => {
            let field = inner.transport + 4;
            let sequence = u32::from_be_bytes([
                segment[field],
                segment[field + 1],
                segment[field + 2],
                segment[field + 3],
            ]);
            // Sequence numbers wrap around; both numbers are below 64 KiB.
            let offset = u32::try_from(number * size).unwrap_or_default();
            segment[field..field + 4].copy_from_slice(&sequence.wrapping_add(offset).to_be_bytes());
            let flags = &mut segment[inner.transport + 13];
            *flags &= if last { !0 } else { !FIN_AND_PSH };
            *flags &= if number == 0 { !0 } else { !CWR };
            TCP
        }
        Transport::Udp => {
            put16(segment, inner.transport + 4, segment.len() - inner.transport);
            if !summed && be16(segment, at) == Some(0) {
                return;
            }
            UDP
        }
    };
    put16(segment, at, 0);
    let pseudo = inner.pseudo(segment, protocol, segment.len() - inner.transport);
    let checksum = !fold(sum(&segment[inner.transport..], pseudo));
    // UDP's zero means that there is none (RFC 768).
    put16(segment, at, if checksum == 0 && protocol == UDP { 0xffff } else { checksum.into() });
}

/// Returns the length a packet is padded to: a multiple of 16, and not beyond the MTU (white paper, section 5.4.6).
fn padded(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(16).min(mtu).max(length)
}

fn pad(arena: &mut BytesMut, mtu: usize) {
    arena.resize(padded(arena.len(), mtu), 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::merge::tests::stream;
    use crate::packet;

    proptest! {
        /// Hostile headers and packets.
        #[test]
        fn any_bytes_are_split_without_a_panic(
            head in proptest::array::uniform24(any::<u8>()),
            small in proptest::array::uniform4(0u8..128),
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            tame in any::<bool>(),
        ) {
            let mut head = head;
            if tame {
                (head[3], head[5], head[7], head[9], head[21], head[23]) = (0, 0, 0, 0, 0, 0);
                (head[6], head[8], head[20], head[22]) = (small[0], 16, small[1], small[2]);
                if let Some(byte) = bytes.first_mut() {
                    *byte = if small[3] < 64 { 0x45 } else { 0x60 };
                }
            }
            let mut arena = BytesMut::new();
            split(Header::read(&head), &bytes, 1420, &mut arena, |part| assert!(part.len() <= 416));
        }
    }

    #[test]
    fn what_is_cut_has_right_sums_and_lengths() {
        for (number, case) in stream::cases().into_iter().enumerate() {
            let segments = stream::segments(&case, 5, 1000);
            let merged = stream::merged(&case, &segments);
            let mut arena = BytesMut::new();
            let mut cut = Vec::new();
            assert!(split(merged.0, &merged.1, 9000, &mut arena, |part| cut.push(part)), "{number}");
            for (part, original) in cut.iter().zip(&segments) {
                let length = packet::length(part).unwrap();
                assert_eq!(&part[..length], &original[..], "case {number}");
                assert!(part.len() % 16 == 0 && part[length..].iter().all(|byte| *byte == 0));
            }
            assert_eq!(cut.len(), segments.len());
        }
    }

    #[test]
    fn padding_ends_at_the_mtu() {
        assert_eq!(
            (padded(1410, 1420), padded(1419, 1420), padded(1500, 1420), padded(0, 1420)),
            (1420, 1420, 1500, 0)
        );
    }
}
