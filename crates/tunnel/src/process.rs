//! The process of a userspace tunnel: one that holds the device and the socket, and one that works.
//!
//! The first opens everything and waits. The second, its child, has no privileges left and touches what comes from
//! elsewhere; when it dies, the first starts another on the same descriptors, so packets wait in them and nothing is said
//! to anybody. When both die, the device stays (it is persistent) and drops what is sent to it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use weft_netlink::Socket;
use weft_state::atomic::Durability;
use weft_state::{Root, StateError};

use crate::config::Config;
use crate::control::{self, Answer, Request};
use crate::device;
use crate::engine::Engine;
use crate::keys::{self, SecretKey};
use crate::mesh::MeshError;
use crate::slot::Slot;
use crate::tun::Tun;
use crate::udp::Udp;

/// How often timers are looked at. WireGuard's are seconds.
const TICK: Duration = Duration::from_millis(250);
/// A worker that lived as long is started again at once; others after a while.
const SOUND: Duration = Duration::from_secs(5);
/// The longest while.
const PAUSE: Duration = Duration::from_secs(1);
/// What a worker ends with that wants other descriptors: a port or a key has changed, or the device is gone.
const AGAIN: u8 = 75;

/// A tunnel cannot run.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// What it needs around it cannot be had.
    #[error(transparent)]
    Mesh(#[from] MeshError),

    /// There is nothing to work from.
    #[error("slot {0} has no configuration")]
    NotConfigured(Slot),

    /// Another one runs already.
    #[error("a tunnel of slot {slot} is running{}", said.as_ref().map(|said| format!(", and has said last: {said}")).unwrap_or_default())]
    Running {
        /// Of which slot.
        slot: Slot,
        /// What keeps it from carrying packets, if anything does.
        said: Option<String>,
    },

    /// The device cannot be opened.
    #[error("{device}: {cause}")]
    Device {
        /// Its name.
        device: String,
        /// Why.
        cause: io::Error,
    },

    /// The port cannot be had.
    #[error("UDP port {port}: {cause}")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        cause: io::Error,
    },

    /// The operating system refuses something else.
    #[error("cannot {action}: {cause}")]
    System {
        /// What.
        action: &'static str,
        /// Why.
        cause: io::Error,
    },
}

impl TunnelError {
    /// Returns the next command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mesh(error) => error.hint(),
            Self::NotConfigured(_) => Some("weft overlay status".into()),
            Self::Device { cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
                Some("modprobe tun".into())
            }
            // The mode of /dev/net/tun is 0666: it is the service's device policy.
            Self::Device { cause, .. } if cause.raw_os_error() == Some(libc::EPERM) => {
                Some("systemctl edit weft-agent, and add [Service] DeviceAllow=char-* rw".into())
            }
            Self::Device { device, .. } => Some(format!("ip -details link show {device}")),
            Self::Port { port, .. } => Some(format!("ss --udp --listening --processes sport = :{port}")),
            Self::Running { .. } | Self::System { .. } => None,
        }
    }

    fn system(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |cause| Self::System { action, cause }
    }
}

impl From<StateError> for TunnelError {
    fn from(error: StateError) -> Self {
        Self::Mesh(error.into())
    }
}

/// How a tunnel is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which slot's.
    pub slot: Slot,
    /// Whether to return as soon as it works, and leave it running.
    pub detach: bool,
    /// Whether the kernel may hand over large packets; without, everything passes one by one.
    pub offload: bool,
}

/// Runs the tunnel of a slot, in the network namespace of the caller, until it is stopped.
///
/// The process must have one thread: it forks.
///
/// # Errors
///
/// When it cannot begin. What goes wrong later is waited out.
pub fn run(root: &Root, options: &Options) -> Result<ExitCode, TunnelError> {
    let lock = claim(root, options.slot)?;
    let opened = Opened::open(root, options)?;
    if options.detach {
        if let ForkResult::Parent { .. } = fork()? {
            return Ok(ExitCode::SUCCESS);
        }
        leave()?;
    }
    Ok(supervise(root, options, opened, &lock))
}

/// Takes the lock that says that a tunnel of this slot runs. The worker inherits it, so it is held as long as either lives.
fn claim(root: &Root, slot: Slot) -> Result<File, TunnelError> {
    let path = slot.lock_file(root);
    if let Some(folder) = path.parent() {
        weft_state::atomic::create_dir(folder, 0o755)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(StateError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let said = fs::read_to_string(slot.why_file(root)).ok();
            Err(TunnelError::Running { slot, said: said.map(|said| said.trim().into()) })
        }
        Err(TryLockError::Error(error)) => Err(StateError::io("lock", &path)(error).into()),
    }
}

