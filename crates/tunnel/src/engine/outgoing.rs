//! Packets on their way to the underlay.

use std::sync::Arc;

use bytes::BytesMut;
use gotatun::packet::{Packet, WgData};

use super::Engine;
use super::peer::{Peer, lock};

/// What was sealed for one peer and not been sent.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) sealed: Vec<Packet<WgData>>,
    pub(super) arena: BytesMut,
}

impl Outgoing {
    /// Sends it.
    pub(super) fn flush(&mut self, engine: &Engine) {
        if let Some(peer) = self.peer.as_ref().filter(|_| !self.sealed.is_empty()) {
            let to = *lock(&peer.endpoint);
            let datagrams: Vec<Packet> = self.sealed.drain(..).map(Packet::<[u8]>::from).collect();
            engine.transmit(peer, to, &datagrams);
        }
        self.sealed.clear();
        // Whoever is next is looked up again: peers may have changed.
        self.peer = None;
    }
}
