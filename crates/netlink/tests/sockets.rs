//! Who waits at a port, on the real kernel, inside a private namespace.

#![cfg(test)]

use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process;

use weft_model::port::{PortRange, Protocol};
use weft_netlink::sockets::{Listener, listeners};
use weft_netns::isolate;

/// Returns who waits at a port or range: addresses with ports, and `both` for IPv6 sockets that take IPv4.
fn at(protocol: Protocol, ports: &str) -> Vec<String> {
    let found = listeners(protocol, ports.parse().unwrap()).unwrap();
    let mut lines: Vec<String> = found
        .iter()
        .map(|listener| {
            let both = if listener.both_families { " both" } else { "" };
            format!("{} {}{both}", listener.address, listener.port)
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn listeners_of_either_family_are_found_by_port() {
    isolate().unwrap();
    assert_eq!(at(Protocol::Tcp, "1-65535"), [""; 0]);
    let _four = TcpListener::bind("127.0.0.1:8080").unwrap();
    let _any = TcpListener::bind("0.0.0.0:8081").unwrap();
    let _both = TcpListener::bind("[::]:8082").unwrap();
    let _loopback = TcpListener::bind("[::1]:8083").unwrap();
    let _mapped = TcpListener::bind("[::ffff:127.0.0.1]:8084").unwrap();

    assert_eq!(at(Protocol::Tcp, "8080"), ["127.0.0.1 8080"]);
    assert_eq!(
        at(Protocol::Tcp, "8081-8084"),
        ["0.0.0.0 8081", "127.0.0.1 8084", ":: 8082 both", "::1 8083"]
    );
    assert_eq!(at(Protocol::Tcp, "8085"), [""; 0]);
    assert_eq!(at(Protocol::Udp, "8080-8084"), [""; 0], "another protocol");
}

#[test]
fn connections_are_no_listeners() {
    isolate().unwrap();
    let server = TcpListener::bind("127.0.0.1:8080").unwrap();
    let client = TcpStream::connect("127.0.0.1:8080").unwrap();
    let used = client.local_addr().unwrap().port();
    let accepted = server.accept().unwrap();
    drop(server);
    assert_eq!(at(Protocol::Tcp, &used.to_string()), [""; 0]);
    assert_eq!(at(Protocol::Tcp, "8080"), [""; 0], "{accepted:?} goes on without its listener");

    let waiting = UdpSocket::bind("127.0.0.1:53").unwrap();
    assert_eq!(at(Protocol::Udp, "53"), ["127.0.0.1 53"]);
    waiting.connect("127.0.0.1:54").unwrap();
    assert_eq!(at(Protocol::Udp, "53"), [""; 0], "it takes datagrams of one peer only");
}

#[test]
fn a_listener_names_its_process() {
    isolate().unwrap();
    let _listener = TcpListener::bind("127.0.0.1:8080").unwrap();
    let port = PortRange::single(8080).unwrap();
    let found = listeners(Protocol::Tcp, port).unwrap();
    let (name, id) = found[0].process().unwrap();
    assert_eq!(id, process::id());
    assert!(!name.is_empty());
    let nobodys =
        Listener { address: IpAddr::from([127, 0, 0, 1]), port: 1, both_families: false, inode: u32::MAX };
    assert_eq!(nobodys.process(), None);
}

#[test]
fn a_protocol_the_kernel_lacks_has_no_listeners() {
    isolate().unwrap();
    assert_eq!(at(Protocol::Sctp, "1-65535"), [""; 0]);
}
