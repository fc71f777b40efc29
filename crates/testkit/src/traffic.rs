//! Traffic between namespaces: what a test believes is what arrived.
//!
//! Every service answers with one line: who called, which port of the service was called, and who answers.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{Container, Lab};

const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(20);

/// What a service says to a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The caller's address as the service saw it.
    pub caller: IpAddr,
    /// The service's own port, after whatever translation there was.
    pub port: u16,
    /// The container the service is in, or `host`.
    pub by: String,
}

impl FromStr for Answer {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let wrong = || io::Error::other(format!("no answer of ours: {line:?}"));
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or_else(wrong);
        Ok(Self {
            caller: word()?.parse().map_err(io::Error::other)?,
            port: word()?.parse().map_err(io::Error::other)?,
            by: word()?.into(),
        })
    }
}

/// A TCP service that tells each caller the address the call came from.
#[derive(Debug)]
pub struct TcpServer {
    service: Service,
}

/// A UDP service that tells each caller the address the call came from.
#[derive(Debug)]
pub struct UdpServer {
    service: Service,
}

#[derive(Debug)]
struct Service {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    port: u16,
}

impl TcpServer {
    /// Returns the port the service listens on.
    pub fn port(&self) -> u16 {
        self.service.port
    }
}

impl UdpServer {
    /// Returns the port the service listens on.
    pub fn port(&self) -> u16 {
        self.service.port
    }
}

impl Service {
    fn start(port: u16, mut serve: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                serve();
            }
        });
        Self { stop, thread: Some(thread), port }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A place that traffic starts from or ends at.
trait Station {
    fn title(&self) -> &str;

    /// Runs `work` in its namespace.
    fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T;
}

impl Station for Container {
    fn title(&self) -> &str {
        self.name()
    }

    fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inside(work)
    }
}

impl Station for Lab {
    fn title(&self) -> &'static str {
        "host"
    }

    fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        work()
    }
}

fn serve_tcp(station: &impl Station, port: u16) -> TcpServer {
    let (name, listener) = (station.title().to_owned(), station.there(|| TcpListener::bind(("::", port))));
    let listener = listener.unwrap_or_else(|error| panic!("{name}: tcp port {port}: {error}"));
    let port = listener.local_addr().map_or(port, |address| address.port());
    listener.set_nonblocking(true).unwrap_or_else(|error| panic!("tcp port {port}: {error}"));
    let service = Service::start(port, move || match listener.accept() {
        Ok((mut stream, peer)) => {
            stream.write_all(line(peer, port, &name).as_bytes()).ok();
        }
        Err(_) => thread::sleep(TICK),
    });
    TcpServer { service }
}

fn serve_udp(station: &impl Station, port: u16) -> UdpServer {
    let (name, socket) = (station.title().to_owned(), station.there(|| UdpSocket::bind(("::", port))));
    let socket = socket.unwrap_or_else(|error| panic!("{name}: udp port {port}: {error}"));
    let port = socket.local_addr().map_or(port, |address| address.port());
    socket.set_read_timeout(Some(TICK)).unwrap_or_else(|error| panic!("udp port {port}: {error}"));
    let service = Service::start(port, move || {
        if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
            socket.send_to(line(peer, port, &name).as_bytes(), peer).ok();
        }
    });
    UdpServer { service }
}

fn ask_tcp(service: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&service, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse()
}

fn udp_client(station: &impl Station, service: SocketAddr) -> UdpClient {
    let any = if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = station.there(|| UdpSocket::bind(any));
    let socket = socket.unwrap_or_else(|error| panic!("{}: udp client: {error}", station.title()));
    UdpClient { socket, service }
}

fn load_tcp(station: &impl Station, service: SocketAddr) -> Load {
    let place = station.there(weft_netns::Netns::current);
    let place = place.unwrap_or_else(|error| panic!("{}: {error}", station.title()));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&answers);
    let service = Service::start(service.port(), move || {
        let asked = place.run(|| ask_tcp(service)).map_err(io::Error::other);
        let by = asked.and_then(|asked| asked).ok().map(|answer| answer.by);
        collected.lock().unwrap_or_else(PoisonError::into_inner).push(by);
    });
    Load { service, answers }
}

macro_rules! traffic_of {
    ($($station:ident)*) => {$(
        impl $station {
            /// Starts a TCP service on all addresses; port 0 takes a free one.
            pub fn serve_tcp(&self, port: u16) -> TcpServer {
                serve_tcp(self, port)
            }

            /// Calls a TCP service and returns its answer.
            pub fn ask_tcp(&self, address: IpAddr, port: u16) -> io::Result<Answer> {
                self.there(|| ask_tcp(SocketAddr::new(address, port)))
            }

            /// Calls a TCP service and returns the caller's address as the service saw it.
            pub fn call_tcp(&self, address: IpAddr, port: u16) -> io::Result<IpAddr> {
                self.ask_tcp(address, port).map(|answer| answer.caller)
            }

            /// Calls a TCP service again and again until the returned value is dropped.
            pub fn load_tcp(&self, address: IpAddr, port: u16) -> Load {
                load_tcp(self, SocketAddr::new(address, port))
            }

            /// Starts a UDP service on all addresses; port 0 takes a free one.
            pub fn serve_udp(&self, port: u16) -> UdpServer {
                serve_udp(self, port)
            }

            /// Opens a UDP client whose flow goes on from call to call.
            pub fn udp_client(&self, address: IpAddr, port: u16) -> UdpClient {
                udp_client(self, SocketAddr::new(address, port))
            }

            /// Sends one datagram to a UDP service and returns its answer.
            pub fn ask_udp(&self, address: IpAddr, port: u16) -> io::Result<Answer> {
                self.udp_client(address, port).ask()
            }

            /// Sends one datagram to a UDP service and returns the caller's address as the service saw it.
            pub fn call_udp(&self, address: IpAddr, port: u16) -> io::Result<IpAddr> {
                self.ask_udp(address, port).map(|answer| answer.caller)
            }
        }
    )*};
}

traffic_of!(Container Lab);

/// A UDP client that keeps its port, so that the kernel takes its calls for one flow.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
    service: SocketAddr,
}

impl UdpClient {
    /// Sends a datagram and returns the answer to it.
    pub fn ask(&self) -> io::Result<Answer> {
        self.ask_within(PATIENCE)
    }

    /// The same for a service that is expected not to answer: a shorter wait.
    pub fn ask_within(&self, patience: Duration) -> io::Result<Answer> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.send_to(b"?", self.service)?;
        let mut answer = [0; 128];
        let (length, _) = self.socket.recv_from(&mut answer)?;
        String::from_utf8_lossy(&answer[..length]).parse()
    }
}

/// Calls that go on in the background.
#[derive(Debug)]
pub struct Load {
    service: Service,
    answers: Arc<Mutex<Vec<Option<String>>>>,
}

impl Load {
    /// Waits until so many calls were made since it was asked last, and returns who answered each.
    pub fn next(&self, count: usize) -> Vec<Option<String>> {
        loop {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.len() >= count || self.service.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return std::mem::take(&mut answers);
            }
            drop(answers);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for so many calls that begin from now on, and returns who answered each of them.
    ///
    /// The call under way is none of them: it may end as things were when it began.
    pub fn from_now(&self, count: usize) -> Vec<Option<String>> {
        self.next(0);
        self.next(count + 1).split_off(1)
    }
}

fn line(peer: SocketAddr, port: u16, by: &str) -> String {
    format!("{} {port} {by}", peer.ip().to_canonical())
}
