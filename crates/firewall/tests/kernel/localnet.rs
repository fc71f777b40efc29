//! The host's loopback addresses, on a host whose links route them: who reaches them, with ports published and without.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use weft_firewall::{
    Backend, Change, Fragment, Localnet, Publish, diagnose, ensure, observe, reload, remove,
};
use weft_model::port::Protocol::Tcp;
use weft_state::Root;

use crate::calls::{reach, serve};
use crate::lab::{Lab, RED, claims, has, ruleset, run, seen_source, sh};
use crate::publishing::{fragment, hairpin, publish};

const SWITCH: &str = "/proc/sys/net/ipv4/conf/wire-red/route_localnet";
/// The host on red's wire.
const GATEWAY: &str = "10.1.0.1";
const NOTHING: [String; 0] = [];

fn localnet(network: &str, backend: Backend) -> Fragment {
    Fragment::Localnet(Localnet {
        network: network.parse().unwrap(),
        link: Some("wire-red".parse().unwrap()),
        backend,
        claims: claims(),
    })
}

fn is_switched_on() -> bool {
    fs::read_to_string(SWITCH).unwrap().trim() == "1"
}

fn switch(on: bool) {
    sh(&format!("sysctl -q -w net.ipv4.conf.wire-red.route_localnet={}", u8::from(on)));
}

/// A host with a container that sends what it likes, as one with `CAP_NET_RAW` can.
fn with_forger() -> Lab {
    let lab = Lab::new();
    for command in [
        "sysctl -q -w net.ipv4.conf.eth0.route_localnet=1",
        "ip addr del 127.0.0.1/8 dev lo",
        "ip addr add 127.0.0.2/32 dev lo",
        "ip route add 127.0.0.1 via 10.1.0.1 src 10.1.0.2",
    ] {
        sh(&format!("ip netns exec red {command}"));
    }
    lab
}

/// Tells whether what red sends from and to these addresses gets to a service of the host. What it sends honestly
/// afterwards does.
fn arrives(lab: &Lab, from: &str, to: &str) -> bool {
    seen_source((&lab.red, RED[0]), (&lab.host, GATEWAY), |_| {});
    let service = lab.host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    service.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let port = service.local_addr().unwrap().port();
    for (from, to, word) in [(from, to, "forged"), (RED[0], GATEWAY, "honest")] {
        let sender = lab.red.run(|| UdpSocket::bind((from, 0)).unwrap()).unwrap();
        sender.send_to(word.as_bytes(), (to, port)).unwrap();
    }
    let mut text = [0; 6];
    service.recv(&mut text).unwrap();
    &text == b"forged"
}

/// Packets to the host's loopback address, and packets that claim to be from there.
const FORGED: [(&str, &str); 2] = [(RED[0], "127.0.0.1"), ("127.0.0.2", GATEWAY)];

fn nothing_forged_arrives(lab: &Lab, when: &str) {
    for (from, to) in FORGED {
        assert!(!arrives(lab, from, to), "from {from} to {to} {when}");
    }
}

