//! What the kernel announces of changes by others, inside a private network namespace.

#![cfg(test)]

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_netns::isolate;
use weft_nft::{Element, Family, Key, Monitor, Set, Socket, Table, Transaction, Type};

const TABLE: Table = Table::new(Family::Inet, "weft_test");

/// Waits until something is announced.
#[track_caller]
fn announced(monitor: &Monitor) {
    let ready = poll(&mut [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)], PollTimeout::from(5000u16));
    assert_eq!(ready, Ok(1), "nothing was announced");
}

/// Waits until something is announced and returns whether it is a change.
#[track_caller]
fn next(monitor: &mut Monitor) -> bool {
    announced(monitor);
    monitor.changed().unwrap()
}

#[track_caller]
fn run(line: &str) {
    let mut words = line.split(' ');
    #[expect(clippy::disallowed_methods, reason = "somebody else changes the ruleset")]
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.unwrap().success(), "{line}");
}

fn numbers() -> Set {
    Set::new(TABLE, "numbers", &[Type::Ipv4Addr]).expiring()
}

fn number(i: u32) -> Element {
    Element::new(Key::new().addr(IpAddr::from(i.to_be_bytes())))
}

#[test]
fn a_change_by_anybody_is_heard() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let mut monitor = Monitor::open().unwrap();
    assert!(!monitor.changed().unwrap(), "nothing has happened yet");

    socket.commit(Transaction::new().table(TABLE, None).set(&numbers())).unwrap();
    assert!(next(&mut monitor));
    for line in ["nft add table ip other", "nft delete table inet weft_test", "nft flush ruleset"] {
        run(line);
        assert!(next(&mut monitor), "{line}");
    }
    assert!(!monitor.changed().unwrap(), "all of it has been read");
}

#[test]
fn iptables_is_heard_where_it_is_nf_tables() {
    isolate().unwrap();
    weft_testkit::skip_unless!(
        weft_testkit::Program::new("iptables").args(["--version"]).run().stdout.contains("nf_tables"),
        "iptables in its nf_tables flavour"
    );
    run("iptables -t nat -N THEIRS");
    let mut monitor = Monitor::open().unwrap();
    run("iptables -t nat -X THEIRS");
    assert!(next(&mut monitor));
}

#[test]
fn elements_that_come_are_no_change_and_elements_that_go_are_one() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    socket.commit(Transaction::new().table(TABLE, None).set(&numbers())).unwrap();
    let mut monitor = Monitor::open().unwrap();

    socket.commit(Transaction::new().elements(&numbers(), (1..100).map(number).collect())).unwrap();
    assert!(!next(&mut monitor));
    run("nft delete element inet weft_test numbers { 0.0.0.7 }");
    assert!(next(&mut monitor));
}

#[test]
fn elements_that_go_are_no_change_of_the_rules() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    socket.commit(Transaction::new().table(TABLE, None).set(&numbers())).unwrap();
    socket.commit(Transaction::new().elements(&numbers(), (1..100).map(number).collect())).unwrap();
    let mut monitor = Monitor::open().unwrap();

    run("nft delete element inet weft_test numbers { 0.0.0.7 }");
    announced(&monitor);
    assert!(!monitor.rules_changed().unwrap());
    run("nft add chain inet weft_test other");
    announced(&monitor);
    assert!(monitor.rules_changed().unwrap());
}

#[test]
fn announcements_that_were_lost_are_a_change() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    socket.commit(Transaction::new().table(TABLE, None).set(&numbers())).unwrap();
    let mut monitor = Monitor::open().unwrap();
    // Elements alone are no change. As many as this, and the kernel drops some for want of room.
    for hundred in 0..2000 {
        let elements = (hundred * 100..(hundred + 1) * 100).map(number).collect();
        socket.commit(Transaction::new().elements(&numbers(), elements)).unwrap();
    }
    assert!(next(&mut monitor), "nothing was lost, or nobody was told");
    socket.commit(Transaction::new().elements(&numbers(), vec![number(u32::MAX)])).unwrap();
    assert!(!next(&mut monitor), "the socket works as before");
}
