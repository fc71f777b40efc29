//! The spoof check, with frames on a bridge.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use weft_firewall::{
    Change, Firewall, FirewallError, Fragment, SpoofCheck, Survivors, collect, diagnose, ensure,
    is_on_record, observe, reload, remove,
};
use weft_model::Mac;
use weft_netns::{Netns, create, isolate};
use weft_nft::{Family, Socket, Table};
use weft_state::Root;
use weft_testkit::until;

use crate::lab::{claims, endpoint, has, is_documented, ruleset, sh};

const HONEST: &str = "02:00:00:00:00:02";
const FORGED: &str = "02:00:00:00:00:66";

/// Two containers on a bridge; red's port is `port-red`.
struct Lab {
    red: Netns,
    listener: UdpSocket,
}

impl Lab {
    fn new() -> Self {
        isolate().unwrap();
        let [red, blue] = ["red", "blue"].map(|name| create(name).unwrap());
        sh("ip link add br0 type bridge");
        sh("ip link set br0 up");
        for (name, address, mac) in
            [("red", "10.0.0.2/24", HONEST), ("blue", "10.0.0.3/24", "02:00:00:00:00:03")]
        {
            sh(&format!("ip link add port-{name} type veth peer name eth0 address {mac} netns {name}"));
            sh(&format!("ip link set port-{name} master br0 up"));
            sh(&format!("ip -n {name} link set eth0 up"));
            sh(&format!("ip -n {name} addr add {address} dev eth0"));
        }
        sh("ip -n red neigh add 10.0.0.3 lladdr 02:00:00:00:00:03 dev eth0");
        let listener = blue.run(|| UdpSocket::bind("10.0.0.3:0").unwrap()).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { red, listener }
    }

    /// Sends from red with this source address in the frames.
    fn send(&self, mac: &str, text: &str) {
        sh(&format!("ip -n red link set eth0 address {mac}"));
        // Changing the address forgets the neighbour.
        sh("ip -n red neigh replace 10.0.0.3 lladdr 02:00:00:00:00:03 dev eth0");
        let socket = self.red.run(|| UdpSocket::bind("10.0.0.2:0").unwrap()).unwrap();
        socket.send_to(text.as_bytes(), self.listener.local_addr().unwrap()).unwrap();
    }

