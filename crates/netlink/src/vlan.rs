//! `ip link add type vlan`.

use std::fmt;

use netlink_packet_route::link::{InfoData, InfoVlan};

use crate::wire::{attributes, u16_at};

/// A link for the frames of another link that have one tag of IEEE 802.1Q.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The tag's VLAN id, 0 to 4094. What has id 0 is tagged for its priority alone.
    pub id: u16,
}

impl Vlan {
    pub(crate) fn info(self) -> InfoData {
        InfoData::Vlan(vec![InfoVlan::Id(self.id)])
    }

    /// Reads a link's own data.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        const IFLA_VLAN_ID: u16 = 1;
        let (_, id) = attributes(data).find(|(kind, _)| *kind == IFLA_VLAN_ID)?;
        Some(Self { id: u16_at(id, 0)? })
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "vlan id {}", self.id)
    }
}
