//! Isolation: what passes between interfaces of the host and what does not.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use weft_firewall::{Backend, Change, Firewall, Fragment, Isolation, ensure, observe, remove};
use weft_netns::{Netns, isolate};
use weft_nft::{Family, Socket, Table};

use crate::lab::{
    BLUE, Lab, RED, SERVER, UPLINK, attachment, claims, cover, endpoint, has, network, ruleset, run,
    seen_source, sh,
};

const TABLE: Table = Table::new(Family::Inet, "weft");
/// The host's address on each container's wire.
const GATEWAY: [&str; 2] = ["10.1.0.1", "fd00:1::1"];

fn isolation(backend: Backend, network: &str, bridge: &str, internal: bool) -> Fragment {
    Fragment::Isolation(Isolation {
        network: network.parse().unwrap(),
        bridge: bridge.parse().unwrap(),
        links: Vec::new(),
        internal,
        backend,
        claims: claims(),
    })
}

fn isolated(network: &str, bridge: &str) -> Fragment {
    isolation(Backend::Weft, network, bridge, false)
}

/// Fails unless datagrams arrive, in both families.
fn passes(from: (&Netns, [&str; 2]), to: (&Netns, [&str; 2])) {
    for family in [0, 1] {
        seen_source((from.0, from.1[family]), (to.0, to.1[family]), |_| {});
    }
}

/// Fails if a datagram arrives, in either family. The host's own, sent later, do.
fn is_dropped(host: &Netns, from: (&Netns, [&str; 2]), to: (&Netns, [&str; 2])) {
    let bind = |netns: &Netns, address: &str| {
        let address: IpAddr = address.parse().unwrap();
        netns.run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap()
    };
    for family in [0, 1] {
        let listener = bind(to.0, to.1[family]);
        listener.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let target: SocketAddr = listener.local_addr().unwrap();
        for _ in 0..3 {
            bind(from.0, from.1[family]).send_to(b"stray", target).ok();
        }
        let limit = Instant::now() + Duration::from_secs(5);
        loop {
            bind(host, ["0.0.0.0", "::"][family]).send_to(b"host's", target).ok();
            let mut text = [0; 6];
            match listener.recv(&mut text) {
                Ok(_) if text == *b"host's" => break,
                Ok(_) => panic!("{} reaches {target}", from.1[family]),
                Err(_) => assert!(Instant::now() < limit, "the host does not reach {target}"),
            }
        }
    }
}

fn gone(fragment: &Fragment) {
    remove(fragment).unwrap();
    remove(fragment).unwrap();
    // An expired element stops to match with the kernel's next tick.
    thread::sleep(Duration::from_millis(20));
}

fn isolates(backend: Backend) {
    let lab = Lab::new();
    let (red, blue, server) = ((&lab.red, RED), (&lab.blue, BLUE), (&lab.server, SERVER));
    let fragments = [("n1", "wire-red"), ("n2", "wire-blue")]
        .map(|(network, wire)| isolation(backend, network, wire, false));
    passes(red, blue);
    for fragment in &fragments {
        assert!(!observe(fragment).unwrap().is_empty());
        assert_eq!(ensure(fragment).unwrap(), Change::Made);
        assert_eq!(ensure(fragment).unwrap(), Change::AlreadyThere);
    }
    for fragment in &fragments {
        assert_eq!(observe(fragment).unwrap(), Vec::<String>::new());
    }
    is_dropped(&lab.host, red, blue);
    is_dropped(&lab.host, blue, red);
    for wire in [red, blue] {
        passes(wire, server);
        passes(server, wire);
    }

    gone(&fragments[0]);
    passes(red, blue);
    passes(blue, red);
    gone(&fragments[1]);
    assert!(!ruleset().to_lowercase().contains("weft"), "{}", ruleset());
}

fn keeps_inside(backend: Backend) {
    let lab = Lab::new();
    let (red, blue, server) = ((&lab.red, RED), (&lab.blue, BLUE), (&lab.server, SERVER));
    let inside = isolation(backend, "n1", "wire-red", true);
    passes(red, server);
    ensure(&inside).unwrap();
    ensure(&isolation(backend, "n2", "wire-blue", false)).unwrap();
    assert_eq!(observe(&inside).unwrap(), Vec::<String>::new());
    for other in [blue, server] {
        is_dropped(&lab.host, red, other);
        is_dropped(&lab.host, other, red);
    }
    passes((&lab.host, GATEWAY), red);
    passes(red, (&lab.host, GATEWAY));
    passes(red, (&lab.host, UPLINK));
    passes(blue, server);

    gone(&inside);
    passes(red, server);
    passes(server, red);
}

#[test]
fn isolated_networks_do_not_reach_each_other() {
    isolates(Backend::Weft);
}

#[test]
fn an_internal_network_reaches_nothing() {
    keeps_inside(Backend::Weft);
}

#[test]
fn iptables_isolates() {
    if has("iptables-restore") && has("ip6tables-restore") {
        isolates(Backend::Iptables);
    }
}

#[test]
fn iptables_keeps_inside() {
    if has("iptables-restore") && has("ip6tables-restore") {
        keeps_inside(Backend::Iptables);
    }
}

#[test]
fn iptables_legacy_isolates() {
    if !has("xtables-legacy-multi") || !has("xtables-nft-multi") {
        return;
    }
    isolate().unwrap();
    cover("/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi");
    for program in ["iptables", "ip6tables"] {
        if !run(&format!("{program} -t filter -S")).status.success() {
            weft_testkit::skipped(format_args!("kernel support for {program}-legacy filter"));
            return;
        }
    }
    isolates(Backend::Iptables);
}

