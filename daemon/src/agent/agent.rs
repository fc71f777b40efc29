//! What the agent knows, and who works on it. All of it lives on one thread: nothing is held across a wait.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use weft_manager::overlay::protocol::Refusal;
use weft_manager::{Kind, Manager};
use weft_overlay::here::Health;
use weft_overlay::{HostId, Key, NetworkId, Snapshot};
use weft_state::{Root, StateError};
use weft_store::{SharedStore, Update};

use super::blocks::Claims;
use super::files::Made;
use super::membership::{Membership, MembershipFile};
use super::mesh::Mesh;
use super::underlay::Place;
use super::usage::Usage;

/// The snapshot is not written more often than this.
const REST: Duration = Duration::from_millis(900);

/// The agent of one host.
pub(crate) struct Agent {
    pub(crate) root: Root,
    pub(crate) manager: Arc<Manager>,
    pub(crate) file: MembershipFile,
    pub(crate) mesh: Mesh,
    /// Held by whoever joins or leaves.
    pub(crate) turn: Mutex<()>,
    inner: RefCell<Inner>,
    dirty: Notify,
    urgent: Notify,
    rounds: watch::Sender<u64>,
}

/// What it knows.
pub(crate) struct Inner {
    /// What this host joined, if it has.
    pub(crate) membership: Option<Membership>,
    /// Where it is on the underlay.
    pub(crate) place: Option<Place>,
    /// The cluster as it was last heard of.
    pub(crate) snapshot: Snapshot,
    /// Where it is heard of.
    pub(crate) store: Option<SharedStore>,
    /// How that goes.
    pub(crate) hearing: Hearing,
    /// Networks that are not to be had here, and why.
    refusals: BTreeMap<(&'static str, NetworkId), String>,
    /// What else somebody should look at, by what it is about.
    pub(crate) troubles: BTreeMap<String, String>,
    /// What networks' files were last made of.
    pub(crate) made: BTreeMap<NetworkId, Made>,
    /// Claims that are being made.
    pub(crate) claims: Claims,
    /// Leases of this host's containers.
    pub(crate) usage: Usage,
    /// What was counted since the start.
    pub(crate) counts: Counts,
    /// What plugins were last told.
    told: Option<Option<String>>,
    /// Whether the snapshot on disk is older than ours, and when it was written.
    unsaved: bool,
    saved: Option<Instant>,
    /// The tasks of the membership.
    tasks: Vec<JoinHandle<()>>,
}

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
    /// Why records are kept that it has lost.
    pub(crate) alarm: Option<String>,
}

/// What was counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Listings of the whole store, by the reason.
    pub(crate) listings: BTreeMap<String, u64>,
    /// Rounds, and how long the last took.
    pub(crate) rounds: u64,
    /// How long the kernel took in the last round.
    pub(crate) applied: Duration,
    /// Things that others had changed in the kernel.
    pub(crate) drift: BTreeMap<String, u64>,
}

impl Agent {
    pub(crate) fn new(root: Root, manager: Manager) -> Rc<Self> {
        let inner = Inner {
            membership: None,
            place: None,
            snapshot: Snapshot::default(),
            store: None,
            hearing: Hearing::default(),
            refusals: BTreeMap::new(),
            troubles: BTreeMap::new(),
            made: BTreeMap::new(),
            claims: Claims::default(),
            usage: Usage::new(&root),
            counts: Counts::default(),
            told: None,
            unsaved: false,
            saved: None,
            tasks: Vec::new(),
        };
        Rc::new(Self {
            file: MembershipFile::new(&root),
            mesh: Mesh::default(),
            turn: Mutex::new(()),
            root,
            manager: Arc::new(manager),
            inner: RefCell::new(inner),
            dirty: Notify::new(),
            urgent: Notify::new(),
            rounds: watch::Sender::new(0),
        })
    }

