//! The header that stands before every packet of a TUN device with `IFF_VNET_HDR`: what is left to be done to it.
//!
//! KERNEL: struct virtio_net_hdr_v1_hash_tunnel, include/uapi/linux/virtio_net.h; since Linux 6.17 with tunnels. Of the 24
//! bytes the first 10 are those of struct virtio_net_hdr, which is all older kernels look at.

use crate::packet::{Layout, Transport};

/// The length of the header we ask for.
pub(crate) const LENGTH: usize = 24;

/// The checksum that starts at [`Header::checksum_start`] is to be completed.
const NEEDS_CSUM: u8 = 1;

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
const TUNNEL_IPV4: u8 = 0x20;
const TUNNEL_IPV6: u8 = 0x40;

/// What a packet still needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    flags: u8,
    gso_type: u8,
    header_length: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
    outer_transport: u16,
    inner_network: u16,
}

impl Header {
    /// Reads the header in front of a packet.
    pub(crate) fn read(bytes: &[u8; LENGTH]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_length: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
            outer_transport: word(20),
            inner_network: word(22),
        }
    }

    /// Writes it. Numbers are little-endian, which we tell the device (TUNSETVNETLE).
    pub(crate) fn write(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let words = [
            (2, self.header_length),
            (4, self.gso_size),
            (6, self.checksum_start),
            (8, self.checksum_offset),
            (20, self.outer_transport),
            (22, self.inner_network),
        ];
        for (at, word) in words {
            bytes[at..at + 2].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Returns the header of the same packet when `more` bytes come to stand before it.
    pub(crate) fn pushed(self, more: u16) -> Option<Self> {
        self.moved(|at| at.checked_add(more))
    }

    /// Returns the header of the same packet when the first `fewer` bytes are taken away.
    pub(crate) fn pulled(self, fewer: u16) -> Option<Self> {
        self.moved(|at| at.checked_sub(fewer))
    }

    /// Moves the offsets that mean something.
    fn moved(self, by: impl Fn(u16) -> Option<u16>) -> Option<Self> {
        let mut header = self;
        if self.checksum().is_some() {
            header.checksum_start = by(self.checksum_start)?;
        }
        if self.segment().is_some() {
            // A hint only, and at times a wrong one.
            header.header_length = by(self.header_length).unwrap_or_default();
        }
        if self.is_tunnelled() {
            header.outer_transport = by(self.outer_transport)?;
            header.inner_network = by(self.inner_network)?;
        }
        Some(header)
    }

    /// Returns the header of a packet that is `size` bytes of payload times several, in a form the kernel may cut again.
    pub(crate) fn merged(layout: &Layout, size: usize) -> Self {
        // Offsets are in a packet of at most 64 KiB.
        let word = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        let gso_type = match (layout.kind, layout.inner.v6) {
            (Transport::Tcp, false) => GSO_TCPV4,
            (Transport::Tcp, true) => GSO_TCPV6,
            (Transport::Udp, _) => GSO_UDP_L4,
        };
        let plain = Self {
            flags: NEEDS_CSUM,
            gso_type,
            header_length: word(layout.payload),
            gso_size: word(size),
            checksum_start: word(layout.inner.transport),
            checksum_offset: word(layout.checksum_at() - layout.inner.transport),
            outer_transport: 0,
            inner_network: 0,
        };
        match layout.outer {
            None => plain,
            Some(outer) => Self {
                gso_type: gso_type | if outer.v6 { TUNNEL_IPV6 } else { TUNNEL_IPV4 },
                outer_transport: word(outer.transport),
                inner_network: word(layout.inner.at),
                ..plain
            },
        }
    }

    /// Returns how many bytes of payload each packet has that this one stands for, if it stands for several.
    pub(crate) fn segment(&self) -> Option<usize> {
        let cut = self.gso_type & !(GSO_ECN | TUNNEL_IPV4 | TUNNEL_IPV6);
        (cut != 0 && self.gso_size != 0).then_some(usize::from(self.gso_size))
    }

    /// Returns whether it stands for several that VXLAN, or another tunnel over UDP, carries.
    pub(crate) fn is_tunnelled(&self) -> bool {
        self.gso_type & (TUNNEL_IPV4 | TUNNEL_IPV6) != 0
    }

    /// Returns where the innermost transport header begins, and where in it the checksum is to be completed, if it is to be.
    pub(crate) fn checksum(&self) -> Option<(usize, usize)> {
        let (start, offset) = (usize::from(self.checksum_start), usize::from(self.checksum_offset));
        (self.flags & NEEDS_CSUM != 0).then_some((start, start + offset))
    }

    /// Returns where the inner IP header of a tunnelled packet begins.
    pub(crate) fn inner_network(&self) -> usize {
        usize::from(self.inner_network)
    }

    /// Returns where the outer UDP header of a tunnelled packet begins.
    pub(crate) fn outer_transport(&self) -> usize {
        usize::from(self.outer_transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_written_as_it_was_read() {
        let mut bytes = [0; LENGTH];
        bytes[..12].copy_from_slice(&[1, 0x41, 110, 0, 0x14, 5, 90, 0, 16, 0, 0, 0]);
        bytes[20..].copy_from_slice(&[40, 0, 70, 0]);
        let header = Header::read(&bytes);
        assert_eq!(header.segment(), Some(1300));
        assert!(header.is_tunnelled());
        assert_eq!(header.checksum(), Some((90, 106)));
        assert_eq!(header.outer_transport(), 40);
        assert_eq!(header.write(), bytes);
        let pushed = header.pushed(14).unwrap();
        assert_eq!(
            (pushed.checksum(), pushed.outer_transport(), pushed.inner_network()),
            (Some((104, 120)), 54, 84)
        );
        assert_eq!(pushed.pulled(14), Some(header));
        assert_eq!(header.pulled(41), None);
        assert_eq!(Header::default().pulled(14), Some(Header::default()));
    }
}
