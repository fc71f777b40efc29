//! How long nothing arrives when the process that carries an encrypted overlay's packets is killed.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_testkit::Underlay;

/// How often a datagram is sent: no gap is known better than this.
const EVERY: Duration = Duration::from_millis(1);
/// For how long it is watched, and what a gap is to be at most.
const WATCHED: Duration = Duration::from_secs(2);
const GOAL: Duration = Duration::from_millis(500);
/// A worker that dies sooner than this is not started again at once.
const SOUND: Duration = Duration::from_millis(5200);
const ROUNDS: usize = 5;

/// Measures on an encrypted network of two hosts, and says what came out.
pub(super) fn measure(net: &Underlay, network: &str) -> Result<String> {
    let worker = net.host(1).path("run/weft/overlay/wg-a.sock");
    if !worker.exists() {
        return Ok("\nThe kernel's own WireGuard carries the packets: there is no process to kill.\n".into());
    }
    let (from, _) = net.host(1).connected(network, "sender");
    let (to, addresses) = net.host(2).connected(network, "sink");
    let address = addresses.first().context("no address")?;
    let sink = to.inside(|| UdpSocket::bind((address.as_str(), 0)))?;
    sink.set_read_timeout(Some(WATCHED))?;
    let (target, source) = (sink.local_addr()?, from.inside(|| UdpSocket::bind("0.0.0.0:0"))?);
    let stop = AtomicBool::new(false);
    let gaps = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                source.send_to(&[0; 64], target).ok();
                thread::sleep(EVERY);
            }
        });
        let gaps: Result<Vec<Duration>> = (0..ROUNDS).map(|_| gap(&sink, &worker)).collect();
        stop.store(true, Ordering::Relaxed);
        gaps
    });
    let mut gaps = gaps?;
    gaps.sort_unstable();
    let (median, worst) = (gaps[ROUNDS / 2], gaps[ROUNDS - 1]);
    Ok(format!(
        "\nA tunnel process that is killed under load leaves a gap of {} ms (the worst of {ROUNDS}: {} ms); the goal is {} ms.\n",
        median.as_millis(),
        worst.as_millis(),
        GOAL.as_millis()
    ))
}

/// Kills the worker and returns the longest time between two datagrams around that.
fn gap(sink: &UdpSocket, worker: &Path) -> Result<Duration> {
    let (begun, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    let mut alive = Some(process(worker)?);
    let mut datagram = [0; 64];
    while begun.elapsed() < SOUND + WATCHED {
        sink.recv(&mut datagram).context("nothing arrives any more")?;
        let now = Instant::now();
        if alive.is_none() {
            longest = longest.max(now - last);
        }
        last = now;
        if begun.elapsed() >= SOUND
            && let Some(process) = alive.take()
        {
            kill(process, Signal::SIGKILL)?;
        }
    }
    Ok(longest)
}

/// Returns who carries the packets.
fn process(socket: &Path) -> Result<Pid> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"{\"do\":\"stats\"}\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let process = answer["pid"].as_i64().and_then(|process| i32::try_from(process).ok());
    process.map(Pid::from_raw).context("a tunnel that does not say who it is")
}
