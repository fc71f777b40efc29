//! What the tunnel does with packets: run to completion, one thread for each direction.
//!
//! A packet from the device is cut, sealed and sent by the thread that read it; a datagram from the underlay is opened,
//! joined with its neighbours and written by the thread that received it. A peer's state has one lock, taken once per batch.

mod outgoing;
mod peer;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::BytesMut;
use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::tun::MtuWatcher;
use gotatun::x25519;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_overlay::ids::PublicKey;

use crate::config::Config;
use crate::keys::SecretKey;
use crate::merge::{Merger, Takes};
use crate::mesh::{self, PeerStats};
use crate::packet;
use crate::split::split;
use crate::tun::{self, Tun};
use crate::udp::{Receiver, Udp};
use outgoing::Outgoing;
use peer::{Kind, Peer, lock};

/// How many handshakes a second are answered to one address before it must prove that it is there (white paper, 5.4.7).
const HANDSHAKES: u64 = 100;
/// How many packets are collected before they are sent, if more are waiting.
const BATCH: usize = 128;

/// The tunnel of one slot.
pub(crate) struct Engine {
    tun: Tun,
    udp: Udp,
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    limiter: Arc<RateLimiter>,
    indexes: IndexTable,
    peers: RwLock<Arc<Peers>>,
    sessions: RwLock<HashMap<u32, Arc<Peer>>>,
    mtu: AtomicUsize,
    vxlan: u16,
}

#[derive(Default)]
struct Peers {
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_address: HashMap<u128, Arc<Peer>>,
}

