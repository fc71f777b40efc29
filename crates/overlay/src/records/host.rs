//! Hosts: where they are, whether they are there, and that they are gone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{RecordError, Slots};
use crate::ids::{HostId, NetworkId, PublicKey};

/// A host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Its name, for people.
    pub name: String,
    /// Goes up each time it takes over an underlay address from another host.
    pub incarnation: u64,
    /// The kernel's boot id.
    pub boot: String,
    /// Its addresses outside.
    pub underlay: Underlay,
    /// Its number in the mesh.
    pub mesh: u32,
    /// Its keys.
    #[serde(default)]
    pub wireguard: Slots<Option<Slot>>,
    /// The MTU of its underlay interface.
    pub mtu: u32,
    /// The version of weft on it.
    #[serde(default)]
    pub version: String,
    /// When it joined, in milliseconds since 1970: of two that claim one thing the earlier has it.
    pub epoch: u64,
    /// The host that has taken its underlay address: it is out, and may not come back under this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<HostId>,
}

impl Host {
    /// Refuses slots that listen nowhere.
    pub(crate) fn check_ports(&self) -> Result<(), RecordError> {
        let mut slots = [self.wireguard.a, self.wireguard.b].into_iter().flatten();
        if slots.any(|slot| slot.port == 0) { Err(RecordError::Port("wireguard port")) } else { Ok(()) }
    }
}

/// A host's addresses outside, at least one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Underlay {
    /// Of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl Underlay {
    /// Returns the addresses there are, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Returns where a host with these addresses reaches another: by IPv4 where both have it.
    pub fn meets(&self, other: Self) -> Option<IpAddr> {
        let v4 = self.v4.and(other.v4).map(IpAddr::V4);
        v4.or_else(|| self.v6.and(other.v6).map(IpAddr::V6))
    }

    /// Returns whether a host with these addresses meets all others by IPv4, as far as it can meet them: what its mesh
    /// device, which carries packets to all of them, has to leave room for.
    pub fn meets_by_v4(&self, mut others: impl Iterator<Item = Self>) -> bool {
        self.v4.is_some()
            && !(self.v6.is_some() && others.any(|other| other.v4.is_none() && other.v6.is_some()))
    }
}

/// What a host publishes of a WireGuard slot. The private key never leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The public key.
    pub public_key: PublicKey,
    /// The UDP port it listens on.
    pub port: u16,
    /// Goes up with every key of the host, whichever the slot.
    pub epoch: u64,
    /// What the slot is for at present.
    pub state: SlotState,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// Peers send here once a handshake has succeeded.
    #[default]
    Active,
    /// Peers that send here still should move to the other slot.
    Retiring,
}

/// A host is gone on purpose: others may drop what they know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Which host.
    pub host: HostId,
    /// Since when, in milliseconds since 1970.
    pub at: u64,
    /// Why: it left, or it was forgotten.
    pub reason: String,
}

/// A host is there. It goes with a lease; nothing but a host's being suspect follows from its absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Which host.
    pub host: HostId,
    /// The kernel's boot id.
    pub boot: String,
    /// Why it is not as it should be, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Addresses in use on it, by network and by block: told when the first comes and the last goes, and now and then between.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<NetworkId, BTreeMap<IpNetwork, u64>>,
}

impl Alive {
    /// Returns how many addresses of a network are in use on the host.
    pub fn used_of(&self, network: NetworkId) -> u64 {
        self.used
            .get(&network)
            .map_or(0, |blocks| blocks.values().fold(0, |sum, used| sum.saturating_add(*used)))
    }
}

/// Who has an underlay address, or a number in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClaim {
    /// The host.
    pub host: HostId,
}
