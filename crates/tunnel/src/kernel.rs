//! The kernel's WireGuard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use weft_netlink::wireguard::{self, PeerInfo, SetPeer, Wireguard};
use weft_netlink::{Error, Socket};
use weft_overlay::ids::PublicKey;
use weft_state::Root;

use crate::device::{self, refused};
use crate::keys;
use crate::mesh::{Device, Implementation, Mesh, MeshError, Peer, PeerDiff, PeerStats};
use crate::rotation;
use crate::slot::Slot;

/// A mesh of the kernel's devices, in the network namespace it was opened in.
#[derive(Debug)]
pub struct KernelMesh {
    root: Root,
    socket: Socket,
    wireguard: Option<Wireguard>,
    heard: Heard,
}

/// Where each peer was when it was looked at last, and how much had been heard of it by then.
#[derive(Debug, Default)]
struct Heard(BTreeMap<(Slot, PublicKey), (Option<SocketAddr>, u64)>);

impl Heard {
    /// Returns what a peer has that it was not told.
    ///
    /// KERNEL: an endpoint follows whoever sends packets with the peer's keys (wg_socket_set_peer_endpoint,
    /// drivers/net/wireguard/socket.c), so one that is another is wrong only if nothing was heard of the peer since it was
    /// right, or if there is no session by which it could be heard.
    fn stray(&mut self, slot: Slot, peer: &Peer, found: &PeerInfo) -> Option<&'static str> {
        let now = (found.endpoint, found.received);
        let before = self.0.get(&(slot, peer.public_key)).copied();
        let moved = before.is_some_and(|before| before.0 != now.0 && before.1 == now.1);
        let silent = found.handshake.is_none_or(|age| age >= rotation::SESSION);
        if found.endpoint != Some(peer.endpoint) && (moved || silent) {
            return Some("another endpoint");
        }
        self.0.insert((slot, peer.public_key), now);
        if found.allowed != [device::host(peer.address)] {
            return Some("other allowed IPs");
        }
        (found.preshared_key != *peer.preshared_key.bytes()).then_some("another preshared key")
    }

    /// Forgets the peers of a slot that are none any more: keys come and go for as long as the agent runs.
    fn keep(&mut self, slot: Slot, told: &[Peer]) {
        let keys: BTreeSet<PublicKey> = told.iter().map(|peer| peer.public_key).collect();
        self.0.retain(|(of, key), _| *of != slot || keys.contains(key));
    }
}

impl KernelMesh {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// When there is no netlink socket to be had.
    pub fn open(root: Root) -> Result<Self, Error> {
        Ok(Self { root, socket: Socket::open()?, wireguard: None, heard: Heard::default() })
    }

