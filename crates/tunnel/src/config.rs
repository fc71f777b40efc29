//! The file a userspace tunnel works from: everything but the private key, so that it starts with nobody to ask.

use serde::{Deserialize, Serialize};
use weft_state::atomic::Durability;
use weft_state::{Root, StateError, document};

use crate::mesh::{Device, Peer, PeerDiff};
use crate::slot::Slot;

/// More peers than this are not looked at: a mesh of as many hosts needs another design.
pub const MAX_PEERS: usize = 16 * 1024;

/// What is in the file. It holds secrets of pairs, so its mode is 0600.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The schema it follows.
    pub schema: u64,
    /// The device.
    pub device: Device,
    /// Its peers.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

impl Config {
    /// Returns a configuration without peers.
    pub fn new(device: Device) -> Self {
        Self { schema: document::SCHEMA, device, peers: Vec::new() }
    }

    /// Reads a slot's, or nothing if there is none.
    ///
    /// # Errors
    ///
    /// When the file is damaged, too large, or of a later version.
    pub fn load(root: &Root, slot: Slot) -> Result<Option<Self>, StateError> {
        let path = slot.config_file(root);
        let config: Option<Self> = document::read(&path)?;
        match config {
            Some(config) if config.peers.len() > MAX_PEERS => {
                let reason =
                    format!("it names {} peers, and {MAX_PEERS} are taken at most", config.peers.len());
                Err(StateError::Damaged { path, reason })
            }
            other => Ok(other),
        }
    }

    /// Writes it, in one step.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub fn store(&self, root: &Root, slot: Slot) -> Result<(), StateError> {
        document::write(&slot.config_file(root), self, Durability::Disk)
    }

    /// Applies a change to the peers.
    pub fn apply(&mut self, diff: &PeerDiff) {
        let gone = |peer: &Peer| {
            diff.remove.contains(&peer.public_key)
                || diff.set.iter().any(|new| new.public_key == peer.public_key)
        };
        self.peers.retain(|peer| !gone(peer));
        self.peers.extend(diff.set.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use weft_overlay::ids::PublicKey;

    use super::*;
    use crate::keys::SecretKey;

    #[test]
    fn a_configuration_survives_the_disk_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(Some(folder.path().into()));
        assert_eq!(Config::load(&root, Slot::A).unwrap(), None);
        let device = Device {
            port: 51820,
            mtu: 1420,
            address: "fd00::1".parse().unwrap(),
            prefix: "fd00::/48".parse().unwrap(),
            vxlan: 8473,
        };
        let mut config = Config::new(device);
        let peer = |byte: u8| Peer {
            public_key: PublicKey([byte; 32]),
            preshared_key: SecretKey::new([byte; 32]),
            endpoint: ([192, 0, 2, byte], 51820).into(),
            address: "fd00::2".parse().unwrap(),
        };
        config.apply(&PeerDiff { set: vec![peer(1), peer(2)], remove: vec![] });
        config.apply(&PeerDiff { set: vec![peer(2)], remove: vec![PublicKey([1; 32])] });
        assert_eq!(config.peers, [peer(2)]);
        config.store(&root, Slot::A).unwrap();
        assert_eq!(Config::load(&root, Slot::A).unwrap(), Some(config));
        let mode = std::fs::metadata(Slot::A.config_file(&root)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
