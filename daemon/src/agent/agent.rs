//! What the agent knows, and who works on it. All of it lives on one thread: nothing is held across a wait.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use weft_manager::overlay::protocol::Refusal;
use weft_manager::{Kind, Manager};
use weft_overlay::{HostId, Snapshot};
use weft_state::Root;
use weft_store::{SharedStore, Update};

use super::copies::Copies;
use super::known::{Hearing, Inner};
use super::membership::{Membership, MembershipFile};
use super::mesh::Mesh;
use super::underlay::Place;

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
    untold: Notify,
    strayed: Notify,
    rounds: watch::Sender<u64>,
}

impl Agent {
    pub(crate) fn new(root: Root, manager: Manager) -> Rc<Self> {
        Rc::new(Self {
            file: MembershipFile::new(&root),
            mesh: Mesh::default(),
            turn: Mutex::new(()),
            inner: RefCell::new(Inner::new(&root)),
            root,
            manager: Arc::new(manager),
            dirty: Notify::new(),
            urgent: Notify::new(),
            untold: Notify::new(),
            strayed: Notify::new(),
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

    /// Says that the mesh may be out of step.
    pub(crate) fn touch_mesh(&self) {
        self.strayed.notify_one();
    }

    /// Waits until the mesh may be out of step.
    pub(crate) async fn mesh_touched(&self) {
        self.strayed.notified().await;
    }

    /// Has what this host says of itself be said at once.
    pub(crate) fn hurry(&self) {
        self.urgent.notify_one();
    }

    /// Waits until something is to be said at once.
    pub(crate) async fn hurried(&self) {
        self.urgent.notified().await;
    }

    /// Says that the store may not know where this host is.
    pub(crate) fn tell(&self) {
        self.untold.notify_one();
    }

    /// Waits until there may be something to tell the store.
    pub(crate) async fn to_be_told(&self) {
        self.untold.notified().await;
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
        let membership = self.membership()?;
        let (store, error) = self.with(|inner| (inner.store.clone(), inner.hearing.error.clone()));
        let unusable =
            || Refusal::new(Kind::Failed, error.unwrap_or_else(|| "the store was not asked yet".into()));
        Ok((membership, store.ok_or_else(unusable)?))
    }

    /// As [`Agent::joined`], for what somebody asks of a host that has a part in the cluster.
    ///
    /// # Errors
    ///
    /// When it has none, or none any more.
    pub(crate) fn at_home(&self) -> Result<(Membership, SharedStore), Refusal> {
        match self.with(Inner::is_out) {
            Some(why) => Err(Refusal::new(Kind::Failed, why).hint("weft overlay leave -f, and join again")),
            None => self.joined(),
        }
    }

    /// Returns the membership.
    ///
    /// # Errors
    ///
    /// When this host is of no cluster.
    pub(crate) fn membership(&self) -> Result<Membership, Refusal> {
        self.with(|inner| inner.membership.clone()).ok_or_else(of_no_cluster)
    }

    /// Returns this host's id, if it is of a cluster.
    pub(crate) fn host(&self) -> Option<HostId> {
        self.with(|inner| inner.membership.as_ref().map(|membership| membership.host))
    }

    /// Becomes a member, with what is known from before.
    pub(crate) fn enter(&self, membership: Membership, place: Option<Place>, snapshot: Snapshot) {
        let held = snapshot.held().next().is_some();
        let alarm = held.then(|| "the store had lost something before the agent started".into());
        self.change(|inner| {
            *inner = Inner {
                membership: Some(membership),
                place,
                snapshot,
                hearing: Hearing { alarm, ..Hearing::default() },
                counts: std::mem::take(&mut inner.counts),
                told: inner.told.take(),
                ..Inner::new(&self.root)
            };
            inner.copies.outdate(true);
        });
        self.mesh.open();
        self.touch();
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
            inner.copies = Copies::default();
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
}

/// What somebody is told who asks for what only a member has.
pub(crate) fn of_no_cluster() -> Refusal {
    Refusal::new(Kind::NotFound, "this host is of no cluster").hint("weft overlay join --etcd URL")
}
