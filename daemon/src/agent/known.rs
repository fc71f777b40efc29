//! What the agent knows, and what follows from what it hears.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use weft_model::NetworkName;
use weft_overlay::{Event, HostId, Key, NetworkId, Snapshot};
use weft_state::Root;
use weft_store::{Reason, SharedStore, Update};
use weft_tunnel::Slot;

use super::blocks::Claims;
use super::collect::Leftovers;
use super::copies::Copies;
use super::files::Made;
use super::lending::Answers;
use super::membership::{Membership, UNREADABLE};
use super::removal::LetGo;
use super::underlay::Place;
use super::usage::Usage;

/// What it knows.
pub(crate) struct Inner {
    /// What this host joined, if it has.
    pub(crate) membership: Option<Membership>,
    /// Where it is on the underlay.
    pub(crate) place: Option<Place>,
    /// Since when an address of that place is gone, as far as others are not told yet.
    pub(super) leaving: Option<Instant>,
    /// The cluster as it was last heard of.
    pub(crate) snapshot: Snapshot,
    /// Where it is heard of.
    pub(crate) store: Option<SharedStore>,
    /// How that goes.
    pub(crate) hearing: Hearing,
    /// Whether the last round left the kernel with the rules that no device is made without.
    pub(super) guarded: bool,
    /// Which programs work on the mesh, where those are ours.
    pub(super) tunnels: BTreeMap<Slot, String>,
    /// Networks that are not to be had here, and why.
    pub(super) refusals: BTreeMap<(&'static str, NetworkId), String>,
    /// What else somebody should look at, by what it is about.
    pub(crate) troubles: BTreeMap<String, String>,
    /// What networks' files were last made of.
    pub(crate) made: BTreeMap<NetworkId, Made>,
    /// Claims that are being made.
    pub(crate) claims: Claims,
    /// Answers to hosts that ask for addresses.
    pub(crate) answers: Answers,
    /// Networks that this host has let go of.
    pub(crate) let_go: LetGo,
    /// What there is to collect.
    pub(crate) leftovers: Leftovers,
    /// Leases of this host's containers.
    pub(crate) usage: Usage,
    /// What was counted since the start.
    pub(crate) counts: Counts,
    /// What plugins were last told.
    pub(super) told: Option<Option<String>>,
    /// Which copies of the snapshot are older than it is.
    pub(super) copies: Copies,
    /// The tasks of the membership.
    pub(super) tasks: Vec<JoinHandle<()>>,
}

/// So many reasons are told while the store is away: whoever finds ever other words does not fill the log.
const REASONS: usize = 16;

/// How it goes with the store.
#[derive(Debug, Default)]
pub(crate) struct Hearing {
    /// Whether it answers.
    pub(crate) connected: bool,
    /// Whether it has answered since the agent started.
    pub(crate) ever: bool,
    /// When it was last heard of.
    pub(crate) last: Option<Instant>,
    /// What was wrong last.
    pub(crate) error: Option<String>,
    /// What was told of it since it went away: two reasons may take turns.
    pub(crate) told: BTreeSet<String>,
    /// Why records are kept that it has lost.
    pub(crate) alarm: Option<String>,
}

impl Hearing {
    /// Notes that the store does not answer; returns whether that is to be told.
    fn lost(&mut self, why: &str) -> bool {
        self.connected = false;
        self.error = Some(why.into());
        self.told.len() < REASONS && self.told.insert(why.into())
    }

    /// Notes that the store answers; returns whether that is to be told.
    fn answers(&mut self) -> bool {
        let news = !self.connected && self.error.is_some();
        (self.connected, self.ever, self.error) = (true, true, None);
        self.last = Some(Instant::now());
        self.told.clear();
        news
    }
}

/// What was counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Listings of the whole store, by the reason.
    pub(crate) listings: BTreeMap<&'static str, u64>,
    /// Rounds, and how long the last took.
    pub(crate) rounds: u64,
    /// How long the kernel took in the last round.
    pub(crate) applied: Duration,
    /// Things that others had changed in the kernel.
    pub(crate) drift: BTreeMap<String, u64>,
}

