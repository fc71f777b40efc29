//! The daemon: leases are renewed while their containers live.
//!
//! One thread answers each call and one looks after each lease. Nothing of a container is held open in between, or its
//! namespace would not go with its last process.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use weft_cni::json::get;
use weft_cni::{Code, Failure, NetConf, NetworkResult, Version};
use weft_model::Endpoint;
use weft_runtime::cache::{Cache, Made};
use weft_state::Root;
use weft_state::atomic::{self, Durability};

use crate::exchange::{acquire, below, disconnect, give_back, identity, is_alive, renewed};
use crate::flags::Flags;
use crate::lease::{Due, Lease, Leases, now};
use crate::options::Conf;
use crate::rpc::{self, Allocation, Reply, Request};

/// How long a caller may take to say what it wants.
const CALLER: Duration = Duration::from_secs(10);
/// How many calls are answered at once.
const CALLS: usize = 512;
/// The shortest wait between two renewals that nobody answers (RFC 2131, section 4.4.5, has a minute).
const SHORTEST_RETRY: Duration = Duration::from_secs(2);

/// What the threads share.
struct Shared {
    flags: Flags,
    leases: Leases,
    /// Who looks after which lease.
    keepers: Mutex<HashMap<Endpoint, Arc<Keeper>>>,
    calls: Mutex<usize>,
}

/// Whoever looks after a lease: how to tell it that it is over.
#[derive(Default)]
struct Keeper {
    stopped: Mutex<bool>,
    told: Condvar,
    /// Held by whoever talks to a server about the lease.
    talking: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// Waits; returns whether it is over.
    fn wait(&self, time: Duration) -> bool {
        let stopped = lock(&self.stopped);
        let waited = self.told.wait_timeout_while(stopped, time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn stop(&self) {
        *lock(&self.stopped) = true;
        self.told.notify_all();
    }
}

/// Runs the daemon until it is killed.
///
/// # Errors
///
/// When it cannot begin.
pub(crate) fn run(words: &[String], root: &Root) -> Result<(), String> {
    let flags = Flags::read(words)?;
    let socket = flags.socketpath.clone().unwrap_or_else(|| root.dhcp_socket());
    let socket = below(&flags.hostprefix, &socket);
    let listener = match handed_over()? {
        Some(listener) => listener,
        None => listen(&socket)?,
    };
    if let Some(path) = &flags.pidfile {
        let number = std::process::id().to_string();
        atomic::write(path, number.as_bytes(), Durability::Boot, 0o644).map_err(|error| error.to_string())?;
    }
    let (keepers, calls) = (Mutex::default(), Mutex::default());
    let shared = Arc::new(Shared { flags, leases: Leases::new(root), keepers, calls });
    for lease in shared.leases.all() {
        let keeper = shared.keeper(&lease.endpoint);
        Shared::look_after(&shared, lease, keeper);
    }
    Shared::take_over(&shared, connected(root, &socket));
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => Shared::serve(&shared, stream),
            // No descriptor is free: some will be.
            Err(error) => {
                eprintln!("dhcp: {}: {error}", socket.display());
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
    Ok(())
}

/// Returns the socket that the service manager has opened for us, if it has (sd_listen_fds(3)): callers wait in it
/// while we are started.
fn handed_over() -> Result<Option<UnixListener>, String> {
    let mut given = ListenFd::from_env();
    match given.len() {
        0 => Ok(None),
        1 => given.take_unix_listener(0).map_err(|error| format!("the socket that was handed over: {error}")),
        count => Err(format!("{count} sockets were handed over, and one is needed")),
    }
}

/// Takes the socket. One that a killed daemon has left is removed, one that somebody answers on is not.
fn listen(socket: &Path) -> Result<UnixListener, String> {
    let failed = |error: io::Error| format!("cannot listen on {}: {error}", socket.display());
    if let Some(dir) = socket.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    match UnixListener::bind(socket) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if UnixStream::connect(socket).is_ok() {
                return Err(format!("another daemon listens on {}", socket.display()));
            }
            fs::remove_file(socket).map_err(failed)?;
            UnixListener::bind(socket).map_err(failed)
        }
        outcome => outcome.map_err(failed),
    }
}

impl Shared {
    fn serve(shared: &Arc<Self>, stream: UnixStream) {
        let mine = Arc::clone(shared);
        *lock(&shared.calls) += 1;
        if *lock(&shared.calls) > CALLS {
            *lock(&shared.calls) -= 1;
            return;
        }
        let answering = thread::Builder::new().name("call".into()).spawn(move || {
            mine.answer(&stream);
            *lock(&mine.calls) -= 1;
        });
        if answering.is_err() {
            *lock(&shared.calls) -= 1;
        }
    }

