//! How a host's keys are replaced with no packet lost: two slots, and no moment at which all hosts must agree.
//!
//! A host makes a second device with a new key and publishes it; its peers make theirs. Each pair shakes hands there, and
//! each side moves its own traffic once it knows that the other can read it. Packets are taken from either device all the
//! time. The old device goes when no peer that is alive uses it, and a while later. [`plan`] is a function of what is
//! published and what is observed, so a host that was interrupted anywhere goes on where it was.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use weft_overlay::ids::{HostId, PublicKey};
use weft_overlay::records::{self, SlotState, Slots};

use crate::slot::Slot;

/// A session is not used for longer than this after its handshake (Reject-After-Time, WireGuard white paper, section 6.1).
pub const SESSION: Duration = Duration::from_secs(180);

/// When things happen that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a slot stays that nobody uses any more: packets that were on their way are still taken.
    pub linger: Duration,
    /// After how long a slot retires although some peer that is alive has not moved.
    pub max_overlap: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { linger: SESSION, max_overlap: Duration::from_secs(24 * 3600) }
    }
}

/// Another host, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Which.
    pub host: HostId,
    /// Its address inside the mesh.
    pub address: Ipv6Addr,
    /// Its address outside.
    pub underlay: IpAddr,
    /// Whether it is heard of. One that is not stays a peer, and is not waited for.
    pub alive: bool,
    /// Its keys.
    pub wireguard: Slots<Option<records::Slot>>,
}

/// What this host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Its keys, as it publishes them.
    pub wireguard: Slots<Option<records::Slot>>,
    /// For how long the retiring one, if there is one, has been so.
    pub retiring_for: Option<Duration>,
}

/// What can be seen on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// How long ago the last confirmed handshake with each peer was, by slot.
    pub handshakes: Slots<BTreeMap<PublicKey, Duration>>,
    /// By which slot packets to an address of the mesh leave.
    pub routes: BTreeMap<Ipv6Addr, Slot>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a key and publish it.
    Create(Slot),
    /// Begin a handshake.
    Handshake(Slot, PublicKey),
    /// Send packets to this address by this slot from now on.
    Route(Ipv6Addr, Slot),
    /// Send no packets to this address any more.
    Unroute(Ipv6Addr, Slot),
    /// Publish that peers should not use the slot any more.
    Retire(Slot),
    /// Remove the slot's device and key.
    Remove(Slot),
}

/// Returns what is to be done now. Nothing to do means that nothing changes until something else does, or time passes.
pub fn plan(own: &Own, remotes: &[Remote], observed: &Observed, now: u64, policy: Policy) -> Vec<Step> {
    let mut steps: Vec<Step> = missing(own, remotes).into_iter().map(Step::Create).collect();
    let mut used: BTreeMap<Ipv6Addr, Slot> = BTreeMap::new();
    for remote in remotes {
        let present = observed.routes.get(&remote.address).copied();
        match way(own, remote, present, observed) {
            Way::Stay(slot) => drop(used.insert(remote.address, slot)),
            Way::Wait(slot, better, key) => {
                steps.push(Step::Handshake(better, key));
                used.insert(remote.address, slot);
            }
            Way::Move(slot) => {
                steps.push(Step::Route(remote.address, slot));
                used.insert(remote.address, slot);
            }
            Way::None => steps.extend(present.map(|slot| Step::Unroute(remote.address, slot))),
        }
    }
    let known = |address: &Ipv6Addr| remotes.iter().any(|remote| remote.address == *address);
    let strangers = observed.routes.iter().filter(|(address, _)| !known(address));
    steps.extend(strangers.map(|(address, slot)| Step::Unroute(*address, *slot)));
    steps.extend(end_of_old(own, remotes, observed, &used, now, policy));
    steps
}

