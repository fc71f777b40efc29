//! The kernel of this host: brought to what is desired, and listened to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::Interest as Readiness;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use weft_manager::Kind;
use weft_manager::overlay::protocol::Refusal;
use weft_model::{IfName, NetworkName};
use weft_netlink::{Interest, Socket, Watch, link};
use weft_netns::Identity;
use weft_overlay::desired::{Desired, DesiredNetwork};
use weft_overlay::kernel::{self, Drift, PROTOCOL, Reconciler, Report, Subject, Trouble};
use weft_state::Root;
use weft_tunnel::Slot;

use super::agent::Agent;
use super::gates::Keeper;
use super::underlay;

/// What others do comes in several steps: they are looked at together.
const SETTLED: Duration = Duration::from_millis(50);

/// The kernel of this host.
pub(crate) struct Kernel {
    root: Root,
    reconciler: Reconciler,
    /// What it was last brought to.
    last: RefCell<Desired>,
    /// What is listened to: the host's own namespace, and those of isolated networks.
    ears: RefCell<BTreeMap<Option<NetworkName>, Ear>>,
    turn: Mutex<()>,
    /// Whoever keeps the gates of the fast path.
    pub(crate) gates: RefCell<Keeper>,
}

/// Somebody who listens to a namespace.
struct Ear {
    interest: watch::Sender<Interest>,
    task: JoinHandle<()>,
    /// Where the namespace was pinned, unless it is the host's own. Listening keeps a namespace, pinned or not.
    home: Option<(PathBuf, Identity)>,
}

impl Ear {
    /// Returns whether it listens to the namespace that its networks have.
    fn is_right(&self) -> bool {
        !self.task.is_finished() && self.home.as_ref().is_none_or(|(path, home)| home.is_at(path))
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kernel {
    pub(crate) fn new(root: &Root) -> std::io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            root: root.clone(),
            reconciler: Reconciler::new(root),
            last: RefCell::default(),
            ears: RefCell::default(),
            turn: Mutex::new(()),
            gates: RefCell::new(Keeper::new(root)?),
        }))
    }

    /// Waits until nobody else works on the kernel.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Brings the kernel to what is desired. Returns what was done, and whether the same was desired before.
    pub(crate) async fn apply(&self, desired: Desired) -> (Report, bool) {
        let same = *self.last.borrow() == desired;
        let reconciler = self.reconciler.clone();
        let wanted = desired.clone();
        let applied = spawn_blocking(move || reconciler.apply(&wanted)).await;
        self.gates.borrow().tell(&desired);
        *self.last.borrow_mut() = desired;
        // It panicked, and has said so; the next round tries again.
        (applied.unwrap_or_default(), same)
    }

    /// Returns what is not as desired.
    pub(crate) async fn verify(&self, desired: Desired) -> Result<Vec<Drift>, Refusal> {
        let reconciler = self.reconciler.clone();
        let failed = |error: &dyn std::fmt::Display| Refusal::new(Kind::Failed, error.to_string());
        match spawn_blocking(move || reconciler.verify(&desired)).await {
            Ok(Ok(drifts)) => Ok(drifts),
            Ok(Err(error)) => {
                let hint = error.hint();
                Err(Refusal { hint, ..failed(&Trouble { network: None, error }) })
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Returns which of its networks' packets go the slow way although they need not, and why.
    pub(crate) async fn slow(&self, desired: Desired) -> BTreeMap<NetworkName, String> {
        let reconciler = self.reconciler.clone();
        let slow = spawn_blocking(move || reconciler.slow(&desired)).await;
        // Whoever asks how things are hears of a kernel that does not answer elsewhere.
        slow.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Returns what the kernel was last brought to.
    pub(crate) fn last(&self) -> Desired {
        self.last.borrow().clone()
    }

    /// Listens to the namespaces that networks are in, for what is theirs there.
    pub(crate) fn listen_to(self: &Rc<Self>, agent: &Rc<Agent>, desired: &Desired, underlay: Option<&str>) {
        let mut wanted: BTreeMap<Option<NetworkName>, Vec<&DesiredNetwork>> =
            BTreeMap::from([(None, Vec::new())]);
        for network in &desired.networks {
            let place = network.local.isolated.then(|| network.local.name.clone());
            wanted.entry(place).or_default().push(network);
        }
        self.ears.borrow_mut().retain(|place, ear| wanted.contains_key(place) && ear.is_right());
        for (place, networks) in wanted {
            let outcome = self.listen_at(agent, place.as_ref(), &networks, underlay);
            let what = place.as_ref().map_or_else(|| "the host".into(), |name| format!("network {name}"));
            let why = outcome.err().map(|error| format!("what others do to {what} is not heard: {error:#}"));
            agent.trouble(&format!("listening {what}"), why);
        }
    }

    /// Lets go of namespaces that are their networks' no more, whoever has unpinned them, and has others made.
    ///
    /// KERNEL: a namespace lives as long as somebody listens to it, and its VXLAN devices keep their identifiers from those that take
    /// their place.
    pub(crate) fn look_for_homes(&self, agent: &Agent) {
        let mut ears = self.ears.borrow_mut();
        let before = ears.len();
        ears.retain(|_, ear| ear.is_right());
        if ears.len() != before {
            agent.touch();
        }
    }

    fn listen_at(
        self: &Rc<Self>,
        agent: &Rc<Agent>,
        place: Option<&NetworkName>,
        networks: &[&DesiredNetwork],
        underlay: Option<&str>,
    ) -> Result<()> {
        let home = match networks.first().filter(|_| place.is_some()) {
            // What could not be made is listened to when it is.
            Some(network) => match kernel::home(&network.local, &self.root, false)? {
                None => return Ok(()),
                home => home,
            },
            None => None,
        };
        let opened = || -> Result<(Watch, Interest)> {
            Ok((Watch::open()?, interest(networks, underlay.filter(|_| place.is_none()))?))
        };
        let (watch, interest) = match &home {
            Some(home) => home.run(opened)??,
            None => opened()?,
        };
        let mut ears = self.ears.borrow_mut();
        if let Some(ear) = ears.get(&place.cloned()) {
            ear.interest.send_replace(interest);
            return Ok(());
        }
        let (sender, receiver) = watch::channel(interest);
        let watch = readable(watch)?;
        let task = spawn_local(listen(agent.clone(), self.clone(), watch, receiver, place.is_none()));
        let home = home.map(|home| (home.path().to_owned(), home.identity()));
        ears.insert(place.cloned(), Ear { interest: sender, task, home });
        Ok(())
    }

    /// Looks whether something is out of step, and leads to a round if it is.
    async fn look(&self, agent: &Agent) {
        tokio::time::sleep(SETTLED).await;
        agent.touch_mesh();
        let turn = self.turn().await;
        let desired = self.last();
        let found = self.verify(desired).await;
        drop(turn);
        // What the kernel cannot do it would be asked for again and again: each attempt is a change that is heard.
        let can_be = |drift: &Drift| drift.subject != Subject::Incapable;
        if found.is_ok_and(|found| !found.iter().any(can_be)) {
            return;
        }
        agent.touch();
    }
}

/// Returns what counts in the calling thread's namespace.
fn interest(networks: &[&DesiredNetwork], underlay: Option<&str>) -> Result<Interest> {
    let mut socket = Socket::open()?;
    let protocols = [PROTOCOL, weft_netlink::wireguard::PROTOCOL].into();
    let mut interest = Interest { protocols, ..Interest::default() };
    let mut index =
        |name: &IfName| Ok::<_, anyhow::Error>(socket.link(link::get(name))?.map(|link| link.index));
    for network in networks {
        interest.links.extend(index(&network.local.bridge)?);
        let tunnel = index(&network.local.vxlan)?;
        interest.links.extend(tunnel);
        interest.neighbours.extend(tunnel);
    }
    for slot in Slot::ALL {
        interest.links.extend(index(&slot.device())?);
    }
    if let Some(underlay) = underlay.and_then(|name| name.parse().ok()) {
        interest.links.extend(index(&underlay)?);
    }
    Ok(interest)
}

fn readable<T: AsRawFd + std::fmt::Debug + Send + Sync + 'static>(heard: T) -> Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe: for those whose descriptor changes, which ours does not"
    )]
    let heard = AsyncFd::try_with_interest(heard, Readiness::READABLE);
    heard.context("cannot wait for the kernel")
}