    fn answer(self: &Arc<Self>, stream: &UnixStream) {
        let ask = || -> io::Result<Request> {
            stream.set_read_timeout(Some(CALLER))?;
            rpc::receive(stream)
        };
        let outcome = match ask() {
            Err(error) => Err(Failure::text(Code::Decode, format!("the request cannot be read: {error}"))),
            Ok(request) => self.perform(request),
        };
        let reply = match outcome {
            Ok(result) => Reply { result, error: None },
            Err(failure) => Reply { result: None, error: Some(failure.msg) },
        };
        // Whoever does not wait for the answer does not need it.
        rpc::send(stream, &reply).ok();
    }

    fn perform(self: &Arc<Self>, request: Request) -> Result<Option<serde_json::Value>, Failure> {
        match request {
            Request::Allocate(wanted) => {
                let lease = self.allocate(*wanted)?;
                lease.result(Conf::read(&lease.conf)?.priority).to_value(Version::LATEST).map(Some)
            }
            Request::Check(held) => {
                let alive = self.leases.get(&held.endpoint).is_some_and(|lease| is_alive(&lease));
                if alive { Ok(None) } else { self.allocate(known(*held)?).map(|_| None) }
            }
            Request::Release(held) => {
                let keeper = self.stop_keeping(&held.endpoint);
                let _talking = keeper.as_ref().map(|keeper| lock(&keeper.talking));
                disconnect(&self.leases, *held, &self.flags).map(|()| None)
            }
            Request::Collect { network, valid } => {
                let stale = self.leases.stale(&network, &valid).into_iter();
                Failure::all(stale.filter_map(|one| self.release(&one).err()).collect()).map(|()| None)
            }
            Request::Status => Ok(None),
        }
    }

    /// Returns the lease that an interface has, or gets it one.
    fn allocate(self: &Arc<Self>, wanted: Allocation) -> Result<Lease, Failure> {
        let keeper = self.keeper(&wanted.endpoint);
        let _talking = lock(&keeper.talking);
        let there = identity(&below(&self.flags.hostprefix, &wanted.netns));
        let earlier = self.leases.get(&wanted.endpoint);
        if let Some(lease) =
            earlier.filter(|lease| Some(&lease.namespace) == there.as_ref() && is_alive(lease))
        {
            return Ok(lease);
        }
        let endpoint = wanted.endpoint.clone();
        let acquired = acquire(&self.leases, wanted, &self.flags, &|time| keeper.wait(time));
        match acquired {
            Ok(lease) => {
                Self::look_after(self, lease.clone(), Arc::clone(&keeper));
                Ok(lease)
            }
            Err(failure) => {
                lock(&self.keepers).remove(&endpoint);
                Err(failure)
            }
        }
    }

    /// Gives an address back; what is not there any more needs no giving back.
    fn release(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let keeper = self.stop_keeping(endpoint);
        let _talking = keeper.as_ref().map(|keeper| lock(&keeper.talking));
        give_back(&self.leases, endpoint)
    }

    fn stop_keeping(&self, endpoint: &Endpoint) -> Option<Arc<Keeper>> {
        let keeper = lock(&self.keepers).remove(endpoint)?;
        keeper.stop();
        Some(keeper)
    }

    fn keeper(&self, endpoint: &Endpoint) -> Arc<Keeper> {
        Arc::clone(lock(&self.keepers).entry(endpoint.clone()).or_default())
    }

