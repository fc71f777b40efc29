//! Load whose every packet is counted: what is lost while something is done to the way is known exactly.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use weft_testkit::Container;

use crate::overlay_tunnel::CANARY;

/// Between two datagrams.
const PACE: Duration = Duration::from_millis(4);
/// So many may be on their way: more would be lost in queues when whoever reads them does not get a processor.
pub(crate) const WINDOW: u64 = 64;
/// For how long those on their way are waited for. What is lost never comes.
const HELD: Duration = Duration::from_millis(100);
/// How long a socket waits before it is asked whether to go on.
const BREATH: Duration = Duration::from_millis(100);
/// For how long an end that nobody hears is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Room for datagrams that were not read yet, in bytes.
const ROOM: usize = 8 << 20;
/// What the last datagram has for a number.
const END: u64 = u64::MAX;

/// Numbered datagrams from one namespace to another, until they are counted. Each has the canary in it.
pub(crate) struct Flow {
    shared: Arc<Shared>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<BTreeSet<u64>>,
}

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    arrived: AtomicU64,
    stop: AtomicBool,
    ended: AtomicBool,
}

/// How many datagrams were sent, how many of them arrived, and between which two that arrived others did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    pub(crate) gaps: Vec<(u64, u64)>,
}

impl Flow {
    /// Begins to send datagrams to an address of `to`.
    pub(crate) fn start(from: &Container, to: &Container, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sink = to.inside(|| UdpSocket::bind(SocketAddr::new(address, 0)).unwrap());
        setsockopt(&sink, sockopt::RcvBufForce, &ROOM).unwrap();
        sink.set_read_timeout(Some(BREATH)).unwrap();
        let there = sink.local_addr().unwrap();
        let source = from.inside(|| UdpSocket::bind(any).unwrap());
        let shared = Arc::new(Shared::default());
        let (sends, receives) = (shared.clone(), shared.clone());
        Self {
            sender: thread::spawn(move || sends.send(&source, there)),
            receiver: thread::spawn(move || receives.receive(&sink)),
            shared,
        }
    }

    /// Returns how many were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// Waits until so many more were sent.
    #[track_caller]
    pub(crate) fn goes_on(&self, more: u64) {
        let enough = self.sent() + more;
        weft_testkit::until("the load goes on", || self.sent() >= enough);
    }

    /// Waits until so many more arrived.
    #[track_caller]
    pub(crate) fn gets_through(&self, more: u64) {
        let enough = self.arrived() + more;
        weft_testkit::until("it arrives", || self.arrived() >= enough);
    }

    /// Ends it and returns what came of it.
    pub(crate) fn count(self) -> Counted {
        self.shared.stop.store(true, Ordering::Relaxed);
        let numbers = self.receiver.join().unwrap();
        self.shared.ended.store(true, Ordering::Relaxed);
        self.sender.join().unwrap();
        let sent = self.shared.sent.load(Ordering::Relaxed);
        let all: Vec<u64> = numbers.iter().copied().chain([sent]).collect();
        let gaps = all.windows(2).map(|pair| (pair[0], pair[1])).filter(|(one, next)| next - one > 1);
        Counted { sent, arrived: numbers.len() as u64, gaps: gaps.collect() }
    }
}

impl Shared {
    fn send(&self, source: &UdpSocket, there: SocketAddr) {
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let held = Instant::now();
            while number - self.arrived.load(Ordering::Relaxed).min(number) >= WINDOW && held.elapsed() < HELD
            {
                thread::sleep(PACE);
            }
            source.send_to(&datagram(number), there).unwrap();
            number += 1;
            self.sent.store(number, Ordering::Relaxed);
            thread::sleep(PACE);
        }
        // The end of it may be lost as well.
        while !self.ended.load(Ordering::Relaxed) {
            source.send_to(&datagram(END), there).unwrap();
            thread::sleep(PACE * 10);
        }
    }

    fn receive(&self, sink: &UdpSocket) -> BTreeSet<u64> {
        let (mut buffer, mut numbers) = ([0; 2048], BTreeSet::new());
        let mut heard = Instant::now();
        loop {
            match sink.recv(&mut buffer) {
                Ok(length) => {
                    assert_eq!(buffer[8..length], datagram(0)[8..], "a datagram was changed");
                    let number = u64::from_be_bytes(buffer[..8].try_into().unwrap());
                    if number == END {
                        return numbers;
                    }
                    numbers.insert(number);
                    self.arrived.store(numbers.len() as u64, Ordering::Relaxed);
                    heard = Instant::now();
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    assert!(heard.elapsed() < PATIENCE, "nothing arrives any more, not even the end");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn datagram(number: u64) -> Vec<u8> {
    [&number.to_be_bytes()[..], CANARY, &[7; 1000]].concat()
}

/// A TCP connection that is used all the time, until it is asked whether it still is whole.
pub(crate) struct Connection {
    stop: Arc<AtomicBool>,
    caller: JoinHandle<u64>,
    called: JoinHandle<()>,
}

impl Connection {
    /// Begins to send through a connection to an address of `to`, and to read what comes back.
    pub(crate) fn open(from: &Container, to: &Container, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let listener = to.inside(|| TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
        let there = listener.local_addr().unwrap();
        let mut stream = from.inside(|| TcpStream::connect(there).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let called = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut back = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut back).unwrap();
        });
        let caller = thread::spawn(move || {
            let (mut turns, mut back) = (0u64, [0; 4096]);
            while !told.load(Ordering::Relaxed) {
                let there = [turns.to_be_bytes(); 512].concat();
                stream.write_all(&there).unwrap();
                stream.read_exact(&mut back).unwrap();
                assert!(back[..] == there, "something else came back in turn {turns}");
                turns += 1;
                thread::sleep(PACE * 5);
            }
            turns
        });
        Self { stop, caller, called }
    }

    /// Ends it and returns how many times something went there and came back, all of it unchanged.
    pub(crate) fn turns(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let turns = self.caller.join().unwrap();
        self.called.join().unwrap();
        turns
    }
}
