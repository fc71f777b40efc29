//! What the tunnel knows of another host.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use gotatun::noise::Tunn;
use weft_overlay::ids::PublicKey;

use crate::mesh;

/// Another host, as the tunnel knows it.
pub(super) struct Peer {
    config: Mutex<mesh::Peer>,
    pub(super) key: PublicKey,
    pub(super) address: u128,
    pub(super) noise: Mutex<Tunn>,
    pub(super) endpoint: Mutex<SocketAddr>,
    /// When a handshake was last known to both sides to be complete.
    pub(super) handshake: Mutex<Option<Instant>>,
    /// Whether we have answered a handshake and nothing has come by it yet.
    answered: AtomicBool,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
}

/// Goes on after a panic elsewhere: what a lock protects here is whole between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Initiation,
    Response,
    Cookie,
    Data,
}

impl Peer {
    /// Returns a peer that nothing is known of but what is configured.
    pub(super) fn new(config: &mesh::Peer, noise: Tunn) -> Self {
        Self {
            key: config.public_key,
            address: config.address.to_bits(),
            noise: Mutex::new(noise),
            endpoint: Mutex::new(config.endpoint),
            config: Mutex::new(config.clone()),
            handshake: Mutex::new(None),
            answered: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Takes over what may change about a peer that stays.
    pub(super) fn adopt(&self, wanted: &mesh::Peer) {
        let mut config = lock(&self.config);
        if config.preshared_key != wanted.preshared_key {
            lock(&self.noise).set_preshared_key(Some(*wanted.preshared_key.bytes()));
        }
        if config.endpoint != wanted.endpoint {
            *lock(&self.endpoint) = wanted.endpoint;
        }
        *config = wanted.clone();
    }

    /// Notes an authentic packet: the peer is where it came from.
    pub(super) fn heard(&self, from: SocketAddr, length: usize, kind: Kind) {
        self.received.fetch_add(length as u64, Ordering::Relaxed);
        let mut endpoint = lock(&self.endpoint);
        if *endpoint != from && kind != Kind::Cookie {
            *endpoint = from;
        }
        drop(endpoint);
        match kind {
            Kind::Initiation => self.answered.store(true, Ordering::Relaxed),
            Kind::Response => *lock(&self.handshake) = Some(Instant::now()),
            Kind::Cookie | Kind::Data => {}
        }
    }

    /// Notes that data has come; returns whether it is the first after a handshake that we have answered.
    pub(super) fn confirmed(&self) -> bool {
        let first = self.answered.load(Ordering::Relaxed) && self.answered.swap(false, Ordering::Relaxed);
        if first {
            *lock(&self.handshake) = Some(Instant::now());
        }
        first
    }
}
