//! The mesh carries encrypted networks and nothing else, whatever a host of the cluster puts into it.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, Host, reaches};

/// The packets that the rules of a chain have dropped.
fn dropped(host: &Host, chain: &str) -> u64 {
    let listed = host.sh(&format!("nft list chain inet weft_tunnels {chain}"));
    let counts = listed.expect_ok().split("counter packets ").skip(1);
    counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// A host's address inside the mesh.
fn mesh_address(host: &Host) -> Ipv6Addr {
    let shown = host.sh("ip -6 -o address show dev weftwga scope global | tr -s ' ' | cut -d' ' -f4");
    shown.expect_ok().trim().split('/').next().unwrap().parse().unwrap()
}

/// Whether a datagram has arrived, or arrives soon.
fn hears(socket: &UdpSocket, patience: u64) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(patience))).unwrap();
    match socket.recv(&mut [0; 16]) {
        Ok(_) => true,
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock => false,
            _ => panic!("{error}"),
        },
    }
}

/// D3: a host that was broken into sends to another through the mesh what only the networks may.
#[test]
fn what_comes_through_the_mesh_reaches_no_service_of_the_host() {
    let cluster = Cluster::new(2);
    cluster.network(1, &["-o", "encrypted", "dark"]);
    let (red, _) = cluster.host(1).connected("dark", "red");
    let (_green, to_green) = cluster.host(2).connected("dark", "green");
    reaches(&red, &to_green);
    let (from, to) = (cluster.host(1), cluster.host(2));
    let (own, address) = (mesh_address(from), mesh_address(to));
    assert_ne!(own, address);
    let at = |port: u16| SocketAddr::new(address.into(), port);
    // Some service, and the port of plain networks, of which there are none; what is told of errors may pass.
    let ears = [777, 4789].map(|port| to.inside(|| UdpSocket::bind(("::", port)).unwrap()));
    let listener = to.inside(|| TcpListener::bind(("::", 0)).unwrap());
    let service = at(listener.local_addr().unwrap().port());
    reaches(from, [address.to_string()]);
    let say = || {
        let socket = from.inside(|| UdpSocket::bind((own, 0)).unwrap());
        for port in [777, 4789] {
            from.inside(|| socket.send_to(b"canary", at(port)).unwrap());
        }
    };
    let call =
        |patience| from.inside(|| TcpStream::connect_timeout(&service, Duration::from_millis(patience)));
    let counted = || ["arriving", "plain", "no_datagram"].map(|chain| dropped(to, chain));
    assert_eq!(counted(), [0; 3]);
    say();
    call(500).expect_err("a service of the host answers through the mesh");
    cluster.eventually("all is counted", || counted().iter().all(|count| *count > 0));
    assert!(ears.iter().all(|ear| !hears(ear, 10)), "a datagram has come through the mesh");
    // The positive twin: without the guard all of that arrives.
    for number in [1, 2] {
        cluster.signal(number, Signal::SIGSTOP);
        cluster.host(number).sh("nft delete table inet weft_tunnels").expect_ok();
    }
    say();
    assert!(ears.iter().all(|ear| hears(ear, 10_000)), "nothing has come without the guard either");
    call(10_000).unwrap();
    for number in [1, 2] {
        cluster.signal(number, Signal::SIGCONT);
        let listed = || cluster.host(number).sh("nft list table inet weft_tunnels").code == 0;
        cluster.eventually("the guard is there again", listed);
    }
    say();
    cluster.eventually("all is counted again", || dropped(to, "arriving") > 0 && dropped(to, "plain") > 0);
    assert!(ears.iter().all(|ear| !hears(ear, 10)));
    reaches(&red, &to_green);
}