    /// Returns the next text that arrives, if one does soon.
    fn receive(&self) -> Option<String> {
        let mut buffer = [0; 64];
        let len = self.listener.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    /// Sends until it arrives.
    fn send_until_it_arrives(&self, mac: &str, text: &str) {
        let limit = Instant::now() + Duration::from_secs(5);
        loop {
            self.send(mac, text);
            match self.receive() {
                Some(got) if got == text => return,
                other => assert!(Instant::now() < limit, "{text} does not arrive, {other:?} did"),
            }
        }
    }
}

fn check(mac: Option<&str>) -> Fragment {
    Fragment::SpoofCheck(SpoofCheck {
        host_ifname: "port-red".parse().unwrap(),
        mac: mac.map(|mac| mac.parse::<Mac>().unwrap()),
        endpoint: endpoint("n1", "red", "eth0"),
        claims: claims(),
    })
}

#[test]
fn forged_frames_are_dropped_and_honest_ones_pass() {
    let lab = Lab::new();
    lab.send_until_it_arrives(HONEST, "before");
    lab.send_until_it_arrives(FORGED, "forged before");

    assert_eq!(ensure(&check(Some(HONEST))).unwrap(), Change::Made);
    assert_eq!(ensure(&check(Some(HONEST))).unwrap(), Change::AlreadyThere);
    assert_eq!(observe(&check(Some(HONEST))).unwrap(), Vec::<String>::new());

    lab.send_until_it_arrives(HONEST, "honest");
    while lab.receive().is_some() {}
    for i in 0..5 {
        lab.send(FORGED, &format!("forged {i}"));
    }
    // Frames keep their order: whatever of the forged ones had passed would come first.
    lab.send(HONEST, "after");
    assert_eq!(lab.receive().as_deref(), Some("after"));
    assert_eq!(lab.receive(), None);

    // DEL knows the port's name and no more.
    remove(&check(None)).unwrap();
    remove(&check(None)).unwrap();
    assert!(!observe(&check(Some(HONEST))).unwrap().is_empty());
    lab.send_until_it_arrives(FORGED, "forged after");
}

#[test]
fn a_port_that_returns_with_another_address_is_checked_for_that_one() {
    let lab = Lab::new();
    for pause in 0..8u64 {
        let (mac, other) = if pause % 2 == 0 { (HONEST, FORGED) } else { (FORGED, HONEST) };
        ensure(&check(Some(mac))).unwrap();
        assert_eq!(observe(&check(Some(mac))).unwrap(), Vec::<String>::new());
        lab.send_until_it_arrives(mac, "allowed");
        lab.send(other, "not allowed");
        lab.send(mac, "end");
        assert_eq!(lab.receive().as_deref(), Some("end"));
        // Half of the time DEL is missed altogether, and otherwise ADD follows closer and closer.
        if pause % 4 < 2 {
            remove(&check(None)).unwrap();
            thread::sleep(Duration::from_millis(8 - pause));
        }
    }
    thread::sleep(Duration::from_millis(20));
    assert_eq!(observe(&check(Some(FORGED))).unwrap(), Vec::<String>::new(), "it stays");
}

#[test]
fn a_record_of_a_guard_that_is_there_is_a_change() {
    isolate().unwrap();
    assert_eq!(ensure(&check(Some(HONEST))).unwrap(), Change::Made);
    std::fs::remove_file(claims().join("spoof/port-red")).unwrap();
    assert_eq!(ensure(&check(Some(HONEST))).unwrap(), Change::Made);
    assert_eq!(ensure(&check(Some(HONEST))).unwrap(), Change::AlreadyThere);
}

#[test]
fn what_no_attachment_of_a_network_has_is_collected() {
    isolate().unwrap();
    let ports =
        [("port-red", "n1", "red", 2), ("port-gone", "n1", "gone", 3), ("port-other", "n2", "gone", 4)];
    let [red, gone, other] = ports.map(|(port, network, container, last)| {
        let check = SpoofCheck {
            host_ifname: port.parse().unwrap(),
            mac: Some(Mac([2, 0, 0, 0, 0, last])),
            endpoint: endpoint(network, container, "eth0"),
            claims: claims(),
        };
        ensure(&Fragment::SpoofCheck(check.clone())).unwrap();
        Fragment::SpoofCheck(check)
    });
    let survivors = Survivors { attachments: vec![("red", "eth0")], addresses: Vec::new() };
    let network = "n1".parse().unwrap();

    collect(&mut Firewall::new(), &claims(), &network, &survivors, &[], || None).unwrap();

    assert!(!is_on_record(&gone) && !observe(&gone).unwrap().is_empty());
    for kept in [&red, &other] {
        assert!(is_on_record(kept));
        assert_eq!(observe(kept).unwrap(), Vec::<String>::new());
    }
    reload(&Root::new(None)).unwrap();
    // An element that was told to expire is listed until the kernel has collected it.
    until("the kernel's collection", || !ruleset().contains("port-gone"));
}

#[test]
fn the_table_reads_as_documented() {
    isolate().unwrap();
    ensure(&check(Some(HONEST))).unwrap();
    is_documented("table bridge weft");
}

#[test]
fn many_ports_at_once_make_every_rule_once() {
    isolate().unwrap();
    thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                let mut firewall = Firewall::new();
                for i in 0..20u8 {
                    let fragment = Fragment::SpoofCheck(SpoofCheck {
                        host_ifname: format!("veth{worker}-{i}").parse().unwrap(),
                        mac: Some(Mac([2, 0, 0, 0, worker, i])),
                        endpoint: endpoint("n1", "red", "eth0"),
                        claims: claims(),
                    });
                    firewall.ensure(&fragment).unwrap();
                    assert_eq!(firewall.observe(&fragment).unwrap(), Vec::<String>::new());
                }
            });
        }
    });
    let table = Table::new(Family::Bridge, "weft");
    let mut socket = Socket::open().unwrap();
    assert_eq!(socket.rules(table, "prerouting").unwrap().len(), 1);
    assert_eq!(socket.rules(table, "spoof_check").unwrap().len(), 2);
}

