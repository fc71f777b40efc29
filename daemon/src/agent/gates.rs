//! Keeping the gates of networks whose packets are led past the firewall as long as nobody else has a say.
//!
//! A thread of its own does it: a gate that is open has to be looked at within every second, and shut at once, whatever else the
//! agent is at.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_model::NetworkName;
use weft_overlay::desired::Desired;
use weft_overlay::kernel::{GateState, Gates, Reason, WantedGates};
use weft_state::Root;

use super::agent::Agent;

/// How often everything is looked at. A gate stays open for three times as long.
const PERIOD: Duration = Duration::from_secs(1);
/// For how long what a look has found is believed, and whoever keeps the gates is waited for.
const BELIEVED: Duration = Duration::from_secs(3);
/// What changes a ruleset does it in several steps: it is looked at again when that is over.
const SETTLED: Duration = Duration::from_millis(100);

/// How often it is asked whether a thread has ended.
const BREATH: Duration = Duration::from_millis(5);

/// Whoever keeps the gates, and what they are told and tell.
pub(crate) struct Keeper {
    root: Root,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    wanted: Mutex<WantedGates>,
    /// What the last look has found, and when.
    states: Mutex<Option<(Instant, BTreeMap<NetworkName, GateState>)>>,
    over: Mutex<bool>,
    /// Something to read wakes whoever keeps the gates.
    woken: UnixDatagram,
    wake: UnixDatagram,
}

impl Keeper {
    /// Returns a keeper that has nothing to keep yet.
    ///
    /// # Errors
    ///
    /// When there are no descriptors or threads left.
    pub(crate) fn new(root: &Root) -> io::Result<Self> {
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            states: Mutex::default(),
            over: Mutex::default(),
            woken,
            wake,
        });
        let mut keeper = Self { root: root.clone(), shared, thread: None };
        keeper.start()?;
        Ok(keeper)
    }

    fn start(&mut self) -> io::Result<()> {
        let (root, shared) = (self.root.clone(), self.shared.clone());
        self.thread = Some(thread::Builder::new().name("gates".into()).spawn(move || shared.keep(&root))?);
        Ok(())
    }

    /// Says what is desired now.
    pub(crate) fn tell(&self, desired: &Desired) {
        let wanted = WantedGates::of(desired);
        let mut before = lock(&self.shared.wanted);
        if *before != wanted {
            *before = wanted;
            drop(before);
            self.shared.wake();
        }
    }

    /// Returns how the gates are. One that nobody has looked at for so long has shut.
    pub(crate) fn states(&self) -> BTreeMap<NetworkName, GateState> {
        let Some((at, mut states)) = lock(&self.shared.states).clone() else { return BTreeMap::new() };
        let age = at.elapsed();
        if age > BELIEVED {
            let why = Reason::Unknown(format!("nobody has looked for {} s", age.as_secs()));
            for state in states.values_mut().filter(|state| **state == GateState::Open) {
                *state = GateState::Shut(vec![why.clone()]);
            }
        }
        states
    }

    /// Starts it again if it has ended, and says so. A panic ends no thread but the whole agent where it aborts, as it does in what is
    /// released: then systemd starts the agent again.
    pub(crate) fn attend(&mut self, agent: &Rc<Agent>) {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return agent.trouble("gates", None);
        }
        let ended = "whoever keeps the gates of the fast path has ended; it is shut, and another one begins";
        let outcome = self.start().map_err(|error| format!("{ended}: {error}"));
        agent.trouble("gates", Some(outcome.err().unwrap_or_else(|| ended.into())));
    }

    /// Shuts all gates, for good. Whoever does not get to it in time is not waited for: no gate stays open for longer.
    pub(crate) fn end(&mut self) {
        *lock(&self.shared.over) = true;
        self.shared.wake();
        let Some(thread) = self.thread.take() else { return };
        let latest = Instant::now() + BELIEVED;
        while !thread.is_finished() && Instant::now() < latest {
            thread::sleep(BREATH);
        }
    }
}

/// What is in there is whole whoever has panicked: it is replaced at once.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn wake(&self) {
        // Where no more fits somebody is woken already.
        drop(self.wake.send(&[1]));
    }

    fn keep(&self, root: &Root) {
        let mut gates = Gates::new(root);
        loop {
            if *lock(&self.over) {
                return gates.shut();
            }
            let wanted = lock(&self.wanted).clone();
            let at = Instant::now();
            gates.look(&wanted);
            *lock(&self.states) = Some((at, gates.states().clone()));
            self.wait(&mut gates, wanted.is_empty());
        }
    }

    /// Waits until it is time to look again, or somebody has something else to say where there is nothing to keep. What is heard
    /// meanwhile shuts gates; where none was open it can wait.
    fn wait(&self, gates: &mut Gates, nothing: bool) {
        let next = Instant::now() + PERIOD;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let limit = if nothing { PollTimeout::NONE } else { timeout(left) };
            let (woken, heard) = self.ready(gates, limit);
            if heard && gates.hear() {
                let mut states = lock(&self.states);
                let all = states.iter_mut().flat_map(|(_, states)| states.values_mut());
                for state in all.filter(|state| **state == GateState::Open) {
                    *state = GateState::Shut(vec![Reason::Changed]);
                }
                drop(states);
                return thread::sleep(SETTLED);
            }
            if woken || (left.is_zero() && !nothing) {
                return;
            }
        }
    }

    /// Returns whether somebody has woken us, and whether there is something to hear.
    fn ready(&self, gates: &Gates, limit: PollTimeout) -> (bool, bool) {
        let wake = PollFd::new(self.woken.as_fd(), PollFlags::POLLIN);
        let monitors = gates.monitors().map(|monitor| PollFd::new(monitor.as_fd(), PollFlags::POLLIN));
        let mut all: Vec<PollFd<'_>> = [wake].into_iter().chain(monitors).collect();
        match poll(&mut all, limit) {
            Ok(_) => {}
            Err(Errno::EINTR) => return (false, false),
            // Then it is looked at again, and not at once.
            Err(_) => {
                thread::sleep(SETTLED);
                return (true, true);
            }
        }
        let mut ready = all.iter().map(|fd| fd.any().unwrap_or(true));
        let woken = ready.next().unwrap_or_default();
        let heard = ready.any(|ready| ready);
        while self.woken.recv(&mut [0]).is_ok() {}
        (woken, heard)
    }
}

fn timeout(left: Duration) -> PollTimeout {
    // One more, so that nobody turns round on the rest of a millisecond.
    PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
}
