//! Namespaces on the real kernel, inside a private one.

#![cfg(test)]

use std::fs::{self, File};
use std::thread;

use weft_netns::{Netns, NetnsError, apart, create, isolate, pin, unpin};

fn interfaces() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines().skip(2).map(|line| line.split(':').next().unwrap().trim().to_owned()).collect()
}

#[test]
fn a_private_host_has_a_loopback_that_is_up_and_an_empty_run() {
    let outside = Netns::current().unwrap();
    isolate().unwrap();
    assert!(!Netns::current().unwrap().same_as(&outside));
    assert_eq!(interfaces(), ["lo"]);
    let flags = fs::read_to_string("/proc/thread-self/net/route").unwrap();
    assert_eq!(flags.lines().count(), 1, "only the heading: {flags}");
    assert!(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().connect("127.0.0.1:9").is_ok(), "lo is up");
    assert_eq!(fs::read_dir("/run").unwrap().count(), 0);
}

#[test]
fn work_runs_inside_and_the_caller_stays_outside() {
    isolate().unwrap();
    let before = Netns::current().unwrap();
    let red = create("red").unwrap();
    assert!(!red.same_as(&before));

    let by_proc = || Netns::open("/proc/thread-self/ns/net").unwrap();
    let seen = red.run(|| Netns::current().unwrap().same_as(&red) && by_proc().same_as(&red)).unwrap();
    assert!(seen, "the work ran inside");
    assert!(by_proc().same_as(&before), "a socket's namespace is that of the thread that made it");
    assert!(red.is_at("/run/netns/red".as_ref()) && !before.is_at("/run/netns/red".as_ref()));
    assert!(!red.is_at("/run/netns/blue".as_ref()), "what is not there is nobody");
    let panicked = thread::scope(|scope| scope.spawn(|| red.run(|| panic!("on purpose")).is_ok()).join());
    assert!(panicked.is_err(), "a panic reaches the caller");
    assert!(Netns::current().unwrap().same_as(&before), "the caller never moved");
}

#[test]
fn visits_within_visits_come_back_the_way_they_went() {
    let by_proc = || Netns::open("/proc/thread-self/ns/net").unwrap();
    let is_in = |netns: &Netns| Netns::current().unwrap().same_as(netns) && by_proc().same_as(netns);
    let home = by_proc();
    let [red, blue] = [(); 2].map(|()| apart(|| Netns::current().unwrap()).unwrap());
    assert!(!red.same_as(&home) && !red.same_as(&blue));
    // What is known of the way home the second time was learnt the first time.
    for _ in 0..2 {
        assert!(is_in(&home));
        red.run(|| {
            assert!(is_in(&red));
            blue.run(|| assert!(is_in(&blue))).unwrap();
            assert!(is_in(&red));
            thread::scope(|scope| scope.spawn(|| assert!(is_in(&red))).join().unwrap());
        })
        .unwrap();
    }
    isolate().unwrap();
    let moved = by_proc();
    assert!(!moved.same_as(&home) && is_in(&moved));
    red.run(|| assert!(is_in(&red))).unwrap();
    assert!(is_in(&moved));
}

#[test]
fn a_pin_keeps_the_namespace_and_unpin_lets_it_go() {
    isolate().unwrap();
    let red = create("red").unwrap();
    assert!(matches!(create("red"), Err(NetnsError::Exists { .. })));
    assert!(Netns::open("/run/netns/red").unwrap().same_as(&red), "one namespace under its name");
    assert!(red.try_clone().unwrap().same_as(&red));

    unpin("/run/netns/red").unwrap();

    assert!(matches!(Netns::open("/run/netns/red"), Err(NetnsError::Missing { .. })));
    assert!(matches!(unpin("/run/netns/red"), Err(NetnsError::Missing { .. })));
    let again = create("red").unwrap();
    assert!(!again.same_as(&red), "a new namespace under the old name");
}

#[test]
fn what_is_no_network_namespace_is_told_apart() {
    isolate().unwrap();
    File::create("/run/plain").unwrap();
    nix::unistd::mkfifo("/run/pipe", nix::sys::stat::Mode::S_IRWXU).unwrap();
    let open = |path: &str| Netns::open(path).unwrap_err();

    for path in ["/run/plain", "/run", "/run/pipe", "/proc/self/ns/mnt", "/dev/null"] {
        assert!(matches!(open(path), NetnsError::NotANamespace { .. }), "{path}: {:?}", open(path));
    }
    for path in ["/run/none", "/run/plain/below", "", "/proc/0/ns/net"] {
        assert!(matches!(open(path), NetnsError::Missing { .. }), "{path}: {:?}", open(path));
    }
    assert_eq!(open("/run/plain").to_string(), "/run/plain is not a network namespace");
    assert_eq!(open("/run/none").to_string(), "network namespace /run/none does not exist");
    assert!(Netns::open("/proc/self/ns/net").is_ok(), "a process's namespace opens by its path in /proc");
}

#[test]
fn a_failed_pin_leaves_no_file() {
    isolate().unwrap();
    assert!(pin("/run/missing/red").is_err());
    assert!(pin("/run/red").is_ok());
    fs::create_dir("/run/dir").unwrap();
    assert!(matches!(pin("/run/dir"), Err(NetnsError::Exists { .. })));
}

#[test]
fn a_pin_without_its_mount_can_be_removed() {
    isolate().unwrap();
    File::create("/run/stale").unwrap();
    unpin("/run/stale").unwrap();
    assert!(!fs::exists("/run/stale").unwrap());
}
