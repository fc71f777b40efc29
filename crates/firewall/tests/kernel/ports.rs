//! Published ports in our own table, judged by who reaches what.

use std::fs;

use weft_firewall::{Change, Publish, ensure, observe, remove};
use weft_model::port::Protocol::{Tcp, Udp};
use weft_netns::{Netns, isolate};
use weft_nft::Socket;

use crate::calls::{call, call_from, is_silent, reach, serve};
use crate::lab::{
    BLUE, Lab, OWN, RED, SERVER, UPLINK, elements_expire, has, is_documented, loads, ruleset, sh,
};
use crate::publishing::{fragment, hairpin, publish};

/// The host's address on red's wire.
const GATEWAY: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const NOTHING: [String; 0] = [];

fn route_localnet(wires: &[&str]) {
    for wire in wires {
        sh(&format!("sysctl -q -w net.ipv4.conf.{wire}.route_localnet=1"));
    }
}

fn eight_to_eighty() -> Publish {
    publish(
        "red",
        &[
            "tcp 0.0.0.0:8080 -> 10.1.0.2:80",
            "tcp [::]:8080 -> [fd00:1::2]:80",
            "udp 0.0.0.0:8080 -> 10.1.0.2:53",
            "udp [::]:8080 -> [fd00:1::2]:53",
        ],
    )
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_keeps_its_callers() {
    let lab = Lab::new();
    route_localnet(&["wire-red"]);
    let _tcp = serve(&lab.red, Tcp, &[80]);
    let _udp = serve(&lab.red, Udp, &[53]);
    let ports = fragment(eight_to_eighty());
    for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
        for family in [0, 1] {
            reach(&lab.server, protocol, RED[family], port);
            is_silent(&lab.server, protocol, UPLINK[family], 8080);
        }
    }
    assert!(!observe(&ports).unwrap().is_empty());

    assert_eq!(ensure(&ports).unwrap(), Change::Made);

    assert_eq!(observe(&ports).unwrap(), NOTHING);
    for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
        for family in [0, 1] {
            let seen_as = |who: &str| format!("{who} at {port}");
            let at = |from: &Netns, address: &str| reach(from, protocol, address, 8080);
            assert_eq!(at(&lab.server, UPLINK[family]), seen_as(SERVER[family]), "the caller's own address");
            assert_eq!(at(&lab.host, UPLINK[family]), seen_as(UPLINK[family]), "from the host itself");
            assert_eq!(at(&lab.blue, GATEWAY[family]), seen_as(GATEWAY[family]), "from the same subnet");
            assert_eq!(at(&lab.red, UPLINK[family]), seen_as(GATEWAY[family]), "from the container itself");
            is_silent(&lab.server, protocol, UPLINK[family], 8081);
        }
        assert_eq!(reach(&lab.host, protocol, "127.0.0.1", 8080), format!("10.1.0.1 at {port}"));
        assert_eq!(reach(&lab.host, protocol, "127.7.7.7", 8080), format!("10.1.0.1 at {port}"));
    }
    assert_eq!(ensure(&ports).unwrap(), Change::AlreadyThere);

    remove(&ports).unwrap();
    remove(&ports).unwrap();

    for protocol in [Tcp, Udp] {
        for family in [0, 1] {
            is_silent(&lab.server, protocol, UPLINK[family], 8080);
            is_silent(&lab.host, protocol, UPLINK[family], 8080);
        }
    }
    assert!(!observe(&ports).unwrap().is_empty());
    remove(&hairpin("n1")).unwrap();
    assert_eq!(ruleset(), "", "nothing is left");
}

