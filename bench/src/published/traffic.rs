//! What passes through a published port: connections a second, and bytes a second.
//!
//! The caller is outside the host, the service in the container. Everything happens in this program: both ends are
//! threads that made their sockets in the namespaces they belong to.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{self, setsockopt, sockopt};
use nix::unistd::Pid;

use super::{Pair, Run, plugins};
use crate::host::{Ground, Host, Side};
use crate::rounds::Size;

/// The host's address, as the outside knows it.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The container whose port is used.
const CONTAINER: usize = 0;
const PATIENCE: Duration = Duration::from_secs(5);
/// The processor of the service. The caller shares it while connections are counted: who wakes whom, and where, would
/// be most of what is seen otherwise.
const PROCESSOR: usize = 1;
const CLOSED: &str = "netfilter/nf_conntrack_tcp_timeout_close";

/// What passed in a second of each round.
#[derive(Clone, Debug, Default)]
pub(super) struct Flow {
    pub(super) connections: Vec<f64>,
    pub(super) bytes: Vec<f64>,
}

impl Flow {
    /// Puts the rounds of another run behind these.
    pub(super) fn append(&mut self, mut later: Self) {
        self.connections.append(&mut later.connections);
        self.bytes.append(&mut later.bytes);
    }
}

/// Lets traffic pass through one published port of every host in turn, a moment each, again and again.
pub(super) fn measure(pairs: &[Pair], size: &Size, run: &mut Run) -> Result<()> {
    let mut ways = Vec::new();
    for pair in pairs.iter().filter(|pair| pair.side != Side::Command) {
        for (host, crowded) in [(&pair.alone, false), (&pair.crowded, true)] {
            ways.push((Way::open(host)?, (pair.side, crowded)));
        }
    }
    for round in 0..size.windows {
        // Everybody comes first once: what the one before has left is nobody's alone.
        ways.rotate_left(round.min(1));
        for (way, whose) in &ways {
            let passed =
                way.flow(size.window).with_context(|| format!("traffic on a host of {}", whose.0))?;
            let flow = run.flows.entry(*whose).or_default();
            flow.connections.push(passed.0);
            flow.bytes.push(passed.1);
        }
    }
    Ok(())
}

/// A published port of a host, with a service behind it.
struct Way<'a> {
    host: &'a Host,
    service: Service,
    port: u16,
}

impl<'a> Way<'a> {
    fn open(host: &'a Host) -> Result<Self> {
        let (service, port) = host.run(|ground| {
            ground.connect(CONTAINER)?;
            // Thousands of connections that are over would fill the kernel's table for all hosts.
            if Path::new("/proc/sys/net").join(CLOSED).exists() {
                ground.lab.set_sysctl(CLOSED, "1");
            }
            Ok((Service::start(ground)?, plugins::port(CONTAINER)?))
        })?;
        Ok(Self { host, service, port })
    }

    /// Connections, and bytes, in a second.
    fn flow(&self, window: Duration) -> Result<(f64, f64)> {
        let address = SocketAddr::new(HOST, self.port);
        self.service.counts_bytes.store(false, Ordering::SeqCst);
        let connections = self.outside(PROCESSOR, move || connections(address, window))?;
        self.service.counts_bytes.store(true, Ordering::SeqCst);
        let bytes = self.outside(PROCESSOR - 1, move || bytes(address, window))?;
        Ok((connections, bytes))
    }

    fn outside(&self, processor: usize, work: impl FnOnce() -> Result<f64> + Send + 'static) -> Result<f64> {
        self.host.run(move |ground| {
            ground.outside.inside(|| {
                pin(processor);
                work()
            })
        })
    }
}

/// Connects again and again, and returns how often that was possible in a second.
fn connections(address: SocketAddr, window: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed() < window {
        // The service resets what it has accepted: the connection is over at both ends, at once.
        match TcpStream::connect_timeout(&address, PATIENCE).and_then(|mut stream| stream.read(&mut [0])) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => count += 1.0,
            other => anyhow::bail!("instead of accepting and resetting, {address} answered {other:?}"),
        }
    }
    Ok(count / start.elapsed().as_secs_f64())
}

/// Sends as much as passes, and returns the bytes of a second that have arrived.
fn bytes(address: SocketAddr, window: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    let load = vec![0; 128 * 1024];
    let start = Instant::now();
    while start.elapsed() < window {
        stream.write_all(&load)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut arrived = [0; 8];
    stream.read_exact(&mut arrived)?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    Ok(u64::from_ne_bytes(arrived) as f64 / start.elapsed().as_secs_f64())
}

/// A service on a container's port 80.
struct Service {
    listener: Arc<TcpListener>,
    counts_bytes: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start(ground: &Ground) -> Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80));
        let listener = Arc::new(ground.netns(CONTAINER)?.run(bind)?.context("port 80 of the container")?);
        let counts_bytes = Arc::new(AtomicBool::new(false));
        let (accepting, counts) = (Arc::clone(&listener), Arc::clone(&counts_bytes));
        let thread = thread::spawn(move || {
            pin(PROCESSOR);
            while let Ok((stream, _)) = accepting.accept() {
                if counts.load(Ordering::SeqCst) {
                    count(stream).ok();
                } else {
                    reset(&stream);
                }
            }
        });
        Ok(Self { listener, counts_bytes, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A listener that is shut down lets go of whoever waits in accept.
        socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Makes the end of a connection a reset, after which neither end waits for stragglers.
fn reset(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).ok();
}

fn count(mut stream: TcpStream) -> std::io::Result<()> {
    let mut room = vec![0; 256 * 1024];
    let mut arrived = 0u64;
    loop {
        match stream.read(&mut room)? {
            0 => return stream.write_all(&arrived.to_ne_bytes()),
            read => arrived += read as u64,
        }
    }
}

/// Keeps the calling thread on one processor, if there is such a one.
fn pin(processor: usize) {
    let mut set = CpuSet::new();
    if set.set(processor).is_ok() {
        sched_setaffinity(Pid::from_raw(0), &set).ok();
    }
}