/// Leaves the caller's session and terminal.
fn leave() -> Result<(), TunnelError> {
    let failed = TunnelError::system("leave the caller's session");
    nix::unistd::setsid().map_err(|error| failed(error.into()))?;
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(&failed)?;
    nix::unistd::dup2_stdin(&nothing).map_err(|error| failed(error.into()))?;
    nix::unistd::dup2_stdout(&nothing).map_err(|error| failed(error.into()))?;
    nix::unistd::dup2_stderr(&nothing).map_err(|error| failed(error.into()))
}

/// What a worker is given.
struct Opened {
    tun: Tun,
    udp: Udp,
    listener: UnixListener,
    key: SecretKey,
    config: Config,
}

impl Opened {
    fn open(root: &Root, options: &Options) -> Result<Self, TunnelError> {
        let slot = options.slot;
        let config = Config::load(root, slot)?.ok_or(TunnelError::NotConfigured(slot))?;
        let key = keys::load(root, slot).map_err(MeshError::from)?.ok_or(MeshError::NoKey(slot))?;
        let mut socket = Socket::open().map_err(device::refused(slot, "reach the kernel"))?;
        // Before there is a device: at no moment does an address of the mesh lead anywhere else.
        device::close(&mut socket, slot, config.device.prefix)?;
        let failed = |cause| TunnelError::Device { device: slot.device().to_string(), cause };
        let tun = Tun::open(&slot.device(), options.offload).map_err(failed)?;
        device::raise(&mut socket, slot, &config.device)?;
        let port = config.device.port;
        let udp = Udp::open(port).map_err(|cause| TunnelError::Port { port, cause })?;
        Ok(Self { tun, udp, listener: listen(root, slot)?, key, config })
    }
}

