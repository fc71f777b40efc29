//! Calls between namespaces: who reaches which port, and as whom.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use weft_model::port::Protocol::{self, Tcp, Udp};
use weft_netns::Netns;

/// How long a call that must succeed is tried.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take. Nothing here is far.
const ANSWER: Duration = Duration::from_millis(300);

/// Services that tell each caller the caller's address and the port it has reached.
pub(crate) struct Service {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Serves these ports of all addresses of a namespace.
pub(crate) fn serve(netns: &Netns, protocol: Protocol, ports: &[u16]) -> Service {
    let stop = Arc::new(AtomicBool::new(false));
    let threads = ports.iter().map(|port| {
        let stop = Arc::clone(&stop);
        match protocol {
            Tcp => serve_tcp(netns.run(|| TcpListener::bind(("::", *port)).unwrap()).unwrap(), stop),
            _ => serve_udp(netns.run(|| UdpSocket::bind(("::", *port)).unwrap()).unwrap(), stop),
        }
    });
    Service { threads: threads.collect(), stop }
}

fn answer(peer: SocketAddr, port: u16) -> String {
    format!("{} at {port}", peer.ip().to_canonical())
}

fn serve_tcp(listener: TcpListener, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, peer)) => {
                    stream.write_all(answer(peer, port).as_bytes()).ok();
                }
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    })
}

fn serve_udp(socket: UdpSocket, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Ok((_, peer)) = socket.recv_from(&mut [0; 16]) {
                socket.send_to(answer(peer, port).as_bytes(), peer).ok();
            }
        }
    })
}

/// Calls from this port of the caller's, which need not be free elsewhere, and keeps the connection.
pub(crate) fn call_from(
    from: &Netns,
    own: u16,
    address: &str,
    port: u16,
) -> std::io::Result<(TcpStream, String)> {
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};

    let target = SocketAddr::new(address.parse().unwrap(), port);
    let (family, any) = match target {
        SocketAddr::V4(_) => (AddressFamily::Inet, "0.0.0.0"),
        SocketAddr::V6(_) => (AddressFamily::Inet6, "::"),
    };
    let any = SocketAddr::new(any.parse().unwrap(), own);
    from.run(|| {
        let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(any))?;
        socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        Ok((stream, String::from_utf8_lossy(&answer[..length]).into_owned()))
    })
    .unwrap()
}

/// Calls once; `None` if nobody answers.
pub(crate) fn call(from: &Netns, protocol: Protocol, address: &str, port: u16) -> Option<String> {
    let address: IpAddr = address.parse().unwrap();
    let target = SocketAddr::new(address, port);
    from.run(|| match protocol {
        Udp => {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(target).ok()?;
            socket.set_read_timeout(Some(ANSWER)).unwrap();
            socket.send(b"?").ok()?;
            let mut text = [0; 64];
            let length = socket.recv(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        }
        _ => {
            let mut stream = TcpStream::connect_timeout(&target, ANSWER).ok()?;
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            let mut text = String::new();
            match stream.read_to_string(&mut text) {
                Ok(_) => Some(text),
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(_) => None,
            }
        }
    })
    .unwrap()
}

/// Calls until somebody answers: the first packets may wait for a neighbour, or for an element to expire.
pub(crate) fn reach(from: &Netns, protocol: Protocol, address: &str, port: u16) -> String {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = call(from, protocol, address, port) {
            return answer;
        }
        assert!(Instant::now() < limit, "nobody answers at {protocol} {address} port {port}");
    }
}

/// Fails if somebody answers, but for the first moments after an element was told to expire.
pub(crate) fn is_silent(from: &Netns, protocol: Protocol, address: &str, port: u16) {
    let limit = Instant::now() + Duration::from_millis(100);
    while let Some(answer) = call(from, protocol, address, port) {
        assert!(Instant::now() < limit, "{protocol} {address} port {port} answers {answer:?}");
    }
}