fn loopback_is_the_hosts_own(backend: Backend) {
    let lab = with_forger();
    let _red = serve(&lab.red, Tcp, &[80]);
    switch(true);
    for (from, to) in FORGED {
        assert!(arrives(&lab, from, to), "from {from} to {to}: the twin");
    }
    switch(false);
    nothing_forged_arrives(&lab, "as the kernel has it");
    let root = Root::new(None);
    let ports = fragment(Publish { backend, ..publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]) });
    ensure(&ports).unwrap();
    assert!(!observe(&localnet("n1", backend)).unwrap().is_empty());

    assert_eq!(ensure(&localnet("n1", backend)).unwrap(), Change::Made);

    assert_eq!(ensure(&localnet("n1", backend)).unwrap(), Change::AlreadyThere);
    assert_eq!(observe(&localnet("n1", backend)).unwrap(), NOTHING);
    assert_eq!(diagnose(&root).unwrap(), []);
    assert!(is_switched_on());
    assert_eq!(reach(&lab.host, Tcp, "127.0.0.1", 8080), "10.1.0.1 at 80");
    nothing_forged_arrives(&lab, "with a published port");

    // Nothing is published any more, and the link still routes them.
    remove(&ports).unwrap();
    remove(&hairpin("n1")).unwrap();
    assert!(is_switched_on());
    nothing_forged_arrives(&lab, "after the last port");
    reload(&root).unwrap();
    assert!(is_switched_on());
    nothing_forged_arrives(&lab, "after a reload");
    if has("nft") && backend != Backend::Iptables {
        sh("nft flush ruleset");
        assert!(arrives(&lab, FORGED[0].0, FORGED[0].1), "the twin");
        assert_ne!(diagnose(&root).unwrap(), []);
        reload(&root).unwrap();
        nothing_forged_arrives(&lab, "after a flush and a reload");
    }
    switch(false);
    assert_ne!(diagnose(&root).unwrap(), []);
    reload(&root).unwrap();
    assert!(is_switched_on());
    assert_eq!(diagnose(&root).unwrap(), []);

    // Another network on the same link keeps both.
    ensure(&localnet("n2", backend)).unwrap();
    remove(&localnet("n1", backend)).unwrap();
    assert!(is_switched_on());
    nothing_forged_arrives(&lab, "while another network wants it");
    remove(&localnet("n2", backend)).unwrap();
    remove(&localnet("n2", backend)).unwrap();
    assert!(!is_switched_on());
    nothing_forged_arrives(&lab, "after the last network");
}

#[test]
fn loopback_is_the_hosts_own_by_our_table() {
    loopback_is_the_hosts_own(Backend::Weft);
    assert_eq!(ruleset(), "", "nothing is left");
}

#[test]
fn loopback_is_the_hosts_own_by_the_reference_plugins_tables() {
    if has("nft") {
        loopback_is_the_hosts_own(Backend::UpstreamNftables);
    }
}

#[test]
fn loopback_is_the_hosts_own_by_iptables() {
    if !has("iptables-restore") {
        return;
    }
    loopback_is_the_hosts_own(Backend::Iptables);
    let raw = run("iptables -t raw -S PREROUTING");
    assert_eq!(String::from_utf8_lossy(&raw.stdout), "-P PREROUTING ACCEPT\n");
}

#[test]
fn a_link_that_is_gone_has_nothing_to_be_taken_back() {
    let _lab = with_forger();
    ensure(&localnet("n1", Backend::Weft)).unwrap();
    sh("ip link del wire-red");
    reload(&Root::new(None)).unwrap();
    remove(&localnet("n1", Backend::Weft)).unwrap();
    assert_eq!(ruleset(), "");
    let error = ensure(&localnet("n1", Backend::Weft)).unwrap_err().to_string();
    assert_eq!(error, "cannot set net/ipv4/conf/wire-red/route_localnet");
    remove(&localnet("n1", Backend::Weft)).unwrap();
}

#[test]
fn a_port_given_up_beside_a_reload_stays_given_up() {
    if !has("nft") {
        return;
    }
    weft_netns::isolate().unwrap();
    // Many, so that a reload takes its time.
    let many: Vec<_> = (9000..9400).map(|port| format!("tcp 0.0.0.0:{port} -> 10.1.0.3:90")).collect();
    let stays = fragment(publish("blue", &many.iter().map(String::as_str).collect::<Vec<_>>()));
    let goes = fragment(publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]));
    ensure(&stays).unwrap();
    for round in 0..60 {
        ensure(&goes).unwrap();
        sh("nft flush ruleset");
        std::thread::scope(|scope| {
            scope.spawn(|| reload(&Root::new(None)).unwrap());
            // At another moment of the reload each time.
            std::thread::sleep(Duration::from_micros(round * 150));
            remove(&goes).unwrap();
        });
        // An element that is about to leave is listed with its end.
        let ports = sh("nft list map inet weft publish4");
        assert!(!ports.contains(". 8080 :") || ports.contains("expires"), "round {round}: {ports}");
        assert!(ports.contains(". 9090 "), "round {round}: {ports}");
    }
}