#[test]
fn a_range_is_one_element_wherever_it_leads() {
    let lab = Lab::new();
    let ranges = [
        ("7000-7099", "7000-7099", 7042, 7042),
        ("9000-9099", "9500-9599", 9042, 9542),
        ("30000-39999", "1-10000", 38079, 8080),
        ("8000-8099", "80-179", 8099, 179),
        ("20001-20100", "20000-20099", 20001, 20000),
    ];
    for (host, target, from, to) in ranges {
        let texts = [
            format!("tcp 0.0.0.0:{host} -> 10.1.0.2:{target}"),
            format!("udp 0.0.0.0:{host} -> 10.1.0.2:{target}"),
            format!("tcp [::]:{host} -> [fd00:1::2]:{target}"),
        ];
        let ports = fragment(publish("red", &texts.each_ref().map(String::as_str)));
        let edges: Vec<u16> = target.split('-').map(|port| port.parse().unwrap()).collect();
        let served = [edges[0], to, edges[1]];
        let mut distinct = served.to_vec();
        distinct.dedup();
        let _tcp = serve(&lab.red, Tcp, &distinct);
        let _udp = serve(&lab.red, Udp, &distinct[..1]);
        assert_eq!(ensure(&ports).unwrap(), Change::Made);
        let edges: Vec<u16> = host.split('-').map(|port| port.parse().unwrap()).collect();
        for (port, reached) in [edges[0], from, edges[1]].into_iter().zip(served) {
            for family in [0, 1] {
                let expected = format!("{} at {reached}", SERVER[family]);
                assert_eq!(reach(&lab.server, Tcp, UPLINK[family], port), expected, "{host} to {target}");
            }
        }
        assert_eq!(reach(&lab.server, Udp, UPLINK[0], edges[0]), format!("{} at {}", SERVER[0], served[0]));
        assert_eq!(call(&lab.server, Tcp, UPLINK[0], edges[1] + 1), None, "one more is none");
        assert_eq!(observe(&ports).unwrap(), NOTHING);
        if has("nft") {
            let listing = sh("nft list map inet weft publish_ranges4");
            assert_eq!(listing.matches(" : ").count(), 2 + 1, "an element for each protocol: {listing}");
        }
        remove(&ports).unwrap();
        is_silent(&lab.server, Tcp, UPLINK[0], edges[0]);
    }
}

/// KERNEL: where a range of ports is there to choose from, the next one is taken if the one that is meant is in use.
#[test]
fn a_range_leads_to_its_ports_whatever_else_leads_there() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80, 81]);
    let range = ["tcp 0.0.0.0:9000-9009 -> 10.1.0.2:80-89", "tcp [::]:9000-9009 -> [fd00:1::2]:80-89"];
    let both = ["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp [::]:8080 -> [fd00:1::2]:80", range[0], range[1]];
    let holds = |first: u16, second: u16, own: u16| {
        for family in [0, 1] {
            let expected = format!("{} at 80", SERVER[family]);
            let one = call_from(&lab.server, own, UPLINK[family], first).unwrap();
            // The first connection is open still.
            let other = call_from(&lab.server, own, UPLINK[family], second);
            let other = other.unwrap_or_else(|error| panic!("{second} after {first}: {error}"));
            assert_eq!((one.1, other.1), (expected.clone(), expected), "{first}, then {second}");
        }
    };
    ensure(&fragment(publish("red", &both))).unwrap();
    assert_eq!(observe(&fragment(publish("red", &both))).unwrap(), NOTHING);
    holds(8080, 9000, 40_000);
    holds(9000, 8080, 40_002);
    // The range was there first, and is one again when the single port goes.
    ensure(&fragment(publish("red", &range))).unwrap();
    if has("nft") {
        assert!(sh("nft list map inet weft publish_ranges4").contains("9000-9009 :"));
    }
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 9001), format!("{} at 81", SERVER[0]));
    ensure(&fragment(publish("red", &both))).unwrap();
    holds(8080, 9000, 40_004);
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 9001), format!("{} at 81", SERVER[0]));
    remove(&fragment(publish("red", &both))).unwrap();
    is_silent(&lab.server, Tcp, UPLINK[0], 9000);
}

#[test]
fn a_host_address_is_the_only_one_that_leads_there() {
    let lab = Lab::new();
    route_localnet(&["wire-red", "wire-blue"]);
    let _red = serve(&lab.red, Tcp, &[80]);
    let _blue = serve(&lab.blue, Tcp, &[81]);
    ensure(&fragment(publish(
        "red",
        &["tcp 127.0.0.1:8080 -> 10.1.0.2:80", "tcp [2001:db8::1]:8080 -> [fd00:1::2]:80"],
    )))
    .unwrap();
    ensure(&fragment(publish(
        "blue",
        &["tcp 192.0.2.1:8080 -> 10.1.0.3:81", "tcp [fd00:1::9]:8080 -> [fd00:1::3]:81"],
    )))
    .unwrap();

    assert_eq!(reach(&lab.host, Tcp, "127.0.0.1", 8080), "10.1.0.1 at 80");
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 81", SERVER[0]));
    assert_eq!(reach(&lab.server, Tcp, UPLINK[1], 8080), format!("{} at 80", SERVER[1]));
    assert_eq!(reach(&lab.host, Tcp, OWN[1], 8080), format!("{} at 81", GATEWAY[1]));
    assert_eq!(call(&lab.host, Tcp, OWN[0], 8080), None);
    assert_eq!(call(&lab.host, Tcp, "127.0.0.2", 8080), None);
    assert_eq!(call(&lab.host, Tcp, GATEWAY[1], 8080), None);
}