impl Engine {
    pub(crate) fn new(tun: Tun, udp: Udp, key: &SecretKey, config: &Config) -> Self {
        let private = key.x25519();
        let public = x25519::PublicKey::from(&private);
        let engine = Self {
            tun,
            udp,
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES)),
            private,
            public,
            indexes: IndexTable::from_os_rng(),
            peers: RwLock::default(),
            sessions: RwLock::default(),
            mtu: AtomicUsize::new(0),
            vxlan: config.device.vxlan,
        };
        engine.configure(config);
        engine
    }

    /// Takes over a configuration. Peers that stay keep their sessions.
    pub(crate) fn configure(&self, config: &Config) {
        self.mtu.store(usize::try_from(config.device.mtu).unwrap_or(usize::MAX), Ordering::Relaxed);
        let before = self.peers();
        let mut peers = Peers::default();
        for wanted in &config.peers {
            if wanted.public_key.0 == self.public.to_bytes() {
                continue;
            }
            let known =
                before.by_key.get(&wanted.public_key).filter(|peer| peer.address == wanted.address.to_bits());
            let peer = known.map_or_else(|| Arc::new(self.peer(wanted)), Arc::clone);
            peer.adopt(wanted);
            peers.by_key.insert(peer.key, Arc::clone(&peer));
            peers.by_address.insert(peer.address, peer);
        }
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(peers);
        let now = self.peers();
        let gone =
            |peer: &Arc<Peer>| !now.by_key.get(&peer.key).is_some_and(|other| Arc::ptr_eq(peer, other));
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).retain(|_, peer| !gone(peer));
    }

    fn peer(&self, config: &mesh::Peer) -> Peer {
        let noise = Tunn::new(
            self.private.clone(),
            x25519::PublicKey::from(config.public_key.0),
            Some(*config.preshared_key.bytes()),
            None,
            self.indexes.clone(),
            Arc::clone(&self.limiter),
        );
        Peer::new(config, noise)
    }

    fn peers(&self) -> Arc<Peers> {
        Arc::clone(&self.peers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins a handshake with a peer, unless one is under way; says whether the peer is known.
    pub(crate) fn handshake(&self, key: &PublicKey) -> bool {
        let Some(peer) = self.peers().by_key.get(key).cloned() else { return false };
        let initiation = lock(&peer.noise).format_handshake_initiation(false);
        if let Some(packet) = initiation {
            self.send_handshake(&peer, packet.into());
        }
        true
    }

    /// Begins a handshake with every peer: after a start nobody has a session with us any more.
    pub(crate) fn greet(&self) {
        for key in self.peers().by_key.keys() {
            self.handshake(key);
        }
    }

    pub(crate) fn stats(&self) -> Vec<PeerStats> {
        let stats = |peer: &Arc<Peer>| PeerStats {
            public_key: peer.key,
            endpoint: Some(*lock(&peer.endpoint)),
            handshake: lock(&peer.handshake).map(|when| when.elapsed()),
            received: peer.received.load(Ordering::Relaxed),
            sent: peer.sent.load(Ordering::Relaxed),
        };
        self.peers().by_key.values().map(stats).collect()
    }

    /// Names what the kernel does for us.
    pub(crate) fn offloads(&self) -> Vec<&'static str> {
        let all = [
            (self.tun.takes_tcp(), "tso"),
            (self.tun.takes_udp(), "uso"),
            (self.tun.takes_tunnels(), "vxlan"),
            (self.udp.cuts(), "udp-segment"),
        ];
        all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
    }

    /// Lets time pass: handshakes are repeated, sessions renewed and forgotten.
    pub(crate) fn tick(&self) {
        self.limiter.try_reset_count();
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|index, _| self.indexes.in_use(*index));
        drop(sessions);
        for peer in self.peers().by_key.values() {
            let due = lock(&peer.noise).update_timers();
            if let Ok(Some(packet)) = due {
                self.send_handshake(peer, packet);
            }
        }
    }

    /// Sends what is not, or need not be, data: the session it names is remembered first.
    fn send_handshake(&self, peer: &Arc<Peer>, packet: WgKind) {
        self.register(peer, &packet);
        let to = *lock(&peer.endpoint);
        self.transmit(peer, to, &[Packet::<[u8]>::from(packet)]);
    }

    fn register(&self, peer: &Arc<Peer>, packet: &WgKind) {
        let index = match packet {
            WgKind::HandshakeInit(packet) => packet.sender_idx.get(),
            WgKind::HandshakeResp(packet) => packet.sender_idx.get(),
            WgKind::CookieReply(_) | WgKind::Data(_) => return,
        };
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: whom a configuration has just taken away would stay here for ever.
        if self.peers().by_key.get(&peer.key).is_some_and(|known| Arc::ptr_eq(known, peer)) {
            sessions.insert(index, Arc::clone(peer));
        }
    }

    /// Sends to a peer. What the network does not take is lost, as on any network.
    fn transmit<T: AsRef<[u8]>>(&self, peer: &Peer, to: SocketAddr, datagrams: &[T]) {
        if self.udp.send(to, datagrams).is_ok() {
            let bytes: usize = datagrams.iter().map(|datagram| datagram.as_ref().len()).sum();
            peer.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Carries packets from the device to the underlay until the device fails.
    pub(crate) fn outwards(&self) -> io::Error {
        let mut buffer = vec![0; tun::BUFFER];
        let mut batch = Outgoing::default();
        loop {
            match self.tun.read(&mut buffer) {
                Ok(Some((header, packet))) => self.outward(header, packet, &mut batch),
                Ok(None) => {
                    batch.flush(self);
                    if let Err(error) = wait(&self.tun) {
                        return error;
                    }
                }
                Err(error) => return error,
            }
        }
    }

    fn outward(&self, header: crate::vnet::Header, packet: &[u8], batch: &mut Outgoing) {
        let Some(to) = packet::destination(packet) else { return };
        if batch.peer.as_ref().is_none_or(|peer| peer.address != to) {
            batch.flush(self);
            batch.peer = self.peers().by_address.get(&to).cloned();
        }
        let Some(peer) = batch.peer.clone() else { return };
        let mtu = self.mtu.load(Ordering::Relaxed);
        let mut noise = lock(&peer.noise);
        let mut initiation = None;
        split(header, packet, mtu, &mut batch.arena, |part| {
            match noise.encapsulate_with_session(Packet::from_bytes(part)) {
                Ok(sealed) => batch.sealed.push(sealed),
                // No session: the packet waits for one.
                Err(packet) => initiation = noise.handle_outgoing_packet(packet, None).or(initiation.take()),
            }
        });
        drop(noise);
        if let Some(packet) = initiation {
            self.send_handshake(&peer, packet);
        }
        if batch.sealed.len() >= BATCH {
            batch.flush(self);
        }
    }

    /// Carries datagrams from the underlay to the device until the socket fails.
    pub(crate) fn inwards(&self) -> io::Error {
        let mut receiver = Receiver::new();
        let takes = Takes {
            tcp: self.tun.takes_tcp(),
            udp: self.tun.takes_udp(),
            vxlan: self.tun.takes_tunnels().then_some(self.vxlan),
        };
        let mut merger = Merger::new(takes);
        loop {
            let received = receiver.receive(&self.udp, |mut datagrams| {
                let from = datagrams.from;
                let mut last = None;
                for datagram in datagrams.by_ref() {
                    self.inward(datagram, from, &mut last, &mut merger);
                }
            });
            for (header, group) in merger.drain() {
                // The device is down, or has no room: lost, as on any network.
                drop(self.tun.write(header, group.pieces()));
            }
            match received {
                Ok(()) => {}
                // Somebody we sent to does not listen (ICMP), or a signal.
                Err(error) if transient(&error) => {}
                Err(error) => return error,
            }
        }
    }

    fn inward(
        &self,
        datagram: BytesMut,
        from: SocketAddr,
        last: &mut Option<(u32, Arc<Peer>)>,
        merger: &mut Merger,
    ) {
        let length = datagram.len();
        let packet = match self.limiter.verify_packet(from, Packet::from_bytes(datagram)) {
            Ok(packet) => packet,
            Err(TunnResult::WriteToNetwork(WgKind::CookieReply(cookie))) => {
                drop(self.udp.send(from, &[Packet::<[u8]>::from(cookie)]));
                return;
            }
            Err(_) => return,
        };
        let Some(peer) = self.sender(&packet, last) else { return };
        let first = match &packet {
            WgKind::HandshakeInit(_) => Kind::Initiation,
            WgKind::HandshakeResp(_) => Kind::Response,
            WgKind::CookieReply(_) => Kind::Cookie,
            WgKind::Data(_) => Kind::Data,
        };
        let mut noise = lock(&peer.noise);
        let result = noise.handle_incoming_packet(packet);
        if matches!(result, TunnResult::Err(_)) {
            return;
        }
        peer.heard(from, length, first);
        match result {
            TunnResult::WriteToNetwork(reply) => {
                self.register(&peer, &reply);
                let mut replies = vec![Packet::<[u8]>::from(reply)];
                if matches!(first, Kind::Response) {
                    let mtu = self.mtu.load(Ordering::Relaxed);
                    let mut mtu = MtuWatcher::new(u16::try_from(mtu).unwrap_or(u16::MAX));
                    replies.extend(noise.get_queued_packets(&mut mtu).map(Packet::<[u8]>::from));
                }
                drop(noise);
                self.transmit(&peer, from, &replies);
            }
            TunnResult::WriteToTunnel(packet) => {
                // What waited while the other side began the handshake goes by the session it has confirmed.
                let waiting = if peer.confirmed() { self.waiting(&mut noise) } else { Vec::new() };
                drop(noise);
                if !waiting.is_empty() {
                    self.transmit(&peer, from, &waiting);
                }
                deliver(&peer, packet, merger);
            }
            TunnResult::Done | TunnResult::Err(_) => {}
        }
    }

    fn waiting(&self, noise: &mut Tunn) -> Vec<Packet> {
        let mtu = self.mtu.load(Ordering::Relaxed);
        let mut mtu = MtuWatcher::new(u16::try_from(mtu).unwrap_or(u16::MAX));
        noise.get_queued_packets(&mut mtu).map(Packet::<[u8]>::from).collect()
    }

    /// Returns whose packet it says it is.
    fn sender(&self, packet: &WgKind, last: &mut Option<(u32, Arc<Peer>)>) -> Option<Arc<Peer>> {
        let index = match packet {
            WgKind::HandshakeInit(packet) => {
                let half = parse_handshake_anon(&self.private, &self.public, packet).ok()?;
                return self.peers().by_key.get(&PublicKey(half.peer_static_public)).cloned();
            }
            WgKind::HandshakeResp(packet) => packet.receiver_idx.get(),
            WgKind::CookieReply(packet) => packet.receiver_idx.get(),
            WgKind::Data(packet) => packet.header.receiver_idx.get(),
        };
        if let Some((_, peer)) = last.as_ref().filter(|(known, _)| *known == index) {
            return Some(Arc::clone(peer));
        }
        let peer = self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(&index).cloned()?;
        *last = Some((index, Arc::clone(&peer)));
        Some(peer)
    }
}

/// Hands a packet that was opened on, if its sender may send it.
fn deliver(peer: &Peer, mut packet: Packet, merger: &mut Merger) {
    // Nothing inside only says that the peer is there.
    let Some(length) = packet::length(&packet) else { return };
    if packet::source(&packet) == Some(peer.address) {
        packet.truncate(length);
        merger.push(std::mem::take(packet.buf_mut()));
    }
}

fn wait(tun: &Tun) -> io::Result<()> {
    use std::os::fd::AsFd;
    let mut events = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
    match poll(&mut events, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the next receive may well succeed.
fn transient(error: &io::Error) -> bool {
    use nix::libc;
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::EAGAIN
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENOMEM
        )
    )
}

#[cfg(test)]
mod tests {
    use weft_testkit::Lab;

    use super::*;
    use crate::mesh::Device;
    use crate::slot::Slot;

    #[test]
    fn whoever_is_gone_gets_no_session_any_more() {
        let _lab = Lab::new();
        let device = Device {
            port: 51820,
            mtu: 1420,
            address: "fd00::1".parse().unwrap(),
            prefix: "fd00::/48".parse().unwrap(),
            vxlan: 8473,
        };
        let peer = mesh::Peer {
            public_key: SecretKey::new([2; 32]).public(),
            preshared_key: SecretKey::new([9; 32]),
            endpoint: ([192, 0, 2, 2], 51820).into(),
            address: "fd00::2".parse().unwrap(),
        };
        let alone = Config::new(device);
        let together = Config { peers: vec![peer], ..alone.clone() };
        let tun = Tun::open(&Slot::A.device(), false).unwrap();
        let engine = Engine::new(tun, Udp::open(0).unwrap(), &SecretKey::new([1; 32]), &together);
        let known = engine.peers().by_key.values().next().cloned().unwrap();
        let initiation = || WgKind::from(lock(&known.noise).format_handshake_initiation(true).unwrap());
        let sessions = || engine.sessions.read().unwrap().len();
        engine.register(&known, &initiation());
        assert_eq!(sessions(), 1);
        engine.configure(&alone);
        assert_eq!(sessions(), 0);
        // The thread that receives may have got hold of it before.
        engine.register(&known, &initiation());
        assert_eq!(sessions(), 0);
    }
}
