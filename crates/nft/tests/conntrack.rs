//! Flows the kernel remembers, made by real packets, and which of them are forgotten.

#![cfg(test)]

use std::net::{IpAddr, UdpSocket};
use std::ops::RangeInclusive;

use weft_nft::Socket;
use weft_nft::conntrack::{Tuple, Whose, forget};
use weft_testkit::{Container, Lab};

const UDP: u8 = 17;
const HOST: &str = "192.0.2.1";
const HOST6: &str = "2001:db8:ffff::1";
const RED: &str = "10.9.0.2";

/// A host that tracks flows and forwards between the outside and a container.
fn lab() -> (Lab, Container, Socket) {
    let lab = Lab::new();
    let outside = lab.uplink();
    let red = lab.container("red");
    lab.ip("link add red0 type veth peer name eth0 netns red");
    lab.ip("address add 10.9.0.1/24 dev red0");
    lab.ip("link set red0 up");
    red.ip("address add 10.9.0.2/24 dev eth0");
    red.ip("link set eth0 up");
    red.ip("route add default via 10.9.0.1");
    outside.ip("route add 10.9.0.0/24 via 192.0.2.1");
    lab.set_sysctl("ipv4/ip_forward", "1");
    lab.sh("nft 'add table inet t; add chain inet t in { type nat hook prerouting priority -100; }; add rule inet t in ct state invalid counter'")
        .expect_ok();
    (lab, outside, Socket::open().unwrap())
}

/// Sends a datagram from a port of its own: a flow of its own.
fn send(from: &Container, address: &str, port: u16) {
    let address: IpAddr = address.parse().unwrap();
    from.inside(|| {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any).unwrap().send_to(b"?", (address, port)).unwrap();
    });
}

fn udp(address: &str, ports: RangeInclusive<u16>, target: &str) -> Tuple {
    Tuple { protocol: UDP, address: address.parse().unwrap(), ports, target: target.parse().unwrap() }
}

#[test]
fn a_flow_to_a_published_port_is_forgotten_and_no_other() {
    let (_lab, outside, mut socket) = lab();
    for (address, port) in [(HOST, 5000), (HOST, 5001), (RED, 5000), (HOST6, 5000)] {
        send(&outside, address, port);
    }
    let mut others = |tuples: &[Tuple]| forget(&mut socket, tuples, Whose::Others).unwrap();

    assert_eq!(others(&[udp("0.0.0.0", 4000..=4999, RED)]), 0);
    assert_eq!(others(&[udp("192.0.2.9", 5000..=5000, RED)]), 0);
    assert_eq!(others(&[Tuple { protocol: 6, ..udp("0.0.0.0", 5000..=5001, RED) }]), 0);
    // What is forwarded through the host to the same port stays.
    assert_eq!(others(&[udp("0.0.0.0", 5000..=5000, "10.9.0.3")]), 1);
    assert_eq!(others(&[udp("0.0.0.0", 5000..=5000, "10.9.0.3")]), 0);
    assert_eq!(others(&[udp(HOST, 5000..=5100, RED), udp("::", 5000..=5000, "fd00::2")]), 2);
    // They had been there all the time.
    assert_eq!(others(&[udp(RED, 5000..=5000, "10.9.0.3")]), 1);
}

#[test]
fn on_both_ends_of_a_publication_each_forgets_its_own() {
    let (lab, outside, mut socket) = lab();
    send(&outside, HOST, 5000);
    lab.sh("nft add rule inet t in ip daddr 192.0.2.1 udp dport 5000-5100 dnat ip to 10.9.0.2:53")
        .expect_ok();
    send(&outside, HOST, 5000);
    send(&outside, HOST, 5050);
    send(&outside, RED, 5000);
    let mut of = |whose, tuple| forget(&mut socket, &[tuple], whose).unwrap();

    // Before the rule there was one; those that lead to the container already stay.
    assert_eq!(of(Whose::Others, udp("0.0.0.0", 5000..=5000, RED)), 1);
    assert_eq!(of(Whose::Others, udp("0.0.0.0", 5000..=5000, RED)), 0);
    assert_eq!(of(Whose::Ours, udp("0.0.0.0", 5000..=5100, "10.9.0.3")), 0);
    assert_eq!(of(Whose::Ours, udp("0.0.0.0", 5000..=5100, RED)), 2);
    assert_eq!(of(Whose::Ours, udp("0.0.0.0", 5000..=5100, RED)), 0);
    // Who called the container by its own address has a flow that no publication made.
    assert_eq!(of(Whose::Others, udp(RED, 5000..=5000, "10.9.0.3")), 1);
}

#[test]
fn more_flows_than_one_send_takes_are_forgotten() {
    let (_lab, outside, mut socket) = lab();
    outside.inside(|| {
        for port in 20_000..20_300 {
            UdpSocket::bind(("0.0.0.0", port)).unwrap().send_to(b"?", (HOST, 5000)).unwrap();
        }
    });
    let tuple = udp("0.0.0.0", 5000..=5000, RED);
    assert_eq!(forget(&mut socket, std::slice::from_ref(&tuple), Whose::Others).unwrap(), 300);
    assert_eq!(forget(&mut socket, &[tuple], Whose::Others).unwrap(), 0);
}

/// A list walks all the table that the namespaces share, so where this one has nothing in it nobody asks for one.
#[test]
fn where_nothing_is_tracked_nothing_is_asked() {
    let (_lab, outside, mut socket) = lab();
    let all = udp("0.0.0.0", 1..=65535, RED);
    let mut asked = |tuples: &[Tuple]| {
        let before = socket.messages();
        let forgotten = forget(&mut socket, tuples, Whose::Others).unwrap();
        (forgotten, socket.messages() > before)
    };
    assert_eq!(asked(std::slice::from_ref(&all)), (0, false));
    assert_eq!(asked(&[]), (0, false));
    send(&outside, HOST, 5000);
    assert_eq!(asked(std::slice::from_ref(&all)), (1, true));
    // Of flows that are none of ours a list tells nothing.
    send(&outside, RED, 5000);
    assert_eq!(asked(&[all]), (0, true));
}
