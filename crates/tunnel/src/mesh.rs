//! What a WireGuard implementation does for the mesh, whichever it is.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnetwork::Ipv6Network;
use serde::{Deserialize, Serialize};
use weft_overlay::ids::PublicKey;

use crate::keys::{KeyError, SecretKey};
use crate::slot::Slot;

/// What WireGuard adds to a packet, in bytes, besides the addresses outside: 8 of UDP, 16 of its header, 16 of the tag.
const WIREGUARD: u32 = 8 + 16 + 16;

/// Returns the MTU of a mesh device over an underlay of this MTU: 60 bytes less over IPv4, 80 over IPv6.
pub const fn device_mtu(underlay: u32, over_ipv6: bool) -> u32 {
    underlay.saturating_sub(WIREGUARD + if over_ipv6 { 40 } else { 20 })
}

/// A WireGuard device of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The UDP port it listens on.
    pub port: u16,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// This host's address inside the mesh.
    pub address: Ipv6Addr,
    /// The addresses of all hosts inside the mesh: none of them is reached but through a device of the mesh.
    pub prefix: Ipv6Network,
    /// The UDP port of the VXLAN that goes through it: packets of one flow inside are joined.
    pub vxlan: u16,
}

/// A host at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its public key in this slot.
    pub public_key: PublicKey,
    /// The secret of the pair, mixed into every handshake.
    pub preshared_key: SecretKey,
    /// Where its device listens.
    pub endpoint: SocketAddr,
    /// Its address inside the mesh: what goes there goes to it, and nothing else is taken from it.
    pub address: Ipv6Addr,
}

/// What is to change about a device's peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerDiff {
    /// Peers to add, or to change to this. One with the same key keeps its session.
    pub set: Vec<Peer>,
    /// Peers to remove.
    pub remove: Vec<PublicKey>,
}

impl PeerDiff {
    /// Returns what is to change, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let other = self.set.iter().map(|peer| format!("peer {} is missing, or another", peer.public_key));
        let more = self.remove.iter().map(|key| format!("peer {key} should not be there"));
        other.chain(more).collect()
    }

    /// Returns what makes the peers that are into those that are wanted.
    pub fn between(present: &[Peer], wanted: &[Peer]) -> Self {
        let by_key = |peers| -> BTreeMap<PublicKey, &Peer> { index(peers) };
        let (present, wanted) = (by_key(present), by_key(wanted));
        Self {
            set: wanted
                .iter()
                .filter(|(key, peer)| present.get(key) != Some(peer))
                .map(|(_, peer)| (*peer).clone())
                .collect(),
            remove: present.keys().filter(|key| !wanted.contains_key(key)).copied().collect(),
        }
    }

    /// Returns whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

fn index(peers: &[Peer]) -> BTreeMap<PublicKey, &Peer> {
    peers.iter().map(|peer| (peer.public_key, peer)).collect()
}

/// How things stand with a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStats {
    /// Its public key.
    pub public_key: PublicKey,
    /// Where it was last heard of.
    pub endpoint: Option<SocketAddr>,
    /// How long ago the last handshake was completed, and known by both sides to be.
    pub handshake: Option<Duration>,
    /// Bytes received from it, as they came by the underlay.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
}

/// Whose WireGuard it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// The kernel's.
    Kernel,
    /// Ours, in a process of its own.
    Userspace,
}

/// The mesh cannot be as it should.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The kernel refused.
    #[error("{device}: cannot {action}: {cause}")]
    Refused {
        /// Which device.
        device: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel says.
        cause: weft_netlink::Error,
    },

    /// Something else has the name.
    #[error("{device} exists and is not a device of the mesh")]
    Taken {
        /// Which device.
        device: String,
    },

    /// There is no private key in the slot.
    #[error("slot {0} has no private key")]
    NoKey(Slot),

    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),

    /// A file cannot be used.
    #[error(transparent)]
    State(#[from] weft_state::StateError),

    /// The tunnel process could not be started.
    #[error("the tunnel of slot {slot} does not start: {reason}")]
    NotStarted {
        /// Which slot.
        slot: Slot,
        /// Why.
        reason: String,
    },

    /// The tunnel process does not answer.
    #[error("the tunnel of slot {slot} does not answer on {socket}: {reason}")]
    NoAnswer {
        /// Which slot.
        slot: Slot,
        /// Its socket.
        socket: String,
        /// Why.
        reason: String,
    },

    /// The implementation says no.
    #[error("the tunnel of slot {slot} refuses: {reason}")]
    Answer {
        /// Which slot.
        slot: Slot,
        /// Its words.
        reason: String,
    },
}

