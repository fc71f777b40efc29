//! Joining packets of one flow that arrived together into one that the kernel takes in a single write.
//!
//! What is joined could be cut again into exactly what came: same headers, payloads of one size with at most the last one
//! shorter, sequence numbers without a gap, and every checksum looked at before it is left out.

use bytes::BytesMut;

use crate::packet::{Layout, TCP, Transport, UDP, be16, fold, put16, sum};
use crate::vnet::Header;

/// The longest stack of headers that is compared, in bytes: more is no usual packet.
const HEADERS: usize = 192;
/// How many packets become one at most.
const PARTS: usize = 128;
/// How long one becomes at most, in bytes: lengths in headers have 16 bits.
const TOTAL: usize = 65_000;
/// How many flows are looked through for the one that a packet continues.
const FLOWS: usize = 16;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// What the device takes besides single packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Takes {
    /// TCP.
    pub(crate) tcp: bool,
    /// UDP.
    pub(crate) udp: bool,
    /// Either inside VXLAN to this port.
    pub(crate) vxlan: Option<u16>,
}

/// Packets to be written, in the order in which they came as far as each flow goes.
#[derive(Debug)]
pub(crate) struct Merger {
    takes: Takes,
    groups: Vec<Group>,
}

/// One packet, or several that become one.
#[derive(Debug)]
pub(crate) struct Group {
    first: BytesMut,
    /// What follows the first packet: payloads.
    rest: Vec<BytesMut>,
    /// Absent if the packet stays alone.
    flow: Option<Flow>,
}

#[derive(Debug)]
struct Flow {
    layout: Layout,
    /// The headers, with zeros where packets of one flow differ.
    alike: [u8; HEADERS],
    /// The payload of every packet but the last.
    size: usize,
    total: usize,
    /// TCP's next sequence number.
    next: u32,
    /// IPv4's last identifications, outside and inside.
    ids: (u16, u16),
    /// Whether the first packet's checksum was looked at.
    checked: bool,
    open: bool,
}

impl Merger {
    pub(crate) fn new(takes: Takes) -> Self {
        Self { takes, groups: Vec::new() }
    }

    /// Takes a packet, as long as its header says.
    pub(crate) fn push(&mut self, packet: BytesMut) {
        let Some(candidate) = Candidate::read(&packet, self.takes) else {
            self.groups.push(Group { first: packet, rest: Vec::new(), flow: None });
            return;
        };
        let recent = self.groups.iter_mut().rev().take(FLOWS);
        let mut same = recent.filter(|group| group.is_of(&candidate, &packet));
        // The newest of the flow; those before are over.
        if let Some(group) = same.next() {
            if group.can_take(&candidate, &packet) {
                group.take(&candidate, packet);
                return;
            }
            group.close();
        }
        self.groups.push(Group { flow: Some(candidate.flow(&packet)), first: packet, rest: Vec::new() });
    }

    /// Hands over what was taken, each with the header to be written before it.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Header, Group)> {
        self.groups.drain(..).map(|mut group| (group.finish(), group))
    }
}

/// A packet that may continue a flow.
struct Candidate {
    layout: Layout,
    alike: [u8; HEADERS],
    sequence: u32,
    pushed: bool,
    ids: (u16, u16),
}

impl Candidate {
    fn read(packet: &[u8], takes: Takes) -> Option<Self> {
        let layout = Layout::read(packet, takes.vxlan)?;
        let wanted = match layout.kind {
            Transport::Tcp => takes.tcp,
            Transport::Udp => takes.udp && be16(packet, layout.checksum_at()) != Some(0),
        };
        let plain = layout.outer.is_none_or(|outer| be16(packet, outer.transport + 6) == Some(0));
        if !wanted
            || !plain
            || layout.payload > HEADERS
            || layout.payload >= packet.len()
            || !layout.is_whole(packet)
        {
            return None;
        }
        let mut alike = [0; HEADERS];
        alike[..layout.payload].copy_from_slice(&packet[..layout.payload]);
        let mut clear = |at: usize, length: usize| alike[at..at + length].fill(0);
        let inner = layout.inner;
        for ip in layout.outer.iter().chain([&inner]) {
            if ip.v6 {
                clear(ip.at + 4, 2);
            } else {
                clear(ip.at + 2, 4);
                clear(ip.at + 10, 2);
            }
        }
        if let Some(outer) = layout.outer {
            clear(outer.transport + 4, 2);
        }
        let id = |ip: &crate::packet::Ip| if ip.v6 { 0 } else { be16(packet, ip.at + 4).unwrap_or_default() };
        let ids = (layout.outer.as_ref().map_or(0, id), id(&inner));
        let at = inner.transport;
        if layout.kind == Transport::Udp {
            clear(at + 4, 4);
            return Some(Self { layout, alike, sequence: 0, pushed: false, ids });
        }
        let flags = packet[at + 13];
        clear(at + 4, 4);
        clear(at + 13, 1);
        clear(at + 16, 2);
        let sequence = u32::from_be_bytes(packet.get(at + 4..)?.first_chunk().copied()?);
        (flags & !PSH == ACK).then_some(Self { layout, alike, sequence, pushed: flags & PSH != 0, ids })
    }

    fn flow(self, packet: &[u8]) -> Flow {
        let size = packet.len() - self.layout.payload;
        Flow {
            layout: self.layout,
            alike: self.alike,
            size,
            total: packet.len(),
            next: self.sequence.wrapping_add(u32::try_from(size).unwrap_or_default()),
            ids: self.ids,
            checked: false,
            open: !self.pushed,
        }
    }
}

