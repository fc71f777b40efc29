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
pub(crate) mod tests;
