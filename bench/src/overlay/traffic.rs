//! What passes between two containers on different hosts, and what it costs the machine.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use weft_netns::Netns;
use weft_testkit::Container;

/// The bytes of a small packet's contents.
const SMALL: usize = 64;
/// How long anything may take that is no measurement.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way from a container of one host to a container of another, and what was measured on it.
pub(super) struct Way {
    pub(super) name: &'static str,
    from: Netns,
    to: Netns,
    address: IpAddr,
    /// Bytes a second of one TCP connection.
    pub(super) bytes: Vec<f64>,
    /// Small packets there and back, a second.
    pub(super) trips: Vec<f64>,
    /// Small packets that arrive when as many as possible are sent, a second.
    pub(super) small: Vec<f64>,
    /// Seconds of all processors for a gigabyte.
    pub(super) cost: Vec<f64>,
}

/// The value in the middle.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Way {
    /// Returns the way between two containers, once it is open.
    pub(super) fn between(
        name: &'static str,
        from: &Container,
        to: &Container,
        address: &str,
    ) -> Result<Self> {
        Self::open(name, Netns::open(from.netns())?, Netns::open(to.netns())?, address)
    }

    /// Returns the way between two namespaces, once it is open.
    pub(super) fn open(name: &'static str, from: Netns, to: Netns, address: &str) -> Result<Self> {
        let address: IpAddr = address.parse().with_context(|| format!("{name}: the address {address:?}"))?;
        let [bytes, trips, small, cost] = [const { Vec::new() }; 4];
        let way = Self { name, from, to, address, bytes, trips, small, cost };
        let listener = way.to.run(|| TcpListener::bind((address, 0)))??;
        let there = SocketAddr::new(address, listener.local_addr()?.port());
        let start = Instant::now();
        while way.from.run(|| TcpStream::connect_timeout(&there, Duration::from_millis(300)))?.is_err() {
            ensure!(start.elapsed() < PATIENCE, "{name}: {address} does not answer");
        }
        Ok(way)
    }

    /// Lets one connection carry as much as it can for a while.
    pub(super) fn stream(&mut self, window: Duration) -> Result<()> {
        let listener = self.to.run(|| TcpListener::bind((self.address, 0)))??;
        let there = SocketAddr::new(self.address, listener.local_addr()?.port());
        let reader = thread::spawn(move || -> Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut total) = (vec![0; 1 << 18], 0);
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(total),
                    length => total += length as u64,
                }
            }
        });
        let mut stream = self.from.run(|| TcpStream::connect_timeout(&there, PATIENCE))??;
        let (start, busy, bytes) = (Instant::now(), busy()?, vec![7; 1 << 18]);
        while start.elapsed() < window {
            stream.write_all(&bytes)?;
        }
        drop(stream);
        let total = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?? as f64;
        self.bytes.push(total / start.elapsed().as_secs_f64());
        self.cost.push((self::busy()? - busy) / (total / 1e9));
        Ok(())
    }

    /// Sends a small packet there and back, again and again for a while.
    pub(super) fn round_trips(&mut self, window: Duration) -> Result<()> {
        let server = self.to.run(|| UdpSocket::bind((self.address, 0)))??;
        let port = server.local_addr()?.port();
        server.set_read_timeout(Some(PATIENCE))?;
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let echo = thread::spawn(move || {
            let mut packet = [0; SMALL];
            while !told.load(Ordering::Relaxed) {
                if let Ok((length, caller)) = server.recv_from(&mut packet) {
                    server.send_to(&packet[..length], caller).ok();
                }
            }
        });
        let client = self.client(port)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let (start, mut count, mut packet) = (Instant::now(), 0.0, [0; SMALL]);
        while start.elapsed() < window {
            client.send(&packet)?;
            client.recv(&mut packet).context("an answer was lost")?;
            count += 1.0;
        }
        self.trips.push(count / start.elapsed().as_secs_f64());
        over.store(true, Ordering::Relaxed);
        client.send(&packet)?;
        echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))
    }

    /// Sends as many small packets as possible for a while.
    pub(super) fn small_packets(&mut self, window: Duration) -> Result<()> {
        let server = self.to.run(|| UdpSocket::bind((self.address, 0)))??;
        let port = server.local_addr()?.port();
        server.set_read_timeout(Some(Duration::from_millis(200)))?;
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&arrived);
        let listener = thread::spawn(move || {
            let mut packet = [0; SMALL];
            while server.recv(&mut packet).is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        let client = self.client(port)?;
        let start = Instant::now();
        while start.elapsed() < window {
            // A full queue is what is looked for.
            client.send(&[0; SMALL]).ok();
        }
        self.small.push(arrived.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64());
        listener.join().map_err(|_| anyhow::anyhow!("the listener panicked"))
    }

    fn client(&self, port: u16) -> Result<UdpSocket> {
        let client = self.from.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        client.connect((self.address, port))?;
        Ok(client)
    }
}

/// Returns how many seconds all processors have worked since the machine was started.
fn busy() -> Result<f64> {
    let stat = std::fs::read_to_string(Path::new("/proc/stat"))?;
    // cpu user nice system idle iowait irq softirq steal ...: neither what was waited for nor what others have taken.
    let words: Vec<f64> = stat
        .lines()
        .next()
        .into_iter()
        .flat_map(str::split_whitespace)
        .skip(1)
        .flat_map(str::parse)
        .collect();
    let ticks: f64 = [0, 1, 2, 5, 6].into_iter().filter_map(|at| words.get(at)).sum();
    let hertz = sysconf(SysconfVar::CLK_TCK)?.context("the kernel does not say how long a tick is")?;
    Ok(ticks / hertz as f64)
}
