//! `bridge vlan`.

use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use rtnetlink::{LinkBridgeVlan, LinkMessageBuilder, LinkUnspec};

use crate::wire::{attributes, u16_at, u32_at};
use crate::{Error, Request, Socket};

/// VLANs of a port, or of a bridge, that are treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlans {
    /// The first VLAN.
    pub first: u16,
    /// The last VLAN.
    pub last: u16,
    /// Whether untagged frames that come in belong to it.
    pub pvid: bool,
    /// Whether frames go out untagged.
    pub untagged: bool,
}

/// Whose VLANs are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A port's, kept by its bridge: `master`, what the kernel assumes when nothing is said.
    Port,
    /// The bridge's own: `self`.
    Bridge,
}

/// Puts a link into VLANs, whole ranges in one message.
pub fn add(index: u32, side: Side, vlans: &[Vlans]) -> Request {
    Request::new(RouteNetlinkMessage::SetLink(message(index, side, vlans)), 0)
}

/// Takes a link out of VLANs.
pub fn delete(index: u32, side: Side, vlans: &[Vlans]) -> Request {
    Request::new(RouteNetlinkMessage::DelLink(message(index, side, vlans)), 0)
}

fn message(index: u32, side: Side, vlans: &[Vlans]) -> netlink_packet_route::link::LinkMessage {
    let mut builder = LinkBridgeVlan::new(index);
    if side == Side::Bridge {
        builder = builder.bridge_self();
    }
    for range in vlans {
        let mut flags = BridgeVlanInfoFlags::empty();
        flags.set(BridgeVlanInfoFlags::Pvid, range.pvid);
        flags.set(BridgeVlanInfoFlags::Untagged, range.untagged);
        builder = if range.first == range.last {
            builder.append_af_spec(AfSpecBridge::VlanInfo(BridgeVlanInfo { vid: range.first, flags }))
        } else {
            builder.vlan_range_start(range.first, flags).vlan_range_end(range.last, flags)
        };
    }
    builder.build()
}

/// Returns the VLANs of a link.
///
/// The kernel has no filter by link for this dump, so it costs as much as there are ports: for CHECK alone.
///
/// # Errors
///
/// The kernel's refusal, or the socket's failure.
pub fn of_link(socket: &mut Socket, index: u32) -> Result<Vec<Vlans>, Error> {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .interface_family(AddressFamily::Bridge)
        .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]))
        .build();
    let request = Request::new(RouteNetlinkMessage::GetLink(message), libc::NLM_F_DUMP);
    Ok(socket.dump(&request, |payload| read(payload, index))?.into_iter().flatten().collect())
}

pub(crate) fn read(payload: &[u8], index: u32) -> Option<Vec<Vlans>> {
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
    const PVID: u16 = 1 << 1;
    const UNTAGGED: u16 = 1 << 2;
    const RANGE_BEGIN: u16 = 1 << 3;
    const RANGE_END: u16 = 1 << 4;

    if u32_at(payload, 4)? != index {
        return None;
    }
    let mut found: Vec<Vlans> = Vec::new();
    let (_, spec) = attributes(payload.get(16..)?).find(|(kind, _)| *kind == IFLA_AF_SPEC)?;
    let mut begin = None;
    for (_, value) in attributes(spec).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
        let (flags, vlan) = (u16_at(value, 0)?, u16_at(value, 2)?);
        if flags & RANGE_BEGIN != 0 {
            begin = Some(vlan);
            continue;
        }
        let first = if flags & RANGE_END != 0 { begin.take().unwrap_or(vlan) } else { vlan };
        found.push(Vlans { first, last: vlan, pvid: flags & PVID != 0, untagged: flags & UNTAGGED != 0 });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    fn bytes(side: Side, vlans: &[Vlans]) -> Vec<u8> {
        let message = message(7, side, vlans);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    const ACCESS: Vlans = Vlans { first: 100, last: 100, pvid: true, untagged: true };
    const TRUNK: Vlans = Vlans { first: 200, last: 300, pvid: false, untagged: false };

    #[test]
    fn a_port_gets_an_access_vlan_and_a_range_in_one_message() {
        let bytes = bytes(Side::Port, &[ACCESS, TRUNK]);
        assert_eq!(bytes[0], 7, "AF_BRIDGE");
        assert_eq!(bytes[4..8], 7u32.to_ne_bytes(), "the port's index");
        let spec: Vec<_> = attributes(&bytes[16..]).collect();
        assert_eq!(spec.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [26]);
        let infos: Vec<_> =
            attributes(spec[0].1).map(|(kind, v)| (kind, u16_at(v, 0), u16_at(v, 2))).collect();
        // flags: 2 pvid, 4 untagged, 8 and 16 the ends of a range
        assert_eq!(infos, [(2, Some(6), Some(100)), (2, Some(8), Some(200)), (2, Some(16), Some(300))]);
    }

    #[test]
    fn the_bridge_itself_is_meant_by_a_flag() {
        let bytes = bytes(Side::Bridge, &[TRUNK]);
        let (_, spec) = attributes(&bytes[16..]).next().unwrap();
        let (kind, value) = attributes(spec).next().unwrap();
        assert_eq!((kind, u16_at(value, 0)), (0, Some(2)), "IFLA_BRIDGE_FLAGS = BRIDGE_FLAGS_SELF");
    }

    #[test]
    fn what_was_written_is_read_back() {
        let bytes = bytes(Side::Port, &[ACCESS, TRUNK]);
        assert_eq!(read(&bytes, 7).unwrap(), [ACCESS, TRUNK]);
        assert_eq!(read(&bytes, 8), None, "another link's VLANs");
        for end in 0..bytes.len() {
            drop(read(&bytes[..end], 7));
        }
    }
}
