//! Reading IP packets as they pass: where their headers are, and their checksums.
//!
//! Total: any bytes give a layout or nothing. Packets come from containers and from other hosts.

/// IPv4's number of TCP and IPv6's, too.
pub(crate) const TCP: u8 = 6;
/// The number of UDP.
pub(crate) const UDP: u8 = 17;

const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
/// VXLAN's header (RFC 7348, section 5) and the Ethernet header that follows it.
const VXLAN_AND_ETHERNET: usize = 8 + 14;

/// What a stack of headers ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// An IP header and the transport header behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    /// Where the IP header begins.
    pub(crate) at: usize,
    /// Whether it is IPv6's.
    pub(crate) v6: bool,
    /// Where the transport header begins.
    pub(crate) transport: usize,
}

/// Where the headers of a packet are: one IP packet, or one that VXLAN carries inside another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The packet outside, whose transport is UDP, if there is VXLAN.
    pub(crate) outer: Option<Ip>,
    /// The packet inside, or the only one.
    pub(crate) inner: Ip,
    /// Its transport.
    pub(crate) kind: Transport,
    /// Where what it carries begins.
    pub(crate) payload: usize,
}

impl Layout {
    /// Reads a packet whose UDP datagrams to `vxlan`, if any do, carry VXLAN; nothing for what is neither TCP nor UDP, for
    /// fragments, and for what does not end where its headers say.
    pub(crate) fn read(packet: &[u8], vxlan: Option<u16>) -> Option<Self> {
        let (ip, protocol) = Ip::read(packet, 0)?;
        if protocol == UDP && vxlan.is_some() && be16(packet, ip.transport + 2) == vxlan {
            let inside = ip.transport + UDP_HEADER + VXLAN_AND_ETHERNET;
            let (inner, protocol) = Ip::read(packet, inside)?;
            // Flags: the VNI is valid, and no extension is in use. The type of the frame says what Ip::read has read.
            let plain = packet.get(ip.transport + UDP_HEADER..)?.starts_with(&[8, 0, 0, 0]);
            let kind = be16(packet, inside - 2)?;
            if !plain || kind != if inner.v6 { 0x86dd } else { 0x0800 } {
                return None;
            }
            return Self::ending(packet, Some(ip), inner, protocol);
        }
        Self::ending(packet, None, ip, protocol)
    }

    /// Reads a packet that a tunnel over UDP carries, whose headers begin where the kernel says.
    pub(crate) fn inside(packet: &[u8], outer_transport: usize, inner_network: usize) -> Option<Self> {
        let (outer, protocol) = Ip::read(packet, 0)?;
        let sound = protocol == UDP
            && outer.transport == outer_transport
            && inner_network >= outer_transport + UDP_HEADER;
        let (inner, protocol) = sound.then(|| Ip::read(packet, inner_network))??;
        Self::ending(packet, Some(outer), inner, protocol)
    }

    fn ending(packet: &[u8], outer: Option<Ip>, inner: Ip, protocol: u8) -> Option<Self> {
        let (kind, length) = match protocol {
            TCP => (Transport::Tcp, usize::from(packet.get(inner.transport + 12)? >> 4) * 4),
            UDP => (Transport::Udp, UDP_HEADER),
            _ => return None,
        };
        let payload = inner.transport + length;
        let least = if kind == Transport::Tcp { 20 } else { UDP_HEADER };
        (length >= least && payload <= packet.len()).then_some(Self { outer, inner, kind, payload })
    }

    /// Returns whether the lengths in the headers are those of the packet.
    pub(crate) fn is_whole(&self, packet: &[u8]) -> bool {
        let udp =
            |ip: &Ip| be16(packet, ip.transport + 4).map(usize::from) == Some(packet.len() - ip.transport);
        let inner = self.inner.length(packet) == Some(packet.len() - self.inner.at);
        let inner_udp = self.kind != Transport::Udp || udp(&self.inner);
        let outer = self.outer.is_none_or(|outer| outer.length(packet) == Some(packet.len()) && udp(&outer));
        inner && inner_udp && outer
    }

    /// Returns where the transport's checksum is.
    pub(crate) fn checksum_at(&self) -> usize {
        self.inner.transport + if self.kind == Transport::Tcp { 16 } else { 6 }
    }
}

impl Ip {
    /// Reads an IP header and the number of what follows it. A fragment has no transport header to speak of, and an IPv6
    /// header with extensions is left alone.
    fn read(packet: &[u8], at: usize) -> Option<(Self, u8)> {
        let first = *packet.get(at)?;
        match first >> 4 {
            4 => {
                let length = usize::from(first & 0xf) * 4;
                let fragment = be16(packet, at + 6)? & 0x3fff != 0;
                let protocol = *packet.get(at + 9)?;
                let ip = Self { at, v6: false, transport: at + length };
                (length >= 20 && !fragment && packet.len() >= at + length).then_some((ip, protocol))
            }
            6 => {
                let protocol = *packet.get(at + 6)?;
                let ip = Self { at, v6: true, transport: at + IPV6_HEADER };
                (packet.len() >= ip.transport).then_some((ip, protocol))
            }
            _ => None,
        }
    }

    /// Returns the length that the header says the packet has, this header included.
    pub(crate) fn length(&self, packet: &[u8]) -> Option<usize> {
        if self.v6 {
            Some(usize::from(be16(packet, self.at + 4)?) + IPV6_HEADER)
        } else {
            be16(packet, self.at + 2).map(usize::from)
        }
    }

