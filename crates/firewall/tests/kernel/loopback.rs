//! Published ports called from the host's own `::1`, through a bridge.

use std::fs;
use std::path::Path;

use weft_firewall::{Backend, Change, Fragment, Loopback, ensure, observe, reload, remove};
use weft_model::port::Protocol::{Tcp, Udp};
use weft_netns::{Netns, create, isolate};
use weft_nft::{Family, Socket, Table};

use crate::calls::{call, is_silent, reach, serve};
use crate::lab::{claims, has, ruleset, sh};
use crate::publishing::{fragment, hairpin, publish};

const SWITCH: &str = "/proc/sys/net/bridge/bridge-nf-call-ip6tables";
const NETDEV: Table = Table::new(Family::Netdev, "weft");

fn answers(network: &str, link: &str) -> Fragment {
    Fragment::Loopback(Loopback {
        network: network.parse().unwrap(),
        link: Some(link.parse().unwrap()),
        backend: Backend::Weft,
        claims: claims(),
    })
}

/// A host with a container on a bridge.
fn bridged() -> (Netns, Netns) {
    isolate().unwrap();
    let red = create("red").unwrap();
    for command in [
        "ip link set lo up",
        "ip link add br0 type bridge",
        "ip link set br0 up",
        "ip addr add 10.1.0.1/24 dev br0",
        "ip addr add fd00:1::1/64 dev br0 nodad",
        "ip link add port master br0 type veth peer name eth0 netns red",
        "ip link set port up",
        "ip -n red link set eth0 up",
        "ip -n red addr add 10.1.0.2/24 dev eth0",
        "ip -n red addr add fd00:1::2/64 dev eth0 nodad",
        "ip -n red route add default via 10.1.0.1",
        "ip -n red route add default via fd00:1::1",
        "sysctl -q -w net.ipv6.conf.all.forwarding=1",
    ] {
        sh(command);
    }
    (Netns::current().unwrap(), red)
}

fn is_called_from_loopback(frames_pass_ip: bool) {
    let (host, red) = bridged();
    if Path::new(SWITCH).exists() {
        sh(&format!("sysctl -q -w net.bridge.bridge-nf-call-ip6tables={}", u8::from(frames_pass_ip)));
    } else if frames_pass_ip {
        weft_testkit::skipped("br_netfilter");
        return;
    }
    let _tcp = serve(&red, Tcp, &[80]);
    let _udp = serve(&red, Udp, &[53]);
    let ports =
        fragment(publish("red", &["tcp [::]:8080 -> [fd00:1::2]:80", "udp [::1]:8053 -> [fd00:1::2]:53"]));
    ensure(&ports).unwrap();
    assert_eq!(reach(&host, Tcp, "fd00:1::1", 8080), "fd00:1::1 at 80");
    assert_eq!(call(&host, Tcp, "::1", 8080), None, "answers are not delivered without");
    let before = ruleset();

    assert_eq!(ensure(&answers("n1", "br0")).unwrap(), Change::Made);

    assert_eq!(ensure(&answers("n1", "br0")).unwrap(), Change::AlreadyThere);
    assert_eq!(observe(&answers("n1", "br0")).unwrap(), Vec::<String>::new());
    assert_eq!(reach(&host, Tcp, "::1", 8080), "fd00:1::1 at 80");
    assert_eq!(reach(&host, Udp, "::1", 8053), "fd00:1::1 at 53");
    let _own = serve(&host, Tcp, &[99]);
    assert_eq!(reach(&host, Tcp, "::1", 99), "::1 at 99", "the host's own services are called as before");
    assert_eq!(Socket::open().unwrap().has_chain(NETDEV, "br0").unwrap(), frames_pass_ip);

    // Another network on the same bridge keeps it.
    ensure(&answers("n2", "br0")).unwrap();
    remove(&answers("n1", "br0")).unwrap();
    assert_eq!(reach(&host, Tcp, "::1", 8080), "fd00:1::1 at 80");
    if has("nft") {
        sh("nft flush ruleset");
        assert_eq!(call(&host, Tcp, "::1", 8080), None);
        reload(&weft_state::Root::new(None)).unwrap();
        assert_eq!(reach(&host, Tcp, "::1", 8080), "fd00:1::1 at 80");
    }
    remove(&answers("n2", "br0")).unwrap();
    is_silent(&host, Tcp, "::1", 8080);
    if has("nft") {
        assert!(!sh("ip -6 route show table local").contains("::1 dev br0 metric"), "the route is gone");
        assert_eq!(sorted(&ruleset().replace(MARKING, "")), sorted(&before));
    }
    for gone in [ports, hairpin("n1")] {
        remove(&gone).unwrap();
    }
    assert_eq!(ruleset(), "");
}

/// What stays in the table as long as the table.
const MARKING: &str = "set loopback {
type ifname
flags timeout
gc-interval 1m
}

";

fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<_> = listing
        .lines()
        .filter(|line| {
            !line.contains("loopback_answers")
                && !line.contains("priority -50")
                && !line.contains("@loopback")
        })
        .filter(|line| !line.is_empty() && *line != "}")
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_port_is_called_from_loopback() {
    is_called_from_loopback(false);
}

