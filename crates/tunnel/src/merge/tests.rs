use proptest::prelude::*;

use super::*;
use crate::packet::tests::is_right;

/// Streams of packets as a sender makes them.
pub(crate) mod stream {
    use super::*;

    /// A shape of packets.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Case {
        pub(crate) vxlan: bool,
        pub(crate) v6: bool,
        pub(crate) kind: Transport,
    }

    pub(crate) const VXLAN: u16 = 8473;
    pub(crate) const TAKES: Takes = Takes { tcp: true, udp: true, vxlan: Some(VXLAN) };

    pub(crate) fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for vxlan in [false, true] {
            for v6 in [false, true] {
                cases.extend([Transport::Tcp, Transport::Udp].map(|kind| Case { vxlan, v6, kind }));
            }
        }
        cases
    }

    /// Returns a packet with this payload, complete.
    pub(crate) fn packet(case: &Case, number: usize, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if case.vxlan {
            // From fd00::1 to fd00::2, UDP without a checksum, VXLAN, Ethernet.
            bytes.extend([0x60, 0, 0, 0, 0, 0, UDP, 64]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            bytes.extend([0xc0, 0x01, 0x21, 0x19, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0]);
            bytes.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
            bytes.extend(if case.v6 { [0x86, 0xdd] } else { [8, 0] });
        }
        let protocol = if case.kind == Transport::Tcp { TCP } else { UDP };
        if case.v6 {
            bytes.extend([0x60, 0, 0, 0, 0, 0, protocol, 64]);
            bytes.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            bytes.extend([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        } else {
            let id = u16::try_from(number + 77).unwrap().to_be_bytes();
            bytes.extend([0x45, 0, 0, 0, id[0], id[1], 0x40, 0, 64, protocol, 0, 0]);
            bytes.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        bytes.extend([0x30, 0x39, 0x14, 0x51]);
        match case.kind {
            Transport::Tcp => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend([0, 0, 0, 9, 0x80, flags, 1, 0xf6, 0, 0, 0, 0]);
                bytes.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
            }
            Transport::Udp => bytes.extend([0; 4]),
        }
        bytes.extend(payload);
        complete(&mut bytes);
        bytes
    }

    fn complete(bytes: &mut [u8]) {
        let layout = Layout::read(bytes, Some(VXLAN)).unwrap();
        if let Some(outer) = layout.outer {
            outer.set_length(bytes);
            put16(bytes, outer.transport + 4, bytes.len() - outer.transport);
        }
        let inner = layout.inner;
        inner.set_length(bytes);
        let protocol = if layout.kind == Transport::Tcp { TCP } else { UDP };
        if layout.kind == Transport::Udp {
            put16(bytes, inner.transport + 4, bytes.len() - inner.transport);
        }
        let pseudo = inner.pseudo(bytes, protocol, bytes.len() - inner.transport);
        let checksum = !fold(sum(&bytes[inner.transport..], pseudo));
        // RFC 768: zero says that there is none, and one that comes out as zero is sent as its other form.
        let none = layout.kind == Transport::Udp && checksum == 0;
        put16(bytes, layout.checksum_at(), if none { 0xffff } else { checksum.into() });
        assert!(is_right(bytes, &layout) && layout.is_whole(bytes));
    }

    /// Returns packets of one flow, the last of them shorter.
    pub(crate) fn segments(case: &Case, count: usize, size: usize) -> Vec<Vec<u8>> {
        let part = |number: usize| {
            let length = if number + 1 == count { size / 2 + 1 } else { size };
            let payload: Vec<u8> = (0..=255u8).cycle().skip(number).take(length).collect();
            let sequence = u32::MAX.wrapping_sub(1500).wrapping_add(u32::try_from(number * size).unwrap());
            let flags = if number + 1 == count { ACK | PSH } else { ACK };
            packet(case, number, sequence, flags, &payload)
        };
        (0..count).map(part).collect()
    }

    /// Returns what the merger makes of packets that become one.
    pub(crate) fn merged(case: &Case, segments: &[Vec<u8>]) -> (Header, Vec<u8>) {
        let mut merger = Merger::new(TAKES);
        for segment in segments {
            merger.push(BytesMut::from(&segment[..]));
        }
        let mut groups: Vec<_> = merger.drain().collect();
        assert_eq!(groups.len(), 1, "{case:?}");
        let (header, group) = groups.remove(0);
        (header, group.pieces().collect::<Vec<_>>().concat())
    }
}

#[test]
fn what_belongs_together_becomes_one() {
    for case in stream::cases() {
        let segments = stream::segments(&case, 4, 1200);
        let (header, bytes) = stream::merged(&case, &segments);
        assert_eq!(header.segment(), Some(1200), "{case:?}");
        assert_eq!(header.is_tunnelled(), case.vxlan);
        assert_eq!(bytes.len(), segments[0].len() + 2 * 1200 + 601);
        let layout = Layout::read(&bytes, Some(stream::VXLAN)).unwrap();
        assert!(layout.is_whole(&bytes));
    }
}

#[test]
fn what_does_not_belong_together_stays_apart() {
    let case = stream::Case { vxlan: true, v6: false, kind: Transport::Tcp };
    let count = |packets: &[Vec<u8>]| {
        let mut merger = Merger::new(stream::TAKES);
        packets.iter().for_each(|packet| merger.push(BytesMut::from(&packet[..])));
        merger.drain().count()
    };
    let first = stream::packet(&case, 0, 0, ACK, &[1; 500]);
    let next = |flags, sequence, payload: &[u8]| stream::packet(&case, 1, sequence, flags, payload);
    assert_eq!(count(&[first.clone(), next(ACK, 500, &[2; 500])]), 1);
    for (other, what) in [
        (next(ACK, 501, &[2; 500]), "a gap"),
        (next(ACK, 500, &[2; 501]), "a longer one"),
        (next(ACK | 1, 500, &[2; 500]), "FIN"),
        (next(ACK, 500, &[]), "an acknowledgement"),
        (stream::packet(&case, 3, 500, ACK, &[2; 500]), "an identification that is no next one"),
    ] {
        assert_eq!(count(&[first.clone(), other]), 2, "{what}");
    }
    let mut corrupt = next(ACK, 500, &[2; 500]);
    *corrupt.last_mut().unwrap() ^= 1;
    assert_eq!(count(&[first.clone(), corrupt]), 2, "a checksum that is wrong");
    let mut elsewhere = next(ACK, 500, &[2; 500]);
    elsewhere[54] = 9;
    assert_eq!(count(&[first.clone(), elsewhere]), 2, "another network");
    // After PSH, or a shorter one, nothing more; and nothing joins what is behind a gap.
    let third = stream::packet(&case, 2, 1000, ACK, &[3; 500]);
    assert_eq!(count(&[first.clone(), next(ACK | PSH, 500, &[2; 500]), third.clone()]), 2);
    assert_eq!(count(&[first, third, next(ACK, 500, &[2; 500])]), 3);
}

proptest! {
    /// Whatever comes in, in whatever order, comes out again when it is cut, and each flow in its order.
    #[test]
    fn what_is_joined_can_be_cut_again(
        flows in proptest::collection::vec((0usize..8, 1usize..9, 1usize..1400), 1..5),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let mut queues: Vec<Vec<Vec<u8>>> = flows.iter().enumerate().map(|(port, (case, count, size))| {
            let mut segments = stream::segments(&stream::cases()[*case], *count, *size);
            for segment in &mut segments {
                // Another port makes another flow; the checksum follows (RFC 1624).
                let layout = Layout::read(segment, Some(stream::VXLAN)).unwrap();
                put16(segment, layout.inner.transport, 12345 + port);
                let old = be16(segment, layout.checksum_at()).unwrap();
                let new = !fold(u64::from(!old) + u64::from(!12345u16) + 12345 + port as u64);
                put16(segment, layout.checksum_at(), new.into());
            }
            segments
        }).collect();
        let mut sent = Vec::new();
        for index in order {
            let queue = index.index(queues.len());
            if !queues[queue].is_empty() {
                sent.push(queues[queue].remove(0));
            }
        }
        let mut merger = Merger::new(stream::TAKES);
        sent.iter().for_each(|packet| merger.push(BytesMut::from(&packet[..])));
        let mut out = Vec::new();
        for (header, group) in merger.drain() {
            let bytes = group.pieces().collect::<Vec<_>>().concat();
            let mut arena = BytesMut::new();
            let whole = crate::split::split(header, &bytes, 0, &mut arena, |part| out.push(part.to_vec()));
            prop_assert!(whole);
        }
        let port = |packet: &[u8]| {
            let layout = Layout::read(packet, Some(stream::VXLAN)).unwrap();
            be16(packet, layout.inner.transport).unwrap()
        };
        for number in 0..flows.len() {
            let wanted = u16::try_from(12345 + number).unwrap();
            let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|packet| port(packet) == wanted).cloned().collect()
            };
            prop_assert_eq!(of(&sent), of(&out));
        }
    }
}
