//! The guard of overlays' outer packets, packet by packet.

use std::collections::BTreeSet;
use std::net::UdpSocket;

use weft_firewall::{Change, Tunnels};

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
        "udp dport 4789 goto plain",
        "udp dport 8473 goto secure",
        "iifname != \"weftwg*\" counter",
        "iifname \"weftwg*\" counter",
        "udp dport 8473 goto into_mesh",
        "oifname != \"weftwg*\" counter",
        "ip saddr != @hosts4 counter",
        "ip6 saddr != @hosts6 counter",
        "goto known_host",
        "udp dport 51821 goto carrier",
        "udp dport 51821 goto untracked",
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