#[test]
fn a_port_is_called_from_loopback_where_frames_pass_ip() {
    is_called_from_loopback(true);
}

#[test]
fn nobody_outside_reaches_loopback_by_it() {
    let (host, red) = bridged();
    let _own = serve(&host, Tcp, &[99]);
    let _red = serve(&red, Tcp, &[80]);
    ensure(&fragment(publish("red", &["tcp [::]:8080 -> [fd00:1::2]:80", "tcp [::1]:98 -> [fd00:1::2]:80"])))
        .unwrap();
    ensure(&answers("n1", "br0")).unwrap();
    assert_eq!(reach(&host, Tcp, "::1", 98), "fd00:1::1 at 80");
    // An address of the host's that the container reaches by its gateway.
    const FAR: &str = "2001:db8::1";
    sh("ip addr add 2001:db8::1/128 dev lo");
    // What the container sends to the host goes to ::1 once it is on its wire, and is counted there.
    if !has("nft") {
        return;
    }
    for command in [
        "nft add table inet forge",
        "nft add chain inet forge out { type filter hook postrouting priority 300 ; }",
        "nft add rule inet forge out tcp dport 98-99 ip6 daddr set ::1",
    ] {
        sh(&format!("ip netns exec red {command}"));
    }
    sh("nft add table netdev probe");
    sh("nft add chain netdev probe wire { type filter hook ingress device port priority -10 ; }");
    let silent = || sh("nft list chain netdev probe wire").contains("packets 0 ");
    for switch in ["0", "1"] {
        if fs::metadata(SWITCH).is_ok() {
            sh(&format!("sysctl -q -w net.bridge.bridge-nf-call-ip6tables={switch}"));
        }
        sh("nft flush chain netdev probe wire");
        sh("nft add rule netdev probe wire ip6 daddr ::1 counter");
        assert_eq!(call(&red, Tcp, FAR, 99), None, "switch {switch}");
        assert!(!silent(), "it does arrive");
        assert_eq!(call(&red, Tcp, FAR, 98), None, "what is published at ::1 alone, switch {switch}");
    }
    sh("ip netns exec red nft delete table inet forge");
    assert_eq!(reach(&red, Tcp, FAR, 99), "fd00:1::2 at 99", "the twin");
}

#[test]
fn a_link_that_is_gone_keeps_nobody_from_anything() {
    let (_host, _red) = bridged();
    ensure(&answers("n1", "br0")).unwrap();
    sh("ip link del br0");
    remove(&answers("n1", "br0")).unwrap();
    remove(&answers("n1", "br0")).unwrap();
    assert!(!ruleset().contains("inet weft"), "{}", ruleset());
    let error = ensure(&answers("n1", "br7")).unwrap_err().to_string();
    assert_eq!(error, "no interface br7: No such device");
    remove(&answers("n1", "br7")).unwrap();
}

#[test]
fn a_link_that_was_made_anew_gets_its_route_again() {
    let (_host, _red) = bridged();
    ensure(&answers("n1", "br0")).unwrap();
    assert_eq!(observe(&answers("n1", "br0")).unwrap(), Vec::<String>::new());
    for command in ["ip link del br0", "ip link add br0 type bridge", "ip link set br0 up"] {
        sh(command);
    }
    let route = "route local ::1 dev br0".to_string();
    assert!(observe(&answers("n1", "br0")).unwrap().contains(&route));
    assert_eq!(ensure(&answers("n1", "br0")).unwrap(), Change::Made);
    assert_eq!(observe(&answers("n1", "br0")).unwrap(), Vec::<String>::new());
    assert_eq!(ensure(&answers("n1", "br0")).unwrap(), Change::AlreadyThere);
}

#[test]
fn what_is_of_one_link_goes_without_the_others() {
    let (_host, _red) = bridged();
    sh("ip link add br1 type bridge");
    sh("ip link set br1 up");
    for link in ["br0", "br1"] {
        assert_eq!(ensure(&answers("n1", link)).unwrap(), Change::Made);
    }
    for link in ["br0", "br1"] {
        assert_eq!(observe(&answers("n1", link)).unwrap(), Vec::<String>::new(), "{link}");
        assert_eq!(ensure(&answers("n1", link)).unwrap(), Change::AlreadyThere, "{link}");
    }
    remove(&answers("n1", "br1")).unwrap();
    assert_eq!(observe(&answers("n1", "br0")).unwrap(), Vec::<String>::new());
    assert_ne!(observe(&answers("n1", "br1")).unwrap(), Vec::<String>::new());
    let Fragment::Loopback(of_all) = answers("n1", "br0") else { unreachable!() };
    ensure(&answers("n1", "br1")).unwrap();
    remove(&Fragment::Loopback(Loopback { link: None, ..of_all })).unwrap();
    for link in ["br0", "br1"] {
        assert_ne!(observe(&answers("n1", link)).unwrap(), Vec::<String>::new(), "{link}");
    }
}