    /// Says whether the kernel has WireGuard, by asking for a device: a module is loaded by that, and by nothing less.
    ///
    /// # Errors
    ///
    /// When the kernel refuses for another reason.
    pub fn is_supported(&mut self) -> Result<bool, Error> {
        let name = Slot::probe();
        match self.socket.request(wireguard::create(&name, 1420)) {
            Ok(_) => self.socket.request(weft_netlink::link::delete(&name)).map(|_| true),
            Err(error) if error.is_exists() => Ok(true),
            Err(error) if error.is_unsupported() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wireguard(&mut self, slot: Slot) -> Result<&mut Wireguard, MeshError> {
        match &mut self.wireguard {
            Some(known) => Ok(known),
            none => {
                Ok(none.insert(Wireguard::open().map_err(refused(slot, "reach the kernel's WireGuard"))?))
            }
        }
    }
}

impl Mesh for KernelMesh {
    fn implementation(&self) -> Implementation {
        Implementation::Kernel
    }

    fn ensure_device(&mut self, slot: Slot, device: &Device) -> Result<bool, MeshError> {
        let key = keys::load(&self.root, slot)?.ok_or(MeshError::NoKey(slot))?;
        device::close(&mut self.socket, slot, device.prefix)?;
        let name = slot.device();
        match device::find(&mut self.socket, slot)? {
            None => {
                let made = self.socket.request(wireguard::create(&name, device.mtu));
                made.map_err(refused(slot, "make it"))?;
            }
            Some(link) if link.kind.as_deref() != Some("wireguard") => {
                return Err(MeshError::Taken { device: name.to_string() });
            }
            Some(_) => {}
        }
        let wireguard = self.wireguard(slot)?;
        let present = wireguard.device(&name).map_err(refused(slot, "read it"))?;
        let mut changed = present.public_key != Some(key.public().0) || present.port != device.port;
        if changed {
            let set = wireguard.set_device(&name, key.bytes(), device.port);
            set.map_err(refused(slot, "set its key and port"))?;
        }
        changed |= device::raise(&mut self.socket, slot, device)?;
        Ok(changed)
    }

    fn peers(&mut self, slot: Slot) -> Result<Vec<PublicKey>, MeshError> {
        Ok(self.stats(slot)?.into_iter().map(|peer| peer.public_key).collect())
    }

    fn strays(&mut self, slot: Slot, told: &[Peer]) -> Result<Vec<String>, MeshError> {
        let device = self.wireguard(slot)?.device(&slot.device()).map_err(refused(slot, "read its peers"))?;
        let present: BTreeMap<PublicKey, PeerInfo> =
            device.peers.into_iter().map(|peer| (PublicKey(peer.public_key), peer)).collect();
        let mut lines = Vec::new();
        for peer in told {
            let key = peer.public_key;
            match present.get(&key) {
                None => lines.push(format!("peer {key} does not exist")),
                Some(found) => {
                    lines.extend(
                        self.heard.stray(slot, peer, found).map(|what| format!("peer {key} has {what}")),
                    );
                }
            }
        }
        self.heard.keep(slot, told);
        let surplus = present.keys().filter(|key| told.iter().all(|peer| peer.public_key != **key));
        lines.extend(surplus.map(|key| format!("peer {key} should not be there")));
        Ok(lines)
    }

    fn version(&self, _slot: Slot) -> Option<&str> {
        None
    }

    fn set_peers(&mut self, slot: Slot, diff: &PeerDiff) -> Result<(), MeshError> {
        let set = diff.set.iter().map(|peer| SetPeer {
            preshared_key: Some(*peer.preshared_key.bytes()),
            endpoint: Some(peer.endpoint),
            allowed: Some(vec![device::host(peer.address)]),
            ..SetPeer::new(peer.public_key.0)
        });
        let gone = diff.remove.iter().map(|key| SetPeer { remove: true, ..SetPeer::new(key.0) });
        // Those that go first: an address belongs to one peer.
        let all: Vec<SetPeer> = gone.chain(set).collect();
        self.wireguard(slot)?.set_peers(&slot.device(), &all).map_err(refused(slot, "set its peers"))
    }

    fn stats(&mut self, slot: Slot) -> Result<Vec<PeerStats>, MeshError> {
        let device = self.wireguard(slot)?.device(&slot.device()).map_err(refused(slot, "read its peers"))?;
        let stats = device.peers.into_iter().map(|peer| PeerStats {
            public_key: PublicKey(peer.public_key),
            endpoint: peer.endpoint,
            handshake: peer.handshake,
            received: peer.received,
            sent: peer.sent,
        });
        Ok(stats.collect())
    }

    fn force_handshake(&mut self, slot: Slot, peer: &PublicKey) -> Result<(), MeshError> {
        // KERNEL: a keepalive is sent at once when its interval becomes other than 0 (set_peer,
        // drivers/net/wireguard/netlink.c), and without a session that begins a handshake.
        for seconds in [0, 25, 0] {
            let change = SetPeer { keepalive: Some(seconds), ..SetPeer::new(peer.0) };
            let set = self.wireguard(slot)?.set_peers(&slot.device(), &[change]);
            set.map_err(refused(slot, "begin a handshake"))?;
        }
        Ok(())
    }

    fn remove(&mut self, slot: Slot) -> Result<(), MeshError> {
        self.heard.keep(slot, &[]);
        device::remove(&mut self.socket, slot)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::keys::SecretKey;

    fn peer(byte: u8) -> Peer {
        Peer {
            public_key: PublicKey([byte; 32]),
            preshared_key: SecretKey::new([9; 32]),
            endpoint: ([192, 0, 2, byte], 51820).into(),
            address: Ipv6Addr::from_bits(u128::from(byte)),
        }
    }

    fn found(peer: &Peer) -> PeerInfo {
        PeerInfo {
            public_key: peer.public_key.0,
            endpoint: Some(peer.endpoint),
            preshared_key: *peer.preshared_key.bytes(),
            allowed: vec![device::host(peer.address)],
            ..PeerInfo::default()
        }
    }

    #[test]
    fn what_was_heard_of_peers_that_are_gone_is_forgotten() {
        let mut heard = Heard::default();
        for round in 0..100 {
            for slot in Slot::ALL {
                let told = [peer(round), peer(200)];
                for one in &told {
                    assert_eq!(heard.stray(slot, one, &found(one)), None);
                }
                heard.keep(slot, &told);
            }
            assert_eq!(heard.0.len(), 4);
        }
        heard.keep(Slot::A, &[]);
        assert!(heard.0.len() == 2 && heard.0.keys().all(|(slot, _)| *slot == Slot::B));
    }
}
