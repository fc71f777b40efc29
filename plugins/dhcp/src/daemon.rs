//! The daemon: leases are renewed while their containers live.
//!
//! One thread answers each call and one looks after each lease. Nothing of a container is held open in between, or its
//! namespace would not go with its last process.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use weft_cni::{Code, Failure, Version};
use weft_model::{Endpoint, Mac};
use weft_state::atomic::{self, Durability};
use weft_state::{Root, boot, document};

use crate::client::{Patience, Station};
use crate::flags::Flags;
use crate::lease::{Due, Lease, Leases, now};
use crate::message::{Client, Terms};
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

/// Tells one namespace from a later one at its path, as the records of attachments do.
pub(crate) fn identity(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    Some(format!("{}:{}@{}.{:09}", meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
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
        Shared::look_after(&shared, lease);
    }
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

fn below(prefix: &Path, path: &Path) -> PathBuf {
    if prefix.as_os_str().is_empty() {
        return path.into();
    }
    prefix.join(path.strip_prefix("/").unwrap_or(path))
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
            Request::Check(endpoint) => {
                let alive = self.leases.get(&endpoint).is_some_and(|lease| is_alive(&lease));
                let missing = || Failure::text(Code::Internal, format!("there is no lease for {endpoint}"));
                if alive { Ok(None) } else { Err(missing()) }
            }
            Request::Release(endpoint) => self.release(&endpoint).map(|()| None),
            Request::Collect { network, valid } => {
                let stale = self.leases.stale(&network, &valid).into_iter();
                Failure::all(stale.filter_map(|one| self.release(&one).err()).collect()).map(|()| None)
            }
            Request::Status => Ok(None),
        }
    }

    /// Returns the lease that an interface has, or gets it one.
    fn allocate(self: &Arc<Self>, wanted: Allocation) -> Result<Lease, Failure> {
        let keeper = Arc::clone(lock(&self.keepers).entry(wanted.endpoint.clone()).or_default());
        let talking = lock(&keeper.talking);
        let netns = below(&self.flags.hostprefix, &wanted.netns);
        let there = identity(&netns);
        let earlier = self.leases.get(&wanted.endpoint);
        if let Some(lease) =
            earlier.filter(|lease| Some(&lease.namespace) == there.as_ref() && is_alive(lease))
        {
            return Ok(lease);
        }
        let endpoint = wanted.endpoint.clone();
        let acquired = self.acquire(wanted, netns, there, &keeper);
        drop(talking);
        match acquired {
            Ok(lease) => {
                Self::look_after(self, lease.clone());
                Ok(lease)
            }
            Err(failure) => {
                lock(&self.keepers).remove(&endpoint);
                Err(failure)
            }
        }
    }

    fn acquire(
        &self,
        wanted: Allocation,
        netns: PathBuf,
        there: Option<String>,
        keeper: &Keeper,
    ) -> Result<Lease, Failure> {
        let ifname = &wanted.endpoint.ifname;
        let station = Station::open(&netns, ifname)?.ok_or_else(|| {
            let text = format!("there is no interface {ifname} in {}", netns.display());
            Failure::text(Code::Internal, text)
        })?;
        let client = client(&wanted.endpoint, &wanted.conf, &wanted.args, station.mac, self.flags.broadcast)?;
        let stopped = |time| keeper.wait(time);
        let (terms, server_mac) = station.acquire(&client, None, self.flags.patience, &stopped)?;
        let lease = Lease {
            schema: document::SCHEMA,
            boot: boot::id().map_err(|error| Failure::new(Code::Io, error))?,
            endpoint: wanted.endpoint,
            netns,
            namespace: there.unwrap_or_default(),
            mac: station.mac.to_string(),
            server_mac: server_mac.to_string(),
            args: wanted.args,
            conf: wanted.conf,
            since: now()?,
            terms,
        };
        if let Err(error) = self.leases.write(&lease) {
            // What nobody remembers nobody gives back.
            let server = (lease.terms.server, server_mac);
            station.release(&client, lease.terms.address.ip(), server).ok();
            return Err(Failure::new(Code::Io, error));
        }
        Ok(lease)
    }

    /// Gives an address back; what is not there any more needs no giving back.
    fn release(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let keeper = lock(&self.keepers).remove(endpoint);
        if let Some(keeper) = &keeper {
            keeper.stop();
        }
        let _talking = keeper.as_ref().map(|keeper| lock(&keeper.talking));
        give_back(&self.leases, endpoint)
    }

    fn look_after(shared: &Arc<Self>, lease: Lease) {
        let keeper = Arc::clone(lock(&shared.keepers).entry(lease.endpoint.clone()).or_default());
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

/// CNI: a client's name for itself is that of the reference daemon.
fn client(endpoint: &Endpoint, conf: &str, args: &str, mac: Mac, broadcast: bool) -> Result<Client, Failure> {
    let Endpoint { network, container, ifname } = endpoint;
    let id = format!("{container}/{network}/{ifname}");
    Ok(Client { mac, id, options: Conf::read(conf)?.options(args)?, broadcast })
}

fn is_alive(lease: &Lease) -> bool {
    now().is_ok_and(|now| lease.due(now) != Due::Expiry)
}

/// Renews a lease; nothing when that does not succeed. The address stays the same, since nobody could change it.
fn renewed(lease: &Lease, due: Due, broadcast: bool, patience: Patience) -> Option<Lease> {
    let station = Station::open(&lease.netns, &lease.endpoint.ifname).ok()??;
    let client = client(&lease.endpoint, &lease.conf, &lease.args, station.mac, broadcast).ok()?;
    let address = lease.terms.address.ip();
    let since = now().ok()?;
    let (terms, mac): (Terms, Mac) = match due {
        Due::Nothing(_) => return None,
        Due::Expiry => {
            let once = Patience { whole: patience.answer, ..patience };
            station.acquire(&client, Some(address), once, &|_| true).ok()?
        }
        due => {
            let (_, server_mac) = lease.macs()?;
            let server = matches!(due, Due::Renewal(_)).then_some((lease.terms.server, server_mac));
            let (terms, mac) = station.keep(&client, address, server, patience.answer)?;
            (terms?, mac)
        }
    };
    Some(Lease { server_mac: mac.to_string(), since, terms, ..lease.clone() })
}

/// Tells the server that an address is free, and forgets it. Also for who has no daemon.
///
/// # Errors
///
/// When the file cannot be removed. A server that is not told will find out when the lease ends.
pub(crate) fn give_back(leases: &Leases, endpoint: &Endpoint) -> Result<(), Failure> {
    let Some(lease) = leases.get(endpoint) else { return Ok(()) };
    if identity(&lease.netns).as_ref() == Some(&lease.namespace) && is_alive(&lease) {
        let told = say_goodbye(&lease);
        if let Err(failure) = told {
            eprintln!("dhcp: {}", failure.msg);
        }
    }
    leases.remove(endpoint).map_err(|error| Failure::new(Code::Io, error))
}

fn say_goodbye(lease: &Lease) -> Result<(), Failure> {
    let missing = || Failure::text(Code::Internal, "the lease has no Ethernet addresses");
    let (mac, server_mac) = lease.macs().ok_or_else(missing)?;
    let Some(station) = Station::open(&lease.netns, &lease.endpoint.ifname)? else { return Ok(()) };
    let client = client(&lease.endpoint, &lease.conf, &lease.args, mac, false)?;
    station.release(&client, lease.terms.address.ip(), (lease.terms.server, server_mac))
}
