//! Links on the real kernel, inside a private namespace.

#![cfg(test)]

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use weft_model::{IfName, Mac};
use weft_netlink::link::{self, Change, NewBridge, NewVeth, PortOptions};
use weft_netlink::{Batch, Error, Removed, Socket, delete_announced, wait_operational};
use weft_netns::{Netns, create, isolate};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x99]);

fn bridge(socket: &mut Socket, called: &str) -> u32 {
    let new = NewBridge { name: &name(called), mac: MAC, vlan_filtering: false, promisc: false, up: true };
    let reply = socket.request(link::create_bridge(&new)).unwrap();
    socket.created(&reply, new.name).unwrap().index
}

fn veth<'a>(
    called: &'a IfName,
    peer: &'a IfName,
    master: Option<u32>,
    netns: Option<&'a Netns>,
) -> NewVeth<'a> {
    NewVeth {
        name: called,
        mac: None,
        mtu: None,
        master,
        up: true,
        peer,
        peer_mac: None,
        peer_netns: netns.map(AsFd::as_fd),
    }
}

/// The names of all links, in order.
fn names(socket: &mut Socket) -> Vec<String> {
    link::all(socket).unwrap().into_iter().map(|link| link.name).collect()
}

#[test]
fn a_veth_is_born_whole_and_its_echo_says_so() {
    isolate().unwrap();
    let red = create("red").unwrap();
    let mut host = Socket::open().unwrap();
    let mut inside = red.run(Socket::open).unwrap().unwrap();
    let master = bridge(&mut host, "br0");

    let (near, far) = (name("veth0"), name("eth0"));
    let new = NewVeth { mtu: Some(1400), peer_mac: Some(MAC), ..veth(&near, &far, Some(master), Some(&red)) };
    let mut batch = Batch::new();
    let created = batch.push(link::create_veth(&new));
    let options = PortOptions { hairpin: true, isolated: true };
    batch.push(link::set_port(&near, options, Some(7)));
    let replies = host.call(&mut batch).unwrap();
    replies.all().unwrap();
    let echo = host.created(replies.of(created).unwrap(), &near).unwrap();

    let seen = host.link(link::get(&near)).unwrap().unwrap();
    assert_eq!((echo.index, echo.mac, echo.mtu, echo.peer), (seen.index, seen.mac, seen.mtu, seen.peer));
    assert_eq!((seen.master, seen.port, seen.up), (Some(master), Some(options), true));
    let other = inside.link(link::get(&far)).unwrap().unwrap();
    assert_eq!((Some(other.index), other.mac, other.mtu, other.up), (seen.peer, Some(MAC), 1400, false));

    inside.request(link::change(other.index, &Change { up: Some(true), ..Change::default() })).unwrap();
    let ready = wait_operational(&mut host, seen.index, Duration::from_secs(5)).unwrap();
    assert!(ready.operational);
}

#[test]
fn a_link_without_a_carrier_is_waited_for_and_named() {
    isolate().unwrap();
    let red = create("red").unwrap();
    let mut host = Socket::open().unwrap();
    let near = name("veth0");
    let reply = host.request(link::create_veth(&veth(&near, &name("eth0"), None, Some(&red)))).unwrap();
    let index = host.created(&reply, &near).unwrap().index;
    let error = wait_operational(&mut host, index, Duration::from_millis(20)).unwrap_err();
    // Kernels differ in what they call it: DOWN, LOWERLAYERDOWN, and UNKNOWN until they have noticed.
    let text = error.to_string();
    assert!(
        text.starts_with("the operational state of veth0 is ") && text.ends_with(", even after 20ms"),
        "{text}"
    );
}

#[test]
fn each_request_of_a_batch_has_its_own_answer() {
    isolate().unwrap();
    let mut host = Socket::open().unwrap();
    bridge(&mut host, "br0");
    let again = NewBridge { name: &name("br0"), mac: MAC, vlan_filtering: false, promisc: false, up: false };
    let mut batch = Batch::new();
    let taken = batch.push(link::create_bridge(&again));
    let missing = batch.push(link::delete(&name("nobody")));
    let fine = batch.push(link::get(&name("lo")));
    let replies = host.call(&mut batch).unwrap();
    assert!(replies.of(taken).unwrap_err().is_exists());
    assert!(replies.of(missing).unwrap_err().is_missing());
    assert_eq!(replies.of(fine).unwrap().link().unwrap().name, "lo");
    assert_eq!(names(&mut host), ["lo", "br0"], "a refusal in front stops nothing behind it");
}

#[test]
fn more_requests_than_fit_one_send_are_all_answered() {
    isolate().unwrap();
    let mut host = Socket::open().unwrap();
    let mut batch = Batch::new();
    let tickets: Vec<_> = (0..1000).map(|_| batch.push(link::delete(&name("nobody")))).collect();
    let replies = host.call(&mut batch).unwrap();
    assert!(tickets.iter().all(|ticket| replies.of(*ticket).unwrap_err().is_missing()));
    assert_eq!(host.link(link::get(&name("lo"))).unwrap().unwrap().index, 1, "the socket goes on");
}

#[test]
fn the_kernels_own_words_are_in_the_error() {
    isolate().unwrap();
    let mut host = Socket::open().unwrap();
    let index = bridge(&mut host, "br0");
    let change = Change { mtu: Some(70_000), ..Change::default() };
    let error = host.request(link::change(index, &change)).unwrap_err();
    assert_eq!(error.to_string(), "invalid argument: mtu greater than device maximum");
}

#[test]
fn a_deletion_is_announced_and_the_other_end_goes_too() {
    isolate().unwrap();
    let red = create("red").unwrap();
    let mut host = Socket::open().unwrap();
    let mut inside = red.run(Socket::open).unwrap().unwrap();
    let master = bridge(&mut host, "br0");
    host.request(link::create_veth(&veth(&name("veth0"), &name("eth0"), Some(master), Some(&red)))).unwrap();
    assert_eq!(names(&mut host), ["lo", "br0", "veth0"]);
    assert_eq!(names(&mut inside), ["lo", "eth0"]);

    let seen = host.link(link::get(&name("veth0"))).unwrap().unwrap();
    assert_eq!(delete_announced(&mut host, &seen).unwrap(), Removed::Gone);

    assert_eq!(names(&mut host), ["lo", "br0"]);
    assert_eq!(names(&mut inside), ["lo"]);
    assert_eq!(delete_announced(&mut host, &seen).unwrap(), Removed::Absent, "somebody was faster");
}

#[test]
fn a_deletion_the_kernel_refuses_is_an_error() {
    isolate().unwrap();
    let mut host = Socket::open().unwrap();
    let lo = host.link(link::get(&name("lo"))).unwrap().unwrap();
    let error = delete_announced(&mut host, &lo).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP), "{error}");
    assert_eq!(names(&mut host), ["lo"]);
}

#[test]
fn a_bridge_takes_1023_ports() {
    isolate().unwrap();
    let mut host = Socket::open().unwrap();
    let master = bridge(&mut host, "br0");
    let mut create = |number: usize| {
        let (near, far) = (name(&format!("v{number}")), name(&format!("p{number}")));
        host.request(link::create_veth(&veth(&near, &far, Some(master), None)))
    };
    for number in 0..1023 {
        create(number).unwrap();
    }
    let error = create(1023).unwrap_err();
    assert!(matches!(error, Error::Refused { errno: Errno::EXFULL, .. }), "{error}");
    assert_eq!(host.link(link::get(&name("v1023"))).unwrap(), None, "the refused pair is not left behind");
}