#[test]
fn what_upstream_left_is_removed() {
    if !has("nft") {
        return;
    }
    isolate().unwrap();
    let chains = |ifname: &str| {
        let name = format!("cni-br-iface-red-{ifname}");
        let comment = format!(r#"comment \"macspoofchk-red-{ifname}\""#);
        [
            format!("add chain bridge nat {name}"),
            format!("add chain bridge nat {name}-mac"),
            format!(r#"add rule bridge nat PREROUTING iifname "veth1" jump {name} {comment}"#),
            format!("add rule bridge nat {name} jump {name}-mac {comment}"),
            format!("add rule bridge nat {name}-mac ether saddr {HONEST} return {comment}"),
            format!("add rule bridge nat {name}-mac drop {comment}"),
        ]
        .map(|line| line.replace('\\', ""))
        .join("\n")
    };
    let base = "add table bridge nat\n\
        add chain bridge nat PREROUTING { type filter hook prerouting priority -300; policy accept; }\n";
    load(&format!("{base}{}", chains("eth1")));
    let before = ruleset();
    load(&chains("eth0"));
    assert_ne!(ruleset(), before);

    remove(&check(None)).unwrap();

    assert_eq!(ruleset(), before, "eth1's check stays");
    remove(&check(None)).unwrap();
}

/// Loads a ruleset in `nft`'s language.
fn load(text: &str) {
    #[expect(clippy::disallowed_methods, reason = "a scratch file")]
    std::fs::write("/run/ruleset", text).unwrap();
    sh("nft -f /run/ruleset");
}

#[test]
fn without_an_address_there_is_nothing_to_check_for() {
    isolate().unwrap();
    let error = ensure(&check(None)).unwrap_err();
    assert!(matches!(error, FirewallError::NoMac(_)));
    remove(&check(None)).unwrap();
}

#[test]
fn whatever_a_flush_took_comes_back_with_one_transaction() {
    isolate().unwrap();
    let root = Root::new(None);
    let ports = [("port-red", "red", 2), ("port-blue", "blue", 3), ("port-gone", "gone", 4)];
    let all = ports.map(|(port, container, last)| SpoofCheck {
        host_ifname: port.parse().unwrap(),
        mac: Some(Mac([2, 0, 0, 0, 0, last])),
        endpoint: endpoint("n1", container, "eth0"),
        claims: claims(),
    });
    let missing = |one: &SpoofCheck| observe(&Fragment::SpoofCheck(one.clone())).unwrap();
    let generation = || Socket::open().unwrap().generation().unwrap();
    for one in &all {
        ensure(&Fragment::SpoofCheck(one.clone())).unwrap();
        assert!(is_on_record(&Fragment::SpoofCheck(one.clone())));
    }
    remove(&Fragment::SpoofCheck(all[2].clone())).unwrap();
    assert_eq!(diagnose(&root).unwrap(), []);
    let flushes = [
        "flush ruleset",
        "flush chain bridge weft prerouting",
        "flush chain bridge weft spoof_check",
        "flush set bridge weft spoof_guarded",
        "flush set bridge weft spoof_allowed",
    ];
    for flush in flushes {
        if !has("nft") {
            return;
        }
        sh(&format!("nft {flush}"));
        let told = diagnose(&root).unwrap();
        assert_eq!(told.iter().map(|one| &*one.what).collect::<Vec<_>>().len(), 2, "{flush}: {told:?}");
        let before = generation();
        reload(&root).unwrap();
        assert_eq!(generation(), before + 1, "{flush}");
        assert!(all[..2].iter().all(|one| missing(one).is_empty()), "{flush}: {}", ruleset());
        assert!(!ruleset().contains("port-gone"), "{flush}");
        reload(&root).unwrap();
        assert_eq!(generation(), before + 1, "{flush}: nothing is missing");
        assert_eq!(diagnose(&root).unwrap(), []);
    }
    for one in &all {
        remove(&Fragment::SpoofCheck(one.clone())).unwrap();
    }
    assert!(!claims().join("spoof").exists());
}

#[test]
fn a_record_or_a_table_that_cannot_be_read_keeps_nothing_else_from_being_restored() {
    if !has("nft") {
        return;
    }
    isolate().unwrap();
    let guard = check(Some(HONEST));
    ensure(&guard).unwrap();
    // Of another's table under our name nothing is wanted.
    load("add table inet weft { comment \"another's\"; }\n");
    sh("nft delete table bridge weft");
    let refused = reload(&Root::new(None)).unwrap_err();
    assert!(refused.iter().any(|error| matches!(error, FirewallError::NotOurs { .. })), "{refused:?}");
    assert_eq!(observe(&guard).unwrap(), Vec::<String>::new());

    sh("nft flush ruleset");
    std::fs::File::create(claims().join("nftables")).unwrap();
    let refused = reload(&Root::new(None)).unwrap_err();
    assert!(matches!(&*refused, [FirewallError::Claim { .. }]), "{refused:?}");
    assert_eq!(observe(&guard).unwrap(), Vec::<String>::new());
}

#[test]
fn a_guard_without_its_allowance_is_replaced() {
    if !has("nft") {
        return;
    }
    isolate().unwrap();
    for mac in [HONEST, FORGED, HONEST] {
        ensure(&check(Some(mac))).unwrap();
        assert_eq!(observe(&check(Some(mac))).unwrap(), Vec::<String>::new());
        sh("nft flush set bridge weft spoof_allowed");
    }
}
