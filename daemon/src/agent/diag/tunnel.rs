//! The tunnel to a host, by which packets of encrypted networks go, and whether anybody answers at its other end.

use std::time::{Duration, Instant};

use weft_overlay::ids::PublicKey;
use weft_overlay::records::Host;
use weft_tunnel::{PeerStats, Slot};

use super::{Broken, Ground, Way};

/// When WireGuard tries again to shake hands (Rekey-Timeout, white paper, section 6.1).
const RETRY: Duration = Duration::from_secs(5);
/// How long a handshake is waited for: one of two may be lost on the way. And how often it is looked.
const LIMIT: Duration = Duration::from_secs(7);
const PAUSE: Duration = Duration::from_millis(200);

/// Goes on through the device that packets to a host leave by.
///
/// A session may be minutes old and its peer gone, so the peer is asked for another handshake, which costs no packet.
pub(super) fn walk(ground: &Ground, mut way: Way, host: &Host, device: &str) -> Result<Way, Broken> {
    let Some(slot) = Slot::ALL.into_iter().find(|slot| slot.device().as_str() == device) else {
        let mend = format!("ip -details link show {device}");
        return Err(way.broken("tunnel", format!("{device} is no device of the mesh"), mend));
    };
    let Some(theirs) = slot.of(&host.wireguard) else {
        let found = format!("slot {slot}: {} has told no key", host.name);
        return Err(way.broken("tunnel", found, format!("weft overlay status, on {}", host.name)));
    };
    let peer = match peer(ground, slot, &theirs.public_key) {
        Ok(Some(peer)) => peer,
        Ok(None) => {
            return Err(way.broken(
                "tunnel",
                format!("slot {slot} does not know {}", host.name),
                ground.mend(),
            ));
        }
        Err(why) => return Err(way.broken("tunnel", why, ground.mend())),
    };
    way.sound("tunnel", format!("slot {slot}, {} B in, {} B out", peer.received, peer.sent));
    let (before, key) = (peer.handshake, theirs.public_key);
    let age = if before.is_some_and(|before| before < RETRY) {
        before
    } else {
        let begun = Instant::now();
        match ground.mesh.work_here(&ground.root, |driver| driver.greet(slot, &key, before)) {
            Ok(true) => awaited(ground, slot, &key, begun),
            Ok(false) => before,
            Err(refusal) => return Err(way.broken("tunnel", refusal.why, ground.mend())),
        }
    };
    let Some(age) = age else {
        let ago = before.map_or("never".into(), |age| format!("last {} s ago, and none now", age.as_secs()));
        let mend = format!(
            "let UDP port {} pass between the hosts; then weft overlay status, on {}",
            theirs.port, host.name
        );
        return Err(way.broken("handshake", format!("{ago}, with {}", host.name), mend));
    };
    way.sound("handshake", format!("{} s ago", age.as_secs()));
    Ok(way)
}

/// Returns how things stand with a peer, or why that cannot be told.
fn peer(ground: &Ground, slot: Slot, key: &PublicKey) -> Result<Option<PeerStats>, String> {
    let stats = ground.mesh.work_here(&ground.root, |driver| driver.stats(slot));
    Ok(stats.map_err(|refusal| refusal.why)?.into_iter().find(|peer| peer.public_key == *key))
}

/// Waits for a handshake that comes after `begun`; returns how old it is.
fn awaited(ground: &Ground, slot: Slot, key: &PublicKey, begun: Instant) -> Option<Duration> {
    while begun.elapsed() < LIMIT {
        let age = peer(ground, slot, key).ok().flatten().and_then(|peer| peer.handshake);
        if age.is_some_and(|age| age < begun.elapsed()) {
            return age;
        }
        std::thread::sleep(PAUSE);
    }
    None
}