impl Group {
    /// Says whether a packet is of the same flow: same addresses and ports, as far as they differ at all.
    fn is_of(&self, candidate: &Candidate, packet: &[u8]) -> bool {
        self.flow.as_ref().is_some_and(|flow| {
            let (ours, theirs) = (flow.layout, candidate.layout);
            let ports = |layout: &Layout| layout.inner.transport..layout.inner.transport + 4;
            let addresses = |layout: &Layout| {
                let inner = layout.inner;
                if inner.v6 { inner.at + 8..inner.at + 40 } else { inner.at + 12..inner.at + 20 }
            };
            ours.outer == theirs.outer
                && ours.inner == theirs.inner
                && ours.kind == theirs.kind
                && self.first[ports(&ours)] == packet[ports(&theirs)]
                && self.first[addresses(&ours)] == packet[addresses(&theirs)]
        })
    }

    fn can_take(&mut self, candidate: &Candidate, packet: &[u8]) -> bool {
        let Some(flow) = &mut self.flow else { return false };
        let size = packet.len() - candidate.layout.payload;
        let fits = flow.open
            && flow.layout == candidate.layout
            && size <= flow.size
            && flow.total + size <= TOTAL
            && self.rest.len() + 1 < PARTS
            && (flow.layout.kind == Transport::Udp || candidate.sequence == flow.next)
            && candidate.follows(flow.ids, &self.first)
            && flow.alike == candidate.alike;
        let sound = fits
            && (flow.checked || is_sound(&self.first, &flow.layout))
            && is_sound(packet, &candidate.layout);
        flow.checked |= sound;
        sound
    }

    fn take(&mut self, candidate: &Candidate, mut packet: BytesMut) {
        let Some(flow) = &mut self.flow else { return };
        let size = packet.len() - candidate.layout.payload;
        flow.total += size;
        flow.next = flow.next.wrapping_add(u32::try_from(size).unwrap_or_default());
        flow.ids = candidate.ids;
        flow.open = size == flow.size && !candidate.pushed;
        if candidate.pushed {
            self.first[flow.layout.inner.transport + 13] |= PSH;
        }
        self.rest.push(packet.split_off(candidate.layout.payload));
    }

    fn close(&mut self) {
        if let Some(flow) = &mut self.flow {
            flow.open = false;
        }
    }

    /// Makes the first packet's headers those of all.
    fn finish(&mut self) -> Header {
        let Some(flow) = self.flow.as_ref().filter(|_| !self.rest.is_empty()) else {
            return Header::default();
        };
        let (layout, total) = (flow.layout, flow.total);
        if let Some(outer) = layout.outer {
            outer.set_end(&mut self.first, total);
            put16(&mut self.first, outer.transport + 4, total - outer.transport);
        }
        let inner = layout.inner;
        inner.set_end(&mut self.first, total);
        let protocol = if layout.kind == Transport::Tcp { TCP } else { UDP };
        if layout.kind == Transport::Udp {
            put16(&mut self.first, inner.transport + 4, total - inner.transport);
        }
        // What is there before the rest is added to it: the sum of the pseudo header.
        let pseudo = fold(inner.pseudo(&self.first, protocol, total - inner.transport));
        put16(&mut self.first, layout.checksum_at(), pseudo.into());
        Header::merged(&layout, flow.size)
    }

    /// Returns the pieces, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self.first[..]).chain(self.rest.iter().map(|piece| &piece[..]))
    }
}

impl Candidate {
    /// Says whether IPv4's identifications go on where the last packet's were, or mean nothing (RFC 6864, section 4.1).
    fn follows(&self, last: (u16, u16), first: &[u8]) -> bool {
        let follows = |ip: &crate::packet::Ip, id: u16, last: u16| {
            let whole = first.get(ip.at + 6).is_some_and(|flags| flags & 0x40 != 0);
            ip.v6 || id == last.wrapping_add(1) || (whole && id == last)
        };
        let layout = self.layout;
        follows(&layout.inner, self.ids.1, last.1)
            && layout.outer.is_none_or(|outer| follows(&outer, self.ids.0, last.0))
    }
}

/// Says whether the checksums are right that the kernel will not look at.
fn is_sound(packet: &[u8], layout: &Layout) -> bool {
    let inner = layout.inner;
    let protocol = if layout.kind == Transport::Tcp { TCP } else { UDP };
    let pseudo = inner.pseudo(packet, protocol, packet.len() - inner.transport);
    let header = inner.v6 || fold(sum(&packet[inner.at..inner.transport], 0)) == 0xffff;
    let outer = layout.outer.is_none_or(|ip| ip.v6 || fold(sum(&packet[ip.at..ip.transport], 0)) == 0xffff);
    outer && header && fold(sum(&packet[inner.transport..], pseudo)) == 0xffff
}

#[cfg(test)]
pub(crate) mod tests {
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
        pub(crate) fn packet(
            case: &Case,
            number: usize,
            sequence: u32,
            flags: u8,
            payload: &[u8],
        ) -> Vec<u8> {
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
            put16(bytes, layout.checksum_at(), checksum.into());
            assert!(is_right(bytes, &layout) && layout.is_whole(bytes));
        }

        /// Returns packets of one flow, the last of them shorter.
        pub(crate) fn segments(case: &Case, count: usize, size: usize) -> Vec<Vec<u8>> {
            let part = |number: usize| {
                let length = if number + 1 == count { size / 2 + 1 } else { size };
                let payload: Vec<u8> = (0..=255u8).cycle().skip(number).take(length).collect();
                let sequence =
                    u32::MAX.wrapping_sub(1500).wrapping_add(u32::try_from(number * size).unwrap());
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
}