    /// Takes leases over that another daemon got, one after the other.
    fn take_over(shared: &Arc<Self>, others: Vec<Allocation>) {
        let mine = Arc::clone(shared);
        let work = move || {
            for held in others {
                if let Err(failure) = mine.allocate(held) {
                    eprintln!("dhcp: {}", failure.msg);
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("takeover".into()).spawn(work) {
            eprintln!("dhcp: no lease is taken over: {error}");
        }
    }

    fn look_after(shared: &Arc<Self>, lease: Lease, keeper: Arc<Keeper>) {
        let (mine, endpoint) = (Arc::clone(shared), lease.endpoint.clone());
        let spawned = thread::Builder::new().name("lease".into()).spawn(move || {
            mine.keep(lease, &keeper);
            let mut keepers = lock(&mine.keepers);
            if keepers.get(&endpoint).is_some_and(|current| Arc::ptr_eq(current, &keeper)) {
                keepers.remove(&endpoint);
            }
        });
        if let Err(error) = spawned {
            eprintln!("dhcp: a lease is not looked after: {error}");
        }
    }

    /// Looks after a lease until it is given back, or its container has gone.
    fn keep(&self, mut lease: Lease, keeper: &Keeper) {
        let mut retry = Duration::ZERO;
        loop {
            let due = now().map_or(Due::Expiry, |now| lease.due(now));
            let pause = match due {
                Due::Nothing(time) => time,
                _ => retry,
            };
            if keeper.wait(pause) {
                return;
            }
            if matches!(due, Due::Nothing(_)) {
                retry = Duration::ZERO;
                continue;
            }
            if identity(&lease.netns).as_ref() != Some(&lease.namespace) {
                // With its namespace the interface has gone, and nobody uses the address.
                self.leases.remove(&lease.endpoint).ok();
                return;
            }
            let _talking = lock(&keeper.talking);
            if *lock(&keeper.stopped) {
                return;
            }
            match renewed(&lease, due, self.flags.broadcast, self.flags.patience) {
                Some(terms) => {
                    (lease, retry) = (terms, Duration::ZERO);
                    if let Err(error) = self.leases.write(&lease) {
                        eprintln!("dhcp: {error}");
                    }
                }
                // Half of what is left, and not in a hurry.
                None => {
                    retry = match due {
                        Due::Renewal(left) | Due::Rebinding(left) => (left / 2).max(SHORTEST_RETRY),
                        _ => self.flags.patience.between,
                    };
                    eprintln!("dhcp: {} of {} is not renewed ({due:?})", lease.terms.address, lease.endpoint);
                }
            }
        }
    }
}

/// Returns an attachment whose address is known.
fn known(held: Allocation) -> Result<Allocation, Failure> {
    let missing = || Failure::text(Code::Internal, format!("there is no lease for {}", held.endpoint));
    if held.address.is_none() { Err(missing()) } else { Ok(held) }
}

/// Returns who has an address from a server by what the runtime keeps of its attachments, as far as this daemon is the
/// one that they are told to ask.
fn connected(root: &Root, socket: &Path) -> Vec<Allocation> {
    let allocation = |made: Made| {
        let is_ours = |conf: &NetConf| {
            let ipam: Conf = conf.ipam().unwrap_or_default();
            let asked = ipam.daemon_socket_path;
            let kind = conf.ipam.as_ref().and_then(|ipam| get(ipam, "type"));
            kind.is_some_and(|kind| kind == "dhcp") && (asked.is_empty() || Path::new(&asked) == socket)
        };
        let (conf, text) = made.plugins.iter().find_map(|plugin| {
            let text = plugin.to_string();
            NetConf::parse(text.as_bytes()).ok().filter(is_ours).map(|conf| (conf, text))
        })?;
        let result = NetworkResult::from_value(&made.result, conf.version).ok()?;
        let address = Some(crate::address_of(&result, &made.endpoint.ifname)?);
        Some(Allocation { endpoint: made.endpoint, netns: made.netns?, args: made.args, conf: text, address })
    };
    Cache::new(root.cni_results_dir()).made().into_iter().filter_map(allocation).collect()
}