impl Inner {
    /// Returns what an agent knows that has just started below `root`.
    pub(super) fn new(root: &Root) -> Self {
        Self {
            membership: None,
            place: None,
            leaving: None,
            snapshot: Snapshot::default(),
            store: None,
            hearing: Hearing::default(),
            guarded: false,
            tunnels: BTreeMap::new(),
            refusals: BTreeMap::new(),
            troubles: BTreeMap::new(),
            made: BTreeMap::new(),
            claims: Claims::default(),
            answers: Answers::default(),
            let_go: LetGo::default(),
            leftovers: Leftovers::default(),
            usage: Usage::new(root),
            counts: Counts::default(),
            told: None,
            copies: Copies::default(),
            tasks: Vec::new(),
        }
    }

    /// Returns why this host is out of the cluster although it has not left, if it is.
    pub(crate) fn is_out(&self) -> Option<String> {
        out_of(&self.snapshot, self.membership.as_ref()?.host)
    }

    /// Returns whether the cluster has no such network. That it is not known of is not enough: nothing may be known.
    pub(crate) fn is_gone(&self, network: NetworkId) -> bool {
        let sure = match self.membership {
            None => !self.troubles.contains_key(UNREADABLE),
            Some(_) => self.hearing.ever && self.hearing.alarm.is_none(),
        };
        sure && self.snapshot.network(network).is_none()
    }

    /// Takes note of what the store says; returns whether the kernel may have to follow.
    pub(super) fn hear(&mut self, update: Update, own: Option<HostId>) -> bool {
        let hearing = &mut self.hearing;
        match &update {
            Update::Lost(why) => {
                if hearing.lost(why) {
                    eprintln!("weftd: the store does not answer: {why}");
                }
                return false;
            }
            _ => {
                if hearing.answers() {
                    eprintln!("weftd: the store answers again");
                }
            }
        }
        let before: BTreeMap<NetworkName, NetworkId> = match &update {
            Update::Changes(events) if !events.iter().any(is_deletion) => BTreeMap::new(),
            Update::Listed(..) | Update::Changes(_) => {
                self.snapshot.networks().map(|network| (network.name.clone(), network.id)).collect()
            }
            _ => BTreeMap::new(),
        };
        let changes = match update {
            Update::Listed(listing, why) => {
                if why != Reason::Start {
                    eprintln!("weftd: everything is read again from the store: {why}");
                }
                *self.counts.listings.entry(why.word()).or_default() += 1;
                self.snapshot.adopt(&listing, own)
            }
            Update::Changes(events) => self.snapshot.apply(&events, own),
            Update::Progress(revision) => {
                self.snapshot.progress(revision);
                return false;
            }
            Update::Back | Update::Lost(_) => return false,
        };
        for key in changes.keys() {
            if let Key::Network(name) = key
                && let Some(id) = before.get(name).filter(|id| self.snapshot.network(**id).is_none())
            {
                self.leftovers.note_gone(*id);
            }
        }
        if let Some(alarm) = changes.alarm {
            eprintln!("weftd: {alarm}: what is known from before is kept");
            self.hearing.alarm = Some(alarm.to_string());
        }
        if self.snapshot.held().next().is_none() {
            self.hearing.alarm = None;
        }
        // That a host is heard of or not changes nothing in the kernel.
        let matters = changes.alarm.is_some() || changes.keys().any(|key| !matches!(key, Key::Alive(_)));
        self.copies.outdate(matters);
        matters
    }
}

/// Returns why a host is out of the cluster, if it is.
pub(super) fn out_of(snapshot: &Snapshot, own: HostId) -> Option<String> {
    if let Some(left) = snapshot.left().find(|left| left.host == own) {
        return Some(format!("this host is out of the cluster: {}", left.reason));
    }
    let by = snapshot.host(own)?.superseded_by?;
    Some(format!("this host was replaced by {by}, which took over its underlay address"))
}

const fn is_deletion(event: &Event) -> bool {
    matches!(event, Event::Delete { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_take_turns_are_told_once_in_each_outage() {
        let mut hearing = Hearing::default();
        assert!(!hearing.answers(), "it was never away");
        for _ in 0..2 {
            let told: Vec<bool> = ["a", "b", "a", "b", "a"].map(|why| hearing.lost(why)).into();
            assert_eq!(told, [true, true, false, false, false]);
            assert_eq!(hearing.error.as_deref(), Some("a"), "status has the last one");
            assert!(hearing.answers());
            assert!(!hearing.answers());
        }
        let told = (0..100).filter(|number| hearing.lost(&number.to_string())).count();
        assert_eq!(told, REASONS);
    }
}
