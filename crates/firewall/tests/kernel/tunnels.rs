//! The guard of overlays' outer packets, packet by packet.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use weft_firewall::{Change, Tunnels};
use weft_testkit::{Fragment, send_fragment, udp_datagram};

use crate::lab::{ruleset, run, sh};

fn tunnels() -> Tunnels {
    Tunnels {
        plain_port: 4789,
        secure_port: 8473,
        mesh_ports: BTreeSet::from([51820, 51821]),
        mesh_links: "weftwg",
        vnis: BTreeSet::from([5000]),
        uplinks: false,
        hosts: ["192.0.2.7", "2001:db8::7"].iter().map(|host| host.parse().unwrap()).collect(),
    }
}

#[test]
fn it_is_written_once_and_listed_as_meant() {
    weft_netns::isolate().unwrap();
    let wanted = tunnels();
    assert_ne!(wanted.observe().unwrap(), [""; 0]);
    assert_eq!(wanted.ensure().unwrap(), Change::Made);
    assert_eq!(wanted.ensure().unwrap(), Change::AlreadyThere);
    assert_eq!(wanted.observe().unwrap(), [""; 0]);
    let listed = ruleset();
    for rule in [
        "meta l4proto != udp goto no_datagram",
        "th dport 4789 goto plain",
        "th dport 8473 goto secure",
        "iifname != \"weftwg*\" counter",
        "meta nfproto ipv6 iifname \"weftwg*\" counter",
        "meta l4proto != udp accept",
        "th dport 8473 goto into_mesh",
        "oifname != \"weftwg*\" counter",
        "ip saddr @hosts4 goto untracked",
        "ip6 saddr @hosts6 goto untracked",
        "goto stranger",
        "th dport 51821 goto carrier",
        "th dport 51821 goto untracked",
        "notrack",
        "192.0.2.7",
    ] {
        assert!(listed.contains(rule), "{rule}:\n{listed}");
    }
    // Another host is another element: the rules and their counters stay.
    let mut more = wanted.clone();
    more.hosts.insert("192.0.2.8".parse().unwrap());
    assert_eq!(more.observe().unwrap(), ["host 192.0.2.8 among those of table inet weft_tunnels"]);
    assert_eq!(more.ensure().unwrap(), Change::Made);
    assert_eq!(wanted.ensure().unwrap(), Change::Made, "a host that is none any more goes");
    assert!(!ruleset().contains("192.0.2.8"));
    sh("nft flush chain inet weft_tunnels arriving");
    assert_ne!(wanted.observe().unwrap(), [""; 0], "rules that somebody took");
    assert_eq!(wanted.ensure().unwrap(), Change::Made);
    assert_eq!(wanted.observe().unwrap(), [""; 0]);
    // As many rules, and one of them another: what it dropped passes.
    let listed = sh("nft -a list chain inet weft_tunnels secure");
    let handle = listed.split_once("drop # handle ").and_then(|(_, rest)| rest.lines().next()).unwrap();
    let rule = "iifname != \"weftwg*\" counter accept";
    sh(&format!("nft replace rule inet weft_tunnels secure handle {handle} {rule}"));
    assert_ne!(wanted.observe().unwrap(), [""; 0], "a rule that somebody changed");
    assert_eq!(wanted.ensure().unwrap(), Change::Made);
    assert_eq!(wanted.observe().unwrap(), [""; 0]);
    Tunnels::remove().unwrap();
    Tunnels::remove().unwrap();
    assert!(!ruleset().contains("weft_tunnels"));
}

#[test]
fn a_table_of_somebody_elses_is_left_alone() {
    weft_netns::isolate().unwrap();
    if run("nft add table inet weft_tunnels").status.success() {
        sh("nft delete table inet weft_tunnels");
        #[expect(clippy::disallowed_methods, reason = "a scratch file")]
        std::fs::write("/run/theirs", "table inet weft_tunnels { comment \"mine\"; }").unwrap();
        sh("nft -f /run/theirs");
        let error = tunnels().ensure().unwrap_err().to_string();
        assert!(error.contains("weft_tunnels") && error.contains("mine"), "{error}");
    }
}

#[test]
fn what_leaves_outside_the_mesh_by_the_secure_port_is_dropped() {
    weft_netns::isolate().unwrap();
    let send = |port: u16| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", ("127.0.0.1", port)).map(drop)
    };
    send(8473).unwrap();
    tunnels().ensure().unwrap();
    // What the output hook drops is an error for the sender.
    assert!(send(8473).is_err());
    send(8474).unwrap();
}