#[test]
fn what_passes_through_is_nobodys_business() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let _server = serve(&lab.server, Tcp, &[8080]);
    ensure(&fragment(eight_to_eighty())).unwrap();
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 80", SERVER[0]));
    for family in [0, 1] {
        // The same port of another machine.
        assert_eq!(reach(&lab.blue, Tcp, SERVER[family], 8080), format!("{} at 8080", BLUE[family]));
        assert_eq!(reach(&lab.host, Tcp, SERVER[family], 8080), format!("{} at 8080", UPLINK[family]));
    }
}

#[test]
fn only_those_on_a_ports_list_come_in() {
    let lab = Lab::new();
    let _tcp = serve(&lab.red, Tcp, &[80, 81, 85]);
    let _udp = serve(&lab.red, Udp, &[80]);
    let ports = publish(
        "red",
        &[
            "tcp 0.0.0.0:8080 -> 10.1.0.2:80 from 192.0.2.0/24,198.51.100.7/32",
            "tcp [::]:8080 -> [fd00:1::2]:80 from 2001:db8::/64",
            "udp 192.0.2.1:8080 -> 10.1.0.2:80 from 192.0.0.0/16",
            "tcp 0.0.0.0:8081 -> 10.1.0.2:81",
            "tcp 0.0.0.0:9080-9089 -> 10.1.0.2:80-89 from 192.0.2.0/24,192.0.2.2/32,192.0.0.0/16",
            "tcp [2001:db8::1]:9080-9089 -> [fd00:1::2]:80-89 from 2001:db8::/126",
        ],
    );
    ensure(&fragment(ports.clone())).unwrap();
    assert_eq!(observe(&fragment(ports.clone())).unwrap(), NOTHING);
    let listed = [
        (Tcp, UPLINK[0], 8080, SERVER[0], 80),
        (Tcp, UPLINK[1], 8080, SERVER[1], 80),
        (Udp, UPLINK[0], 8080, SERVER[0], 80),
        (Tcp, UPLINK[0], 9085, SERVER[0], 85),
        (Tcp, UPLINK[1], 9085, SERVER[1], 85),
    ];
    for (protocol, address, port, caller, reached) in listed {
        assert_eq!(reach(&lab.server, protocol, address, port), format!("{caller} at {reached}"));
        assert_eq!(call(&lab.blue, protocol, address, port), None, "{protocol} {address} {port}");
        assert_eq!(reach(&lab.host, protocol, address, port), format!("{address} at {reached}"), "the host");
    }
    assert_eq!(reach(&lab.blue, Tcp, UPLINK[0], 8081), format!("{} at 81", GATEWAY[0]), "no list, no limit");

    // Everybody, then others, then nobody's port at all.
    let open = publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]);
    ensure(&fragment(open)).unwrap();
    assert_eq!(reach(&lab.blue, Tcp, UPLINK[0], 8080), format!("{} at 80", GATEWAY[0]));
    is_silent(&lab.server, Tcp, UPLINK[0], 8081);
    let others = publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80 from 10.1.0.0/24"]);
    ensure(&fragment(others.clone())).unwrap();
    assert_eq!(reach(&lab.blue, Tcp, UPLINK[0], 8080), format!("{} at 80", GATEWAY[0]));
    is_silent(&lab.server, Tcp, UPLINK[0], 8080);
    remove(&fragment(others)).unwrap();
    is_silent(&lab.blue, Tcp, UPLINK[0], 8080);
}

#[test]
fn everybody_may_get_the_hosts_address() {
    let lab = Lab::new();
    let _tcp = serve(&lab.red, Tcp, &[80]);
    let all = Publish { masquerade_all: true, ..eight_to_eighty() };
    ensure(&fragment(all)).unwrap();
    for family in [0, 1] {
        assert_eq!(reach(&lab.server, Tcp, UPLINK[family], 8080), format!("{} at 80", GATEWAY[family]));
    }
    ensure(&fragment(eight_to_eighty())).unwrap();
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
    for family in [0, 1] {
        while reach(&lab.server, Tcp, UPLINK[family], 8080) != format!("{} at 80", SERVER[family]) {
            assert!(std::time::Instant::now() < limit);
        }
    }
}

#[test]
fn without_hairpin_the_same_subnet_keeps_its_address() {
    let lab = Lab::new();
    let _udp = serve(&lab.red, Udp, &[53]);
    let plain = Publish { snat: false, ..eight_to_eighty() };
    ensure(&fragment(plain)).unwrap();
    assert_eq!(reach(&lab.server, Udp, UPLINK[0], 8080), format!("{} at 53", SERVER[0]));
    // Each container has a wire of its own here, so the answer comes back by way of the host all the same.
    assert_eq!(reach(&lab.blue, Udp, GATEWAY[0], 8080), format!("{} at 53", BLUE[0]));
}

