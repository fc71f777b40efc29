//! Traffic between namespaces: what a test believes is what arrived.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Container;

const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(20);

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

impl Container {
    /// Starts a TCP service on all addresses; port 0 takes a free one.
    pub fn serve_tcp(&self, port: u16) -> TcpServer {
        let listener = self.inside(|| TcpListener::bind(("::", port)));
        let listener = listener.unwrap_or_else(|error| panic!("{}: tcp port {port}: {error}", self.name()));
        let port = listener.local_addr().map_or(port, |address| address.port());
        listener.set_nonblocking(true).unwrap_or_else(|error| panic!("tcp port {port}: {error}"));
        let service = Service::start(port, move || match listener.accept() {
            Ok((mut stream, peer)) => {
                stream.write_all(canonical(peer).to_string().as_bytes()).ok();
            }
            Err(_) => thread::sleep(TICK),
        });
        TcpServer { service }
    }

    /// Calls a TCP service and returns the caller's address as the service saw it.
    pub fn call_tcp(&self, address: IpAddr, port: u16) -> io::Result<IpAddr> {
        self.inside(|| {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            text.parse().map_err(io::Error::other)
        })
    }

    /// Starts a UDP service on all addresses; port 0 takes a free one.
    pub fn serve_udp(&self, port: u16) -> UdpServer {
        let socket = self.inside(|| UdpSocket::bind(("::", port)));
        let socket = socket.unwrap_or_else(|error| panic!("{}: udp port {port}: {error}", self.name()));
        let port = socket.local_addr().map_or(port, |address| address.port());
        socket.set_read_timeout(Some(TICK)).unwrap_or_else(|error| panic!("udp port {port}: {error}"));
        let service = Service::start(port, move || {
            if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                socket.send_to(canonical(peer).to_string().as_bytes(), peer).ok();
            }
        });
        UdpServer { service }
    }

    /// Sends one datagram to a UDP service and returns the caller's address as the service saw it.
    pub fn call_udp(&self, address: IpAddr, port: u16) -> io::Result<IpAddr> {
        self.inside(|| {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"?", SocketAddr::new(address, port))?;
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer)?;
            String::from_utf8_lossy(&answer[..length]).parse().map_err(io::Error::other)
        })
    }
}

fn canonical(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}