#[test]
fn the_chains_of_iptables_leave_others_alone() {
    if !has("iptables-restore") || !has("ip6tables-restore") {
        return;
    }
    isolate().unwrap();
    for program in ["iptables", "ip6tables"] {
        sh(&format!("{program} -A FORWARD -i theirs0 -j DROP"));
    }
    let listing = || ["iptables -S", "ip6tables -S"].map(sh).concat();
    let before = listing();
    let [one, two] = ["br1", "br2"].map(|bridge| isolation(Backend::Iptables, bridge, bridge, false));
    ensure(&one).unwrap();
    ensure(&two).unwrap();
    assert!(listing().contains("-A WEFT-ISOLATION -i br1 ! -o br1 -j WEFT-ISOLATION-2"), "{}", listing());

    sh("iptables -D FORWARD -j WEFT-FORWARD");
    assert_eq!(observe(&one).unwrap(), ["iptables rule from FORWARD to chain WEFT-FORWARD"]);
    assert_eq!(ensure(&one).unwrap(), Change::Made);
    assert_eq!(observe(&one).unwrap(), Vec::<String>::new());

    remove(&one).unwrap();
    assert_eq!(observe(&two).unwrap(), Vec::<String>::new(), "the other stays");
    remove(&two).unwrap();
    assert_eq!(listing(), before);
}

#[test]
fn the_second_time_nothing_changes() {
    isolate().unwrap();
    assert_eq!(ensure(&isolated("n1", "br1")).unwrap(), Change::Made);
    let generation = Socket::open().unwrap().generation().unwrap();
    assert_eq!(ensure(&isolated("n1", "br1")).unwrap(), Change::AlreadyThere);
    assert_eq!(ensure(&isolated("n2", "br1")).unwrap(), Change::Made, "a claim to take back");
    assert_eq!(ensure(&isolated("n2", "br1")).unwrap(), Change::AlreadyThere);
    assert_eq!(Socket::open().unwrap().generation().unwrap(), generation, "not one transaction");

    remove(&isolated("n1", "br1")).unwrap();
    assert_eq!(observe(&isolated("n2", "br1")).unwrap(), Vec::<String>::new(), "n2 claims it, too");
}

#[test]
fn the_table_goes_with_the_last_claim_of_any_kind() {
    isolate().unwrap();
    let masquerade = attachment(Backend::Weft, &endpoint("n1", "c1", "eth0"), &["10.1.0.0/16"]);
    let mut socket = Socket::open().unwrap();
    for last in ["isolation", "masquerade"] {
        ensure(&masquerade).unwrap();
        ensure(&isolated("n1", "br1")).unwrap();
        for fragment in [&masquerade, &isolated("n1", "br1")] {
            assert_eq!(observe(fragment).unwrap(), Vec::<String>::new());
        }
        let mut order = [isolated("n1", "br1"), network("n1")];
        if last == "isolation" {
            order.reverse();
        }
        remove(&order[0]).unwrap();
        assert!(socket.table(TABLE).unwrap().is_some(), "{last} needs it");
        remove(&order[1]).unwrap();
        assert!(socket.table(TABLE).unwrap().is_none());
    }
}

#[test]
fn many_processes_at_once_make_every_rule_once() {
    isolate().unwrap();
    thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                for i in 0..16 {
                    let name = format!("n{worker}-{i}");
                    let subnet = format!("10.{worker}.{i}.0/24");
                    ensure(&isolation(Backend::Weft, &name, &name, i % 2 == 0)).unwrap();
                    ensure(&attachment(Backend::Weft, &endpoint(&name, "c1", "eth0"), &[&subnet])).unwrap();
                }
            });
        }
    });
    let mut socket = Socket::open().unwrap();
    let counts = ["forward", "internal", "from_isolated", "only_inside", "postrouting"]
        .map(|chain| socket.rules(TABLE, chain).unwrap().len());
    assert_eq!(counts, [8, 2, 2, 2, 2]);
    assert_eq!(observe(&isolated("n7-15", "n7-15")).unwrap(), Vec::<String>::new());
}

#[test]
fn a_network_that_comes_and_goes_never_takes_anothers_isolation() {
    isolate().unwrap();
    let stays = isolated("stays", "br1");
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for _ in 0..300 {
                ensure(&isolated("churns", "br1")).unwrap();
                remove(&isolated("churns", "br1")).unwrap();
            }
        });
        while !churn.is_finished() {
            ensure(&stays).unwrap();
            thread::yield_now();
            remove(&stays).unwrap();
        }
        ensure(&stays).unwrap();
    });
    // An element that is about to expire would be gone by now.
    thread::sleep(Duration::from_millis(20));
    assert_eq!(observe(&stays).unwrap(), Vec::<String>::new());
}

#[test]
fn what_a_flush_took_is_missed_and_comes_back() {
    if !has("nft") {
        return;
    }
    isolate().unwrap();
    let fragment = isolated("n1", "br1");
    ensure(&fragment).unwrap();
    ensure(&attachment(Backend::Weft, &endpoint("n2", "c1", "eth0"), &["10.2.0.0/16"])).unwrap();

    sh("nft flush chain inet weft from_isolated");
    assert_eq!(observe(&fragment).unwrap(), ["rules of chain inet weft from_isolated"]);
    Firewall::new().rebuild(&claims()).unwrap();
    assert_eq!(observe(&fragment).unwrap(), Vec::<String>::new());

    sh("nft flush ruleset");
    assert_eq!(observe(&fragment).unwrap(), ["table inet weft"]);
    assert_eq!(ensure(&fragment).unwrap(), Change::Made);
    assert_eq!(observe(&fragment).unwrap(), Vec::<String>::new());
}