#[test]
fn nobody_sends_to_the_hosts_loopback_from_outside() {
    let lab = Lab::new();
    let _tcp = serve(&lab.red, Tcp, &[80]);
    let loopback = fragment(publish("red", &["tcp 127.0.0.1:8080 -> 10.1.0.2:80"]));
    route_localnet(&["wire-red", "uplink"]);
    // A neighbour that sends what it likes.
    for command in [
        "sysctl -q -w net.ipv4.conf.eth0.route_localnet=1",
        "ip addr del 127.0.0.1/8 dev lo",
        "ip route add 127.0.0.1 via 192.0.2.1 src 192.0.2.2",
    ] {
        sh(&format!("ip netns exec server {command}"));
    }
    ensure(&loopback).unwrap();
    sh("nft insert rule inet weft local_only accept");
    assert_eq!(reach(&lab.server, Tcp, "127.0.0.1", 8080), format!("{} at 80", SERVER[0]), "the twin");

    remove(&loopback).unwrap();
    remove(&hairpin("n1")).unwrap();
    ensure(&loopback).unwrap();

    assert_eq!(reach(&lab.host, Tcp, "127.0.0.1", 8080), "10.1.0.1 at 80");
    is_silent(&lab.server, Tcp, "127.0.0.1", 8080);
}

#[test]
fn a_change_leaves_what_stays_untouched() {
    let lab = Lab::new();
    let _tcp = serve(&lab.red, Tcp, &[80, 81]);
    ensure(&fragment(publish(
        "red",
        &["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp 0.0.0.0:8081 -> 10.1.0.2:81"],
    )))
    .unwrap();
    let after =
        fragment(publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp 0.0.0.0:8082 -> 10.1.0.2:81"]));
    let generation = || Socket::open().unwrap().generation().unwrap();
    let deletions = u32::from(!elements_expire());
    let before = generation();
    assert_eq!(ensure(&after).unwrap(), Change::Made);
    assert_eq!(generation(), before + 1 + deletions, "one transaction");
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 80", SERVER[0]));
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8082), format!("{} at 81", SERVER[0]));
    is_silent(&lab.server, Tcp, UPLINK[0], 8081);

    // The same port, to another one of the container: at once, and not after a pause without either.
    let moved = fragment(publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:81"]));
    ensure(&moved).unwrap();
    assert_eq!(call(&lab.server, Tcp, UPLINK[0], 8080), Some(format!("{} at 81", SERVER[0])));
    // Away and back, faster than the element expires.
    for _ in 0..5 {
        remove(&moved).unwrap();
        ensure(&after).unwrap();
        assert_eq!(call(&lab.server, Tcp, UPLINK[0], 8080), Some(format!("{} at 80", SERVER[0])));
        remove(&after).unwrap();
        ensure(&moved).unwrap();
        assert_eq!(call(&lab.server, Tcp, UPLINK[0], 8080), Some(format!("{} at 81", SERVER[0])));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(call(&lab.server, Tcp, UPLINK[0], 8080), Some(format!("{} at 81", SERVER[0])), "it stays");
    assert!(fs::read_dir("/run/weft/locks").unwrap().all(|file| file.unwrap().file_name() == "ports"));
}

#[test]
fn the_table_reads_as_documented() {
    isolate().unwrap();
    ensure(&fragment(publish(
        "red",
        &[
            "tcp 0.0.0.0:8080 -> 10.1.0.2:80",
            "tcp [::]:8080 -> [fd00:1::2]:80",
            "udp 0.0.0.0:9000-9099 -> 10.1.0.2:9000-9099",
        ],
    )))
    .unwrap();
    loads();
    is_documented("table inet weft with published ports");
}

#[test]
fn lists_of_sources_read_as_documented() {
    isolate().unwrap();
    let listed = "tcp 0.0.0.0:8443 -> 10.1.0.2:443 from 192.0.2.0/24,198.51.100.7/32";
    ensure(&fragment(Publish { snat: false, ..publish("red", &[listed]) })).unwrap();
    loads();
    if !has("nft") {
        return;
    }
    let chains = [
        "set inet weft restricted4",
        "set inet weft from4_24",
        "chain inet weft restricted",
        "chain inet weft restricted_any",
        "chain inet weft from_any4",
    ];
    let listing = chains.map(|name| inner(&sh(&format!("nft list {name}")))).join("\n");
    let page = include_str!("../../../../docs/firewall.md");
    assert!(page.contains(&format!("```text\n{listing}```\n")), "docs/firewall.md:\n{listing}");
}

/// A listing without the line of the table around it.
pub(crate) fn inner(listing: &str) -> String {
    let lines: Vec<_> = listing.lines().collect();
    lines[1..lines.len() - 1]
        .iter()
        .map(|line| format!("{}\n", line.strip_prefix('\t').unwrap_or(line)))
        .collect()
}