/// Listens to a namespace until its networks are gone; `outside` if it is the host's own, which the underlay is in.
async fn listen(
    agent: Rc<Agent>,
    kernel: Rc<Kernel>,
    mut watch: AsyncFd<Watch>,
    mut interest: watch::Receiver<Interest>,
    outside: bool,
) {
    watch.get_mut().concern(interest.borrow_and_update().clone());
    loop {
        tokio::select! {
            changed = interest.changed() => {
                if changed.is_err() {
                    return;
                }
                watch.get_mut().concern(interest.borrow_and_update().clone());
            }
            ready = watch.readable_mut() => {
                let Ok(mut ready) = ready else { return };
                let changed = ready.get_inner_mut().changed();
                ready.clear_ready();
                match changed {
                    Ok(false) => {}
                    Ok(true) => {
                        kernel.look(&agent).await;
                        if outside {
                            underlay::look(&agent).await;
                        }
                    }
                    // The next round listens anew.
                    Err(_) => return agent.touch(),
                }
            }
        }
    }
}

/// Listens to the firewall, which keeps strangers' packets out of the tunnels.
pub(crate) async fn listen_to_firewall(agent: Rc<Agent>, kernel: Rc<Kernel>) {
    let monitor = weft_nft::Monitor::open().map_err(anyhow::Error::from).and_then(readable);
    let mut monitor = match monitor {
        Ok(monitor) => monitor,
        Err(error) => {
            let why = format!("what others do to the firewall is not heard: {error:#}");
            return agent.trouble("listening to the firewall", Some(why));
        }
    };
    loop {
        let Ok(mut ready) = monitor.readable_mut().await else { return };
        let changed = ready.get_inner_mut().changed();
        ready.clear_ready();
        match changed {
            Ok(false) => {}
            Ok(true) => kernel.look(&agent).await,
            Err(_) => return,
        }
    }
}