/// Plain VXLAN as it is sent: an identifier, and something to know it by.
fn vxlan(vni: u32, tag: &str) -> Vec<u8> {
    [&[8, 0, 0, 0][..], &vni.to_be_bytes()[1..], &[0], tag.as_bytes(), &[b'.'; 32]].concat()
}

/// Sends the pieces of a datagram, each with where it begins; the first may be another than it says in the whole.
fn send(
    stranger: &weft_netns::Netns,
    from: SocketAddr,
    to: SocketAddr,
    packet: u16,
    pieces: &[(u16, &[u8])],
) {
    stranger
        .run(|| {
            for (at, (offset, bytes)) in pieces.iter().enumerate() {
                let fragment = Fragment { packet, offset: *offset, more: at + 1 < pieces.len(), bytes };
                send_fragment(from.ip(), to.ip(), &fragment).unwrap();
            }
        })
        .unwrap();
}

/// On a host where nobody tracks connections nothing is put together before it gets here.
#[test]
fn fragments_hide_nothing_from_the_guard() {
    weft_netns::isolate().unwrap();
    let far = weft_netns::create("far").unwrap();
    for command in [
        "ip link add up0 type veth peer name eth0 netns far",
        "ip addr add 192.0.2.1/24 dev up0",
        "ip addr add 2001:db8::1/64 dev up0 nodad",
        "ip link set up0 up",
        "ip -n far addr add 192.0.2.66/24 dev eth0",
        "ip -n far addr add 2001:db8::66/64 dev eth0 nodad",
        "ip -n far addr add 192.0.2.7/24 dev eth0",
        "ip -n far addr add 2001:db8::7/64 dev eth0 nodad",
        "ip -n far link set eth0 up",
    ] {
        sh(command);
    }
    for (own, stranger, known) in
        [("192.0.2.1", "192.0.2.66", "192.0.2.7"), ("2001:db8::1", "2001:db8::66", "2001:db8::7")]
    {
        let [to, stranger, known] =
            [own, stranger, known].map(|address| SocketAddr::new(address.parse().unwrap(), 4789));
        let listener = UdpSocket::bind(to).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let next = || {
            let mut buffer = [0; 64];
            let length = listener.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[8..length]).trim_end_matches('.').to_string()
        };
        let ours = |tag: &str, from| udp_datagram(from, to, &vxlan(5000, tag));
        // The identifier is in the second piece.
        let cut = |packet, tag: &str, from| {
            let whole = ours(tag, from);
            send(&far, from, to, packet, &[(0, &whole[..8]), (8, &whole[8..])]);
        };
        // The first piece has an identifier that the kernel cuts off: it keeps multiples of 8 bytes.
        let lie = |packet, tag: &str| {
            let (whole, other) = (ours(tag, stranger), udp_datagram(stranger, to, &vxlan(6000, tag)));
            send(
                &far,
                stranger,
                to,
                packet,
                &[(0, &[&whole[..8], &other[8..15]].concat()), (8, &whole[8..])],
            );
        };
        // Somebody else's network on the same port is none of ours, in one piece or in two.
        let others = |packet, tag: &str| {
            let whole = udp_datagram(stranger, to, &vxlan(6000, tag));
            send(&far, stranger, to, packet, &[(0, &whole[..16]), (16, &whole[16..])]);
        };
        tunnels().ensure().unwrap();
        cut(1, "hidden", stranger);
        if own.contains('.') {
            lie(2, "lied about");
        }
        cut(3, "known", known);
        others(4, "theirs");
        assert_eq!([next(), next()], ["known", "theirs"], "{own}");
        // The positive twin: without the guard all of it arrives.
        Tunnels::remove().unwrap();
        cut(5, "hidden", stranger);
        assert_eq!(next(), "hidden", "{own}");
        if own.contains('.') {
            lie(6, "lied about");
            assert_eq!(next(), "lied about");
        }
    }
}

#[test]
fn whoever_is_let_in_and_should_not_be_is_seen() {
    weft_netns::isolate().unwrap();
    let wanted = tunnels();
    wanted.ensure().unwrap();
    sh("nft add element inet weft_tunnels hosts4 { 192.0.2.9 }");
    sh("nft add element inet weft_tunnels hosts6 { 2001:db8::9 }");
    let surplus =
        ["192.0.2.9", "2001:db8::9"].map(|host| format!("table inet weft_tunnels without host {host}"));
    assert_eq!(wanted.observe().unwrap(), surplus);
    assert_eq!(wanted.ensure().unwrap(), Change::Made);
    assert_eq!(wanted.observe().unwrap(), [""; 0]);
}