impl MeshError {
    /// Returns whether a slot cannot work because its private key is not there, or is none.
    pub(crate) const fn is_without_key(&self) -> bool {
        matches!(self, Self::NoKey(_) | Self::Key(KeyError::NotAKey { .. }))
    }

    /// Returns the next command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Taken { device } => Some(format!("ip link delete {device}")),
            Self::NoKey(_) => Some("weft overlay rotate".into()),
            Self::Key(error) => error.hint(),
            Self::NotStarted { slot, .. } | Self::NoAnswer { slot, .. } => {
                Some(format!("weftd tunnel --slot {slot}"))
            }
            Self::Refused { .. } | Self::State(_) | Self::Answer { .. } => None,
        }
    }
}

/// A WireGuard implementation. Every call may be repeated; none takes away what another slot has.
pub trait Mesh: Send {
    /// Returns whose it is.
    fn implementation(&self) -> Implementation;

    /// Sees to it that the slot's device exists, is up, has its key, port, MTU and address, and that somebody works on it.
    ///
    /// Returns whether it was not so before.
    ///
    /// # Errors
    ///
    /// When the slot has no private key, something else has the device's name, or the kernel or the process refuses.
    fn ensure_device(&mut self, slot: Slot, device: &Device) -> Result<bool, MeshError>;

    /// Returns the peers the device was told of.
    ///
    /// # Errors
    ///
    /// When the device cannot be asked.
    fn peers(&mut self, slot: Slot) -> Result<Vec<PublicKey>, MeshError>;

    /// Returns what of a device's peers is not as it was told, a line each. Where a peer is that has moved is no such thing.
    ///
    /// # Errors
    ///
    /// When the device cannot be asked.
    fn strays(&mut self, slot: Slot, told: &[Peer]) -> Result<Vec<String>, MeshError>;

    /// Returns the version of who works on a device, where that is a program that may be older than we are, and has said so.
    fn version(&self, slot: Slot) -> Option<&str>;

    /// Changes the peers of a device. Sessions of those that stay are not touched.
    ///
    /// # Errors
    ///
    /// When the device is not there, or refuses.
    fn set_peers(&mut self, slot: Slot, diff: &PeerDiff) -> Result<(), MeshError>;

    /// Returns how things stand with each peer.
    ///
    /// # Errors
    ///
    /// When the device is not there, or does not answer.
    fn stats(&mut self, slot: Slot) -> Result<Vec<PeerStats>, MeshError>;

    /// Begins a handshake with a peer, also when nothing is to be sent. [`Mesh::stats`] tells when it is done.
    ///
    /// # Errors
    ///
    /// When the device is not there, does not know the peer, or refuses.
    fn force_handshake(&mut self, slot: Slot, peer: &PublicKey) -> Result<(), MeshError>;

    /// Removes the device, whoever works on it and what it was told of peers. That there is none is no error.
    ///
    /// # Errors
    ///
    /// When something of it stays.
    fn remove(&mut self, slot: Slot) -> Result<(), MeshError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(byte: u8, port: u16) -> Peer {
        Peer {
            public_key: PublicKey([byte; 32]),
            preshared_key: SecretKey::new([9; 32]),
            endpoint: ([192, 0, 2, byte], port).into(),
            address: Ipv6Addr::from_bits(u128::from(byte)),
        }
    }

    #[test]
    fn what_wireguard_adds_is_subtracted() {
        assert_eq!((device_mtu(1500, false), device_mtu(1500, true)), (1440, 1420));
        assert_eq!(device_mtu(10, false), 0);
    }

    #[test]
    fn a_difference_names_what_changed_and_no_more() {
        let diff =
            PeerDiff::between(&[peer(1, 1), peer(2, 2), peer(3, 3)], &[peer(2, 2), peer(3, 4), peer(4, 4)]);
        assert_eq!(diff.set, [peer(3, 4), peer(4, 4)]);
        assert_eq!(diff.remove, [PublicKey([1; 32])]);
        assert!(PeerDiff::between(&diff.set, &diff.set).is_empty());
    }
}