/// Returns the slots that a key is wanted in: that of each peer's newest key, and one in any case.
fn missing(own: &Own, remotes: &[Remote]) -> Vec<Slot> {
    let alive = remotes.iter().filter(|remote| remote.alive);
    let wanted: Vec<Slot> = alive.filter_map(|remote| newest(&remote.wireguard)).collect();
    let mut slots: Vec<Slot> = Slot::ALL
        .into_iter()
        .filter(|slot| wanted.contains(slot) && slot.of(&own.wireguard).is_none())
        .collect();
    if slots.is_empty() && own.wireguard.a.is_none() && own.wireguard.b.is_none() {
        slots.push(Slot::A);
    }
    slots
}

/// Returns the slot that holds the newest key meant to be used.
pub fn newest(pair: &Slots<Option<records::Slot>>) -> Option<Slot> {
    let rank = |slot: &Slot| slot.of(pair).map(|key| (key.state == SlotState::Active, key.epoch));
    Slot::ALL.into_iter().filter(|slot| rank(slot).is_some()).max_by_key(rank)
}

/// How packets to a host should go.
enum Way {
    /// As they do.
    Stay(Slot),
    /// As they do, by the first, until the second is known to work.
    Wait(Slot, Slot, PublicKey),
    /// By this slot.
    Move(Slot),
    /// There is none.
    None,
}

fn way(own: &Own, remote: &Remote, present: Option<Slot>, observed: &Observed) -> Way {
    let both = |slot: Slot| Some(((*slot.of(&own.wireguard))?, (*slot.of(&remote.wireguard))?));
    // Of two slots that both hosts have, the one nobody retires; then the one with the newest key of either. Of two that
    // are alike in all that, both hosts choose the first.
    let rank = |slot: Slot| {
        let (ours, theirs) = both(slot)?;
        let active = ours.state == SlotState::Active && theirs.state == SlotState::Active;
        Some((active, ours.epoch.max(theirs.epoch), slot == Slot::A))
    };
    let works = |slot: Slot| {
        let key = both(slot).map(|(_, theirs)| theirs.public_key);
        key.and_then(|key| slot.of(&observed.handshakes).get(&key)).is_some_and(|age| *age < SESSION)
    };
    let Some(best) =
        Slot::ALL.into_iter().filter(|slot| rank(*slot).is_some()).max_by_key(|slot| rank(*slot))
    else {
        return Way::None;
    };
    match (present.filter(|slot| both(*slot).is_some()), both(best)) {
        (Some(slot), _) if slot == best => Way::Stay(slot),
        (Some(slot), Some((_, theirs))) if !works(best) => Way::Wait(slot, best, theirs.public_key),
        // Nothing is lost by waiting for a handshake when there is no other way.
        (None, _) if !works(best) && works(best.other()) => Way::Move(best.other()),
        _ => Way::Move(best),
    }
}

/// Returns what is to be done about the older of two keys.
fn end_of_old(
    own: &Own,
    remotes: &[Remote],
    observed: &Observed,
    used: &BTreeMap<Ipv6Addr, Slot>,
    now: u64,
    policy: Policy,
) -> Option<Step> {
    let new = newest(&own.wireguard)?;
    let (old, newer) = ((*new.other().of(&own.wireguard))?, (*new.of(&own.wireguard))?);
    let mut alive = remotes.iter().filter(|remote| remote.alive);
    let moved = alive.all(|remote| used.get(&remote.address) != Some(&new.other()));
    let overdue = Duration::from_millis(now.saturating_sub(newer.epoch)) >= policy.max_overlap;
    if !moved && !overdue {
        return None;
    }
    // A peer whose agent is away goes on sending as it did, and shakes hands every two minutes as long as it does.
    let ages = new.other().of(&observed.handshakes).values();
    let silent = overdue || ages.into_iter().all(|age| *age >= policy.linger);
    match old.state {
        SlotState::Active => Some(Step::Retire(new.other())),
        SlotState::Retiring if silent && own.retiring_for.is_some_and(|time| time >= policy.linger) => {
            Some(Step::Remove(new.other()))
        }
        SlotState::Retiring => None,
    }
}

#[cfg(test)]
mod tests;