/// Opens the socket that the tunnel is asked by.
fn listen(root: &Root, slot: Slot) -> Result<UnixListener, TunnelError> {
    let path = slot.socket(root);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StateError::io("remove", &path)(error).into());
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(StateError::io("listen on", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(StateError::io("protect", &path))?;
    listener.set_nonblocking(true).map_err(StateError::io("listen on", &path))?;
    Ok(listener)
}

/// Keeps a worker alive. In the worker it returns when that ends.
fn supervise(root: &Root, options: &Options, opened: Opened, _lock: &File) -> ExitCode {
    let mut opened = Some(opened);
    let mut pause = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let present = match opened.take().map_or_else(|| Opened::open(root, options), Ok) {
            Ok(present) => present,
            // It was taken away.
            Err(TunnelError::NotConfigured(_)) => return ExitCode::SUCCESS,
            Err(error) => {
                complain(root, options.slot, &error);
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        fs::remove_file(options.slot.why_file(root)).ok();
        let child = match fork() {
            Ok(ForkResult::Child) => return work(root, options.slot, present),
            Ok(ForkResult::Parent { child }) => child,
            Err(error) => {
                complain(root, options.slot, &error);
                opened = Some(present);
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        match end_of(child) {
            Some(0) => return ExitCode::SUCCESS,
            Some(code) if code == i32::from(AGAIN) => drop(present),
            _ => opened = Some(present),
        }
        pause = if begun.elapsed() >= SOUND { Duration::ZERO } else { (pause * 2).clamp(TICK / 25, PAUSE) };
        std::thread::sleep(pause);
    }
}

/// Says what is wrong, and leaves it for whoever asks later: nobody may be listening any more.
fn complain(root: &Root, slot: Slot, error: &TunnelError) {
    drop(writeln!(io::stderr(), "weftd: tunnel of slot {slot}: {error}"));
    let why = slot.why_file(root);
    drop(weft_state::atomic::write(&why, error.to_string().as_bytes(), Durability::Boot, 0o600));
}

/// Waits for a worker; returns its exit code, if it had one.
fn end_of(child: Pid) -> Option<i32> {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return Some(code),
            Ok(WaitStatus::Signaled(..)) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

fn fork() -> Result<ForkResult, TunnelError> {
    #[expect(unsafe_code, reason = "forking has no safe form")]
    // SAFETY: this process has one thread (see `run`; a worker's threads are made after the last fork), so no lock is held
    // by a thread that the child lacks.
    let forked = unsafe { nix::unistd::fork() };
    forked.map_err(|error| TunnelError::system("start a process")(error.into()))
}

/// Carries packets until told to end.
fn work(root: &Root, slot: Slot, opened: Opened) -> ExitCode {
    if let Err(error) = drop_privileges() {
        complain(root, slot, &TunnelError::System { action: "give up privileges", cause: error });
        return ExitCode::from(AGAIN);
    }
    let Opened { tun, udp, listener, key, mut config } = opened;
    // What was opened may be from before the first peer. Another port is seen to by the first tick.
    match Config::load(root, slot) {
        Ok(Some(now)) if now.device.port == config.device.port => config = now,
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(_)) => {}
        Err(error) => complain(root, slot, &error.into()),
    }
    let engine = Arc::new(Engine::new(tun, udp, &key, &config));
    let failed = Arc::new(AtomicBool::new(false));
    for inwards in [true, false] {
        let (engine, failed, root) = (Arc::clone(&engine), Arc::clone(&failed), root.clone());
        let carry = move || {
            let error = if inwards { engine.inwards() } else { engine.outwards() };
            complain(&root, slot, &TunnelError::Device { device: slot.device().to_string(), cause: error });
            failed.store(true, Ordering::Relaxed);
        };
        let name = if inwards { "inwards" } else { "outwards" };
        if std::thread::Builder::new().name(name.into()).spawn(carry).is_err() {
            return ExitCode::from(AGAIN);
        }
    }
    engine.greet();
    let worker = Worker {
        root,
        slot,
        engine,
        key,
        port: config.device.port,
        seen: Mutex::new(None),
        stop: AtomicBool::new(false),
    };
    worker.attend(&listener, &failed)
}

/// The worker's first thread: questions, timers, the configuration.
struct Worker<'a> {
    root: &'a Root,
    slot: Slot,
    engine: Arc<Engine>,
    key: SecretKey,
    port: u16,
    /// What the configuration file was when it was last read.
    seen: Mutex<Option<(SystemTime, u64)>>,
    stop: AtomicBool,
}

impl Worker<'_> {
    fn attend(&self, listener: &UnixListener, failed: &AtomicBool) -> ExitCode {
        let mut due = Instant::now();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let mut events = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            // Interrupted or not: what is there is looked at.
            poll(&mut events, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)).ok();
            while let Ok((stream, _)) = listener.accept() {
                let again = stream
                    .set_nonblocking(false)
                    .and_then(|()| control::answer(stream, |request| self.reply(&request)));
                drop(again);
            }
            if self.stop.load(Ordering::Relaxed) {
                return ExitCode::SUCCESS;
            }
            if Instant::now() >= due {
                due = Instant::now() + TICK;
                self.engine.tick();
                if failed.load(Ordering::Relaxed) || self.reload(false).is_err() {
                    return ExitCode::from(AGAIN);
                }
            }
        }
    }

    fn reply(&self, request: &Request) -> Answer {
        let mut answer =
            Answer { pid: std::process::id(), version: control::VERSION.into(), ..Answer::default() };
        match request {
            Request::Stats => {
                answer.peers = self.engine.stats();
                answer.offloads = self.engine.offloads().into_iter().map(Into::into).collect();
            }
            Request::Handshake { peer } if !self.engine.handshake(peer) => {
                answer.error = Some(format!("there is no peer {peer}"));
            }
            Request::Handshake { .. } => {}
            // A port or key that has changed is taken over by the next worker, within a tick.
            Request::Reload => drop(self.reload(true)),
            Request::Stop => self.stop.store(true, Ordering::Relaxed),
        }
        answer
    }

    /// Reads the configuration again if it has changed. One that is not readable now changes nothing.
    fn reload(&self, always: bool) -> Result<(), OtherDescriptors> {
        let stamp = fs::metadata(self.slot.config_file(self.root)).ok().and_then(|file| {
            use std::os::unix::fs::MetadataExt;
            Some((file.modified().ok()?, file.ino()))
        });
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !always && *seen == stamp {
            return Ok(());
        }
        *seen = stamp;
        let config = match Config::load(self.root, self.slot) {
            Ok(Some(config)) => config,
            Ok(None) => return Ok(()),
            Err(error) => {
                complain(self.root, self.slot, &error.into());
                return Ok(());
            }
        };
        let key = keys::load(self.root, self.slot).ok().flatten();
        if config.device.port != self.port || key.is_some_and(|key| key != self.key) {
            *seen = None;
            return Err(OtherDescriptors);
        }
        self.engine.configure(&config);
        Ok(())
    }
}

/// The worker cannot go on with the port and key it has.
struct OtherDescriptors;

/// Gives up every capability, for good. Root's files can still be read: their owner is root.
fn drop_privileges() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;

    nix::sys::prctl::set_no_new_privs()?;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0u32; 6];
    #[expect(unsafe_code, reason = "capset has no wrapper in libc")]
    // SAFETY: with version 3 capset reads a header and two triples of 32 bits, which is what the pointers lead to
    // (kernel/capability.c).
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