    /// Writes the length of a packet that ends where `packet` does; IPv4 gets its checksum, too.
    pub(crate) fn set_length(&self, packet: &mut [u8]) {
        self.set_end(packet, packet.len());
    }

    /// As [`Ip::set_length`], for a packet that ends at `end` although `packet` holds only the beginning of it.
    pub(crate) fn set_end(&self, packet: &mut [u8], end: usize) {
        let length = end - self.at;
        if self.v6 {
            put16(packet, self.at + 4, length - IPV6_HEADER);
        } else {
            put16(packet, self.at + 2, length);
            self.set_checksum(packet);
        }
    }

    /// Adds to IPv4's identification, which comes before [`Ip::set_length`]; IPv6 has none.
    pub(crate) fn count(&self, packet: &mut [u8], by: usize) {
        if !self.v6 {
            let id = usize::from(be16(packet, self.at + 4).unwrap_or_default());
            put16(packet, self.at + 4, id.wrapping_add(by));
        }
    }

    fn set_checksum(&self, packet: &mut [u8]) {
        put16(packet, self.at + 10, 0);
        let checksum = !fold(sum(&packet[self.at..self.transport], 0));
        packet[self.at + 10..self.at + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Returns the sum of the pseudo header for `length` bytes of a transport (RFC 9293, section 3.1; RFC 8200, section 8.1).
    pub(crate) fn pseudo(&self, packet: &[u8], protocol: u8, length: usize) -> u64 {
        let addresses = if self.v6 { self.at + 8..self.at + 40 } else { self.at + 12..self.at + 20 };
        sum(packet.get(addresses).unwrap_or_default(), 0) + u64::from(protocol) + length as u64
    }
}

/// Reads two bytes as a number.
pub(crate) fn be16(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

/// Writes the low two bytes of a number.
pub(crate) fn put16(packet: &mut [u8], at: usize, value: usize) {
    let [.., high, low] = value.to_be_bytes();
    packet[at..at + 2].copy_from_slice(&[high, low]);
}

/// Returns the destination of an IP packet, as bits of an IPv6 address (IPv4 mapped), and whether it is one at all.
pub(crate) fn destination(packet: &[u8]) -> Option<u128> {
    address(packet, 16, 24)
}

/// Returns the source of an IP packet, as bits of an IPv6 address (IPv4 mapped).
pub(crate) fn source(packet: &[u8]) -> Option<u128> {
    address(packet, 12, 8)
}

fn address(packet: &[u8], v4: usize, v6: usize) -> Option<u128> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let octets: &[u8; 4] = packet.get(v4..)?.first_chunk()?;
            Some(std::net::Ipv4Addr::from(*octets).to_ipv6_mapped().to_bits())
        }
        6 if packet.len() >= IPV6_HEADER => packet.get(v6..)?.first_chunk().copied().map(u128::from_be_bytes),
        _ => None,
    }
}

/// Returns the length that an IP packet's header says it has: what comes after is padding.
pub(crate) fn length(packet: &[u8]) -> Option<usize> {
    let v6 = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => false,
        6 if packet.len() >= IPV6_HEADER => true,
        _ => return None,
    };
    let least = if v6 { IPV6_HEADER } else { 20 };
    Ip { at: 0, v6, transport: 0 }.length(packet).filter(|length| (least..=packet.len()).contains(length))
}

/// Adds 16-bit words, the first byte of each the higher; an odd byte at the end is a high one.
///
/// Words are added in the machine's order and eight bytes at a time, and turned round at the end (RFC 1071, section 2).
pub(crate) fn sum(bytes: &[u8], start: u64) -> u64 {
    // Four sums of 32-bit halves: nothing overflows before 2^33 bytes, and the compiler makes vectors of it.
    let mut lanes = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, last) = rest.as_chunks::<2>();
    total += words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
    if let [byte] = last {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    start + u64::from(u16::from_be(fold(total)))
}

/// Folds a sum into 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // At most 0xffff, by the loop.
    (sum & 0xffff) as u16
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sum as RFC 1071 writes it down.
    fn plainly(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    /// Says whether every checksum of a packet is right, one that is not there included.
    pub(crate) fn is_right(packet: &[u8], layout: &Layout) -> bool {
        let header = |ip: &Ip| ip.v6 || fold(sum(&packet[ip.at..ip.transport], 0)) == 0xffff;
        let transport = |ip: &Ip, protocol| {
            let part = &packet[ip.transport..];
            fold(ip.pseudo(packet, protocol, part.len()) + sum(part, 0)) == 0xffff
        };
        let number = if layout.kind == Transport::Tcp { TCP } else { UDP };
        let outer = layout.outer.is_none_or(|outer| {
            header(&outer) && (be16(packet, outer.transport + 6) == Some(0) || transport(&outer, UDP))
        });
        outer && header(&layout.inner) && transport(&layout.inner, number)
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_plain_one(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(fold(sum(&bytes, 0)), plainly(&bytes));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 0u8..2) {
            if let Some(byte) = bytes.first_mut() {
                *byte = if first == 0 { 0x45 } else { 0x60 };
            }
            if let Some(byte) = bytes.get_mut(if first == 0 { 9 } else { 6 }) {
                *byte = if *byte < 128 { UDP } else { TCP };
            }
            for port in [None, Some(0), be16(&bytes, 42), be16(&bytes, 22)] {
                if let Some(layout) = Layout::read(&bytes, port) {
                    prop_assert!(layout.payload <= bytes.len());
                    layout.is_whole(&bytes);
                }
            }
            length(&bytes);
            source(&bytes);
            destination(&bytes);
        }
    }
}