    /// Reads what is known.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.borrow())
    }

    /// Changes what is known.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.borrow_mut())
    }

    /// Says that the kernel or files may be out of step.
    pub(crate) fn touch(&self) {
        self.dirty.notify_one();
    }

    /// Waits until something may be out of step.
    pub(crate) async fn touched(&self) {
        self.dirty.notified().await;
    }

    /// Has what this host says of itself be said at once.
    pub(crate) fn hurry(&self) {
        self.urgent.notify_one();
    }

    /// Waits until something is to be said at once.
    pub(crate) async fn hurried(&self) {
        self.urgent.notified().await;
    }

    /// Says that a round is over.
    pub(crate) fn round_over(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// Waits until `there` gives something, looking after each round.
    ///
    /// # Errors
    ///
    /// When that takes longer than `limit`; `what` says what was waited for.
    pub(crate) async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        there: impl Fn() -> Option<T>,
    ) -> Result<T, Refusal> {
        let mut rounds = self.rounds.subscribe();
        let wait = async {
            loop {
                if let Some(found) = there() {
                    return found;
                }
                self.touch();
                // The sender is ours: it goes when we do.
                rounds.changed().await.ok();
            }
        };
        tokio::time::timeout(limit, wait).await.map_err(|_| {
            let why = format!("{what}: not within {} s", limit.as_secs());
            Refusal::new(Kind::Failed, why).hint("weft overlay status")
        })
    }

    /// Returns the membership and the store.
    ///
    /// # Errors
    ///
    /// When this host is of no cluster.
    pub(crate) fn joined(&self) -> Result<(Membership, SharedStore), Refusal> {
        let (membership, store, error) =
            self.with(|inner| (inner.membership.clone(), inner.store.clone(), inner.hearing.error.clone()));
        let Some(membership) = membership else {
            let refusal = Refusal::new(Kind::NotFound, "this host is of no cluster");
            return Err(refusal.hint("weft overlay join --etcd URL"));
        };
        let unusable =
            || Refusal::new(Kind::Failed, error.unwrap_or_else(|| "the store was not asked yet".into()));
        Ok((membership, store.ok_or_else(unusable)?))
    }

    /// Returns this host's id, if it is of a cluster.
    pub(crate) fn host(&self) -> Option<HostId> {
        self.with(|inner| inner.membership.as_ref().map(|membership| membership.host))
    }

    /// Becomes a member, with what is known from before.
    pub(crate) fn enter(&self, membership: Membership, place: Option<Place>, snapshot: Snapshot) {
        self.change(|inner| {
            *inner = Inner {
                membership: Some(membership),
                place,
                store: None,
                snapshot,
                hearing: Hearing::default(),
                refusals: BTreeMap::new(),
                troubles: BTreeMap::new(),
                made: BTreeMap::new(),
                claims: Claims::default(),
                usage: Usage::new(&self.root),
                counts: std::mem::take(&mut inner.counts),
                told: inner.told.take(),
                unsaved: true,
                saved: None,
                tasks: Vec::new(),
            }
        });
        self.touch();
    }

    /// Notes what is wrong with something, or that nothing is any more. It is said once.
    pub(crate) fn trouble(&self, about: &str, why: Option<String>) {
        self.change(|inner| match why {
            None => drop(inner.troubles.remove(about)),
            Some(why) => {
                if inner.troubles.get(about) != Some(&why) {
                    eprintln!("weftd: {why}");
                }
                inner.troubles.insert(about.into(), why);
            }
        });
    }

    /// Notes which networks cannot be had, and no others, for reasons of one kind.
    pub(crate) fn refuse(&self, kind: &'static str, refused: BTreeMap<NetworkId, String>) {
        let before = self.with(|inner| {
            inner.refusals.keys().filter(|key| key.0 == kind).map(|key| key.1).collect::<Vec<_>>()
        });
        for id in before {
            if !refused.contains_key(&id) {
                self.refuse_one(kind, id, None);
            }
        }
        for (id, why) in refused {
            self.refuse_one(kind, id, Some(why));
        }
    }

    /// Notes that a network cannot be had, or that it can. It is said once.
    pub(crate) fn refuse_one(&self, kind: &'static str, id: NetworkId, why: Option<String>) {
        self.change(|inner| match why {
            None => drop(inner.refusals.remove(&(kind, id))),
            Some(why) => {
                if inner.refusals.get(&(kind, id)) != Some(&why) {
                    let name = inner.snapshot.network(id).map(|network| network.name.to_string());
                    eprintln!(
                        "weftd: network {} is not to be had on this host: {why}",
                        name.unwrap_or_default()
                    );
                }
                inner.refusals.insert((kind, id), why);
            }
        });
    }

    /// Has a task end with the membership.
    pub(crate) fn employ(&self, task: JoinHandle<()>) {
        self.change(|inner| inner.tasks.push(task));
    }

    /// Stops being a member. What the kernel has stays until the next round.
    pub(crate) fn exit(&self) {
        self.change(|inner| {
            inner.tasks.drain(..).for_each(|task| task.abort());
            inner.membership = None;
            inner.store = None;
            inner.snapshot = Snapshot::default();
            inner.hearing = Hearing::default();
            inner.unsaved = false;
        });
        self.touch();
    }

    /// Takes note of what the store says.
    pub(crate) fn hear(&self, update: Update) {
        let own = self.host();
        let changed = self.change(|inner| inner.hear(update, own));
        if changed {
            self.touch();
        }
    }

    /// Writes the snapshot if it has changed.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn save(&self) -> Result<(), StateError> {
        let snapshot =
            self.change(|inner| std::mem::take(&mut inner.unsaved).then(|| inner.snapshot.clone()));
        self.change(|inner| inner.saved = snapshot.as_ref().map(|_| Instant::now()).or(inner.saved));
        match snapshot {
            Some(snapshot) => snapshot.save(&self.snapshot_file()),
            None => Ok(()),
        }
    }

    /// Writes the snapshot if it has changed and was not written just now; what fails is told.
    pub(crate) fn save_told(&self) {
        let just_now = |inner: &Inner| inner.saved.is_some_and(|saved| saved.elapsed() < REST);
        if self.with(just_now) {
            return;
        }
        let why =
            self.save().err().map(|error| format!("{error}: a restart would go by what was known before"));
        if why.is_some() {
            self.change(|inner| inner.unsaved = true);
        }
        self.trouble("the snapshot", why);
    }

    /// Tells plugins how things are, when that has changed.
    pub(crate) fn tell_plugins(&self) {
        let why = self.with(|inner| inner.membership.as_ref().and_then(|_| inner.state().1));
        if self.with(|inner| inner.told.as_ref() == Some(&why)) {
            return;
        }
        match Health::save(&self.root, why.clone()) {
            Ok(()) => self.change(|inner| inner.told = Some(why)),
            Err(error) => eprintln!("weftd: {error}"),
        }
    }

    /// Returns where the snapshot is kept.
    pub(crate) fn snapshot_file(&self) -> PathBuf {
        self.root.overlay_dir().join("state.json")
    }
}

