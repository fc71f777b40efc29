//! Connection tracking never sees what carries an overlay, by either family and in either direction.

use std::net::{IpAddr, UdpSocket};

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, Host, reaches, skip_unless};

use crate::overlay_agent::addresses;

/// What plain networks are sent by, and the mesh by each slot.
const PORTS: [u16; 3] = [4789, 51820, 51821];
/// What is inside of the mesh.
const SECURE: u16 = 8473;

/// How many flows to a port are tracked.
fn tracked(host: &Host, port: u16) -> usize {
    let flows = host.sh("cat /proc/net/nf_conntrack").expect_ok().to_owned();
    let of_port = format!("dport={port} ");
    flows.lines().filter(|line| line.contains("udp") && line.contains(&of_port)).count()
}

#[test]
fn what_carries_an_overlay_by_ipv4_is_not_tracked() {
    is_not_tracked(|host| host.ipv4());
}

#[test]
fn what_carries_an_overlay_by_ipv6_is_not_tracked() {
    is_not_tracked(|host| host.ipv6());
}

fn is_not_tracked(underlay: fn(&Host) -> IpAddr) {
    let mut cluster = Cluster::unjoined(2);
    let table = cluster.host(1).sh("test -e /proc/net/nf_conntrack");
    skip_unless!(table.code == 0, "CONFIG_NF_CONNTRACK_PROCFS");
    for number in [1, 2] {
        cluster.start(number);
        let own = underlay(cluster.host(number)).to_string();
        cluster.join_with(number, &["--underlay-ip", &own]).expect_ok();
        // Somebody who has everything tracked, as it arrives and as it leaves.
        cluster
            .host(number)
            .sh("nft 'add table inet t; add chain inet t i { type filter hook input priority 0; }; \
                 add rule inet t i ct state new counter; \
                 add chain inet t o { type filter hook output priority 0; }; add rule inet t o ct state new counter'")
            .expect_ok();
    }
    cluster.network(1, &["blue"]);
    cluster.network(1, &["-o", "encrypted", "dark"]);
    let pairs =
        ["blue", "dark"].map(|name| [1, 2].map(|number| cluster.host(number).connected(name, name).0));
    let talk = || {
        for [here, there] in &pairs {
            reaches(here, addresses(there));
            reaches(there, addresses(here));
        }
        // By hand, too, so that each port is used in both directions.
        for (from, to) in [(1, 2), (2, 1)].map(|(from, to)| (cluster.host(from), cluster.host(to))) {
            let socket = from.inside(|| UdpSocket::bind((underlay(from), 0)).unwrap());
            for port in PORTS {
                socket.send_to(b"?", (underlay(to), port)).unwrap();
            }
        }
    };
    let found = || {
        let of = |number| PORTS.iter().chain([&SECURE]).map(move |port| (number, *port));
        let all = of(1).chain(of(2)).map(|(number, port)| tracked(cluster.host(number), port));
        all.collect::<Vec<_>>()
    };
    talk();
    assert_eq!(found(), [0; 8]);
    cluster.host(1).weft(["overlay", "rotate"]).expect_ok();
    cluster.eventually("the other slot is in use", || {
        cluster.host(2).sh("ip -6 route show proto 202").expect_ok().contains("weftwgb")
    });
    talk();
    assert_eq!(found(), [0; 8]);
    // The twin: without the guard all of that is tracked.
    for number in [1, 2] {
        cluster.signal(number, Signal::SIGSTOP);
        cluster.host(number).sh("nft delete table inet weft_tunnels").expect_ok();
    }
    talk();
    assert!(found().iter().all(|count| *count > 0), "{:?}", found());
}