impl Inner {
    /// Returns why a network is not to be had on this host, if it is not.
    pub(crate) fn refused(&self, network: NetworkId) -> Option<&String> {
        self.refusals.iter().find(|((_, id), _)| *id == network).map(|(_, why)| why)
    }

    /// Returns whether a network is not to be had for a reason of this kind.
    pub(crate) fn is_refused_by(&self, kind: &'static str, network: NetworkId) -> bool {
        self.refusals.contains_key(&(kind, network))
    }

    /// Returns all networks that are not to be had on this host, and why.
    pub(crate) fn all_refused(&self) -> impl Iterator<Item = (NetworkId, &String)> {
        self.refusals.iter().map(|((_, id), why)| (*id, why))
    }

    /// Returns why this host is out of the cluster although it has not left, if it is.
    pub(crate) fn is_out(&self) -> Option<String> {
        let own = self.membership.as_ref()?.host;
        if let Some(left) = self.snapshot.left().find(|left| left.host == own) {
            return Some(format!("this host is out of the cluster: {}", left.reason));
        }
        let by = self.snapshot.host(own)?.superseded_by?;
        Some(format!("this host was replaced by {by}, which took over its underlay address"))
    }

    /// Returns whether the cluster has no such network. That it is not known of is not enough: nothing may be known.
    pub(crate) fn is_gone(&self, network: NetworkId) -> bool {
        let sure = self.membership.is_none() || (self.hearing.ever && self.hearing.alarm.is_none());
        sure && self.snapshot.network(network).is_none()
    }

    /// Takes note of what the store says; returns whether the kernel may have to follow.
    fn hear(&mut self, update: Update, own: Option<HostId>) -> bool {
        let hearing = &mut self.hearing;
        match &update {
            Update::Lost(why) => {
                if hearing.connected || hearing.error.is_none() {
                    eprintln!("weftd: the store does not answer: {why}");
                }
                hearing.connected = false;
                hearing.error = Some(why.clone());
                return false;
            }
            _ => {
                if !hearing.connected && hearing.error.is_some() {
                    eprintln!("weftd: the store answers again");
                }
                hearing.connected = true;
                hearing.ever = true;
                hearing.error = None;
                hearing.last = Some(Instant::now());
            }
        }
        let changes = match update {
            Update::Listed(listing, why) => {
                *self.counts.listings.entry(why).or_default() += 1;
                self.snapshot.adopt(&listing, own)
            }
            Update::Changes(events) => self.snapshot.apply(&events, own),
            Update::Progress(revision) => {
                self.snapshot.progress(revision);
                return false;
            }
            Update::Back | Update::Lost(_) => return false,
        };
        if let Some(alarm) = changes.alarm {
            eprintln!("weftd: {alarm}: what is known from before is kept");
            self.hearing.alarm = Some(alarm.to_string());
        }
        if self.snapshot.held().next().is_none() {
            self.hearing.alarm = None;
        }
        self.unsaved = true;
        // That a host is heard of or not changes nothing in the kernel.
        changes.alarm.is_some() || changes.keys().any(|key| !matches!(key, Key::Alive(_)))
    }
}
