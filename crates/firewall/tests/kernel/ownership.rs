//! Who owns a published port when processes die, come late or at once.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_firewall::{Change, Firewall, Publish, diagnose, ensure, holders, observe, reload, remove};
use weft_model::port::Protocol::Tcp;
use weft_netns::isolate;
use weft_nft::{Family, Socket, Table, Transaction};
use weft_state::Root;
use weft_state::ports::{Binding, Books, Choice, Owner};

use crate::calls::{call, is_silent, reach, serve};
use crate::lab::{Lab, SERVER, UPLINK, claims, elements_expire, endpoint, has, ruleset, sh};
use crate::publishing::{fragment, hairpin, publish, publish_on};

const TABLE: Table = Table::new(Family::Inet, "weft");
const NOTHING: [String; 0] = [];

pub(crate) fn root() -> Root {
    Root::new(None)
}

/// Claims what a fragment says, and dies before the kernel hears of it.
fn killed_before_the_rule(wanted: &Publish) {
    let mut change = Books::new(&root()).change(&wanted.endpoint).unwrap();
    let owner = Owner {
        publications: wanted.publications.clone(),
        subnets: wanted.subnets.clone(),
        snat: wanted.snat,
        ..Owner::new(wanted.endpoint.clone(), "weft").unwrap()
    };
    change.claim(owner, &[], &mut |_, _, _| true).unwrap();
}

/// Publishes, and dies before that is confirmed.
fn killed_after_the_rule(wanted: &Publish) {
    ensure(&fragment(wanted.clone())).unwrap();
    let file = |ending: &str| format!("/run/weft/ports/owners/{},eth0{ending}", wanted.endpoint.container);
    fs::rename(file(".json"), file(".intent")).unwrap();
}

fn gone_for_good() {
    remove(&hairpin("n1")).unwrap();
    assert_eq!(ruleset(), "");
    let left = |dir: &str| fs::read_dir(format!("/run/weft/ports/{dir}")).map_or(0, Iterator::count);
    assert_eq!((left("owners"), left("claims")), (0, 0));
}

#[test]
fn the_next_one_takes_over_what_a_killed_one_left() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let _blue = serve(&lab.blue, Tcp, &[81]);
    let dead = publish("red", &["tcp 127.0.0.1:8080 -> 10.1.0.2:80", "tcp 192.0.2.1:8081 -> 10.1.0.2:80"]);
    let next =
        fragment(publish("blue", &["tcp 0.0.0.0:8080 -> 10.1.0.3:81", "tcp 192.0.2.1:8081 -> 10.1.0.3:81"]));
    for kill in [killed_before_the_rule, killed_after_the_rule] {
        kill(&dead);
        assert!(diagnose(&root()).unwrap().iter().any(|one| one.what == "eth0 of red on n1"));
        assert_eq!(holders(&root(), &"n1".parse().unwrap()), std::slice::from_ref(&dead.endpoint));

        assert_eq!(ensure(&next).unwrap(), Change::Made);

        for port in [8080, 8081] {
            assert_eq!(call(&lab.server, Tcp, UPLINK[0], port), Some(format!("{} at 81", SERVER[0])));
        }
        let error = ensure(&fragment(dead.clone())).unwrap_err();
        assert_eq!(error.to_string(), "port 8080/tcp of 0.0.0.0 is published by blue on n1");
        assert_eq!(error.hint().unwrap(), "see who publishes what: weft port ls");
        // The dead one's own DEL comes now.
        remove(&fragment(dead.clone())).unwrap();
        assert_eq!(observe(&next).unwrap(), NOTHING);
        for port in [8080, 8081] {
            assert_eq!(call(&lab.server, Tcp, UPLINK[0], port), Some(format!("{} at 81", SERVER[0])));
        }
        remove(&next).unwrap();
        is_silent(&lab.server, Tcp, UPLINK[0], 8080);
        gone_for_good();
    }
}

#[test]
fn the_same_one_starts_over() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80, 81]);
    let first = publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]);
    let second = publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:81", "tcp 0.0.0.0:8081 -> 10.1.0.2:80"]);
    let third = publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:81"]);
    for kill in [killed_before_the_rule, killed_after_the_rule] {
        ensure(&fragment(first.clone())).unwrap();
        let confirmed = fs::read("/run/weft/ports/owners/red,eth0.json").unwrap();
        kill(&second);
        #[expect(clippy::disallowed_methods, reason = "what another process had confirmed before")]
        fs::write("/run/weft/ports/owners/red,eth0.json", confirmed).unwrap();

        ensure(&fragment(third.clone())).unwrap();

        assert_eq!(observe(&fragment(third.clone())).unwrap(), NOTHING);
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 81", SERVER[0]));
        is_silent(&lab.server, Tcp, UPLINK[0], 8081);
        assert_eq!(diagnose(&root()).unwrap(), []);
        remove(&fragment(third.clone())).unwrap();
        is_silent(&lab.server, Tcp, UPLINK[0], 8080);
        gone_for_good();
    }
}

#[test]
fn what_was_chosen_comes_back_with_the_rest() {
    let _lab = Lab::new();
    let binding = Binding { host: [0, 0, 0, 0].into(), target: [10, 1, 0, 2].into() };
    let choice = |target_port| Choice {
        protocol: Tcp,
        among: Some("8000-8009".parse().unwrap()),
        bindings: vec![binding],
        target_port,
        from: Vec::new(),
    };
    let books = Books::new(&root());
    let first = Publish { choices: vec![choice(80)], ..publish("red", &["tcp 0.0.0.0:9090 -> 10.1.0.2:90"]) };
    let mut firewall = Firewall::new();
    assert_eq!(firewall.present(&fragment(first.clone())), None);
    firewall.ensure(&fragment(first.clone())).unwrap();
    let owner = books.owners();
    // Another choice would be given the same port.
    let second = fragment(Publish { choices: vec![choice(81)], ..publish("red", &[]) });
    let before = firewall.present(&second).unwrap();
    firewall.ensure(&second).unwrap();
    assert_ne!(books.owners(), owner);

    assert_eq!(firewall.ensure(&before).unwrap(), Change::Made);

    assert_eq!(books.owners(), owner);
    assert_eq!(
        firewall.ensure(&fragment(first.clone())).unwrap(),
        Change::AlreadyThere,
        "it is still its own"
    );
    remove(&fragment(first)).unwrap();
    gone_for_good();
}

#[test]
fn a_damaged_file_keeps_nobody_from_giving_the_ports_back() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let _blue = serve(&lab.blue, Tcp, &[81]);
    let stays = fragment(publish("blue", &["tcp 0.0.0.0:9090 -> 10.1.0.3:81"]));
    ensure(&stays).unwrap();
    let before = ruleset();
    let listed = "tcp 192.0.2.1:8081 -> 10.1.0.2:80 from 192.0.2.0/24";
    let ports = ["tcp 0.0.0.0:8080 -> 10.1.0.2:80", listed, "udp [::]:9000-9009 -> [fd00:1::2]:80-89"];
    let red = Publish { masquerade_all: true, ..publish("red", &ports) };
    let elsewhere = Publish { endpoint: endpoint("n2", "red", "eth0"), ..red.clone() };
    let again = fragment(publish("red", &["tcp 0.0.0.0:8082 -> 10.1.0.2:80"]));
    let del = || remove(&fragment(red.clone())).unwrap();
    let add = || {
        ensure(&again).unwrap();
        assert_eq!(observe(&again).unwrap(), NOTHING);
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8082), format!("{} at 80", SERVER[0]));
        remove(&again).unwrap();
    };
    for (ending, mend) in [
        (".json", &del as &dyn Fn()),
        (".json", &|| reload(&root()).unwrap()),
        (".json", &add),
        (".intent", &del),
        (".gone", &|| reload(&root()).unwrap()),
    ] {
        ensure(&fragment(red.clone())).unwrap();
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), "10.1.0.1 at 80");
        let file = |ending: &str| format!("/run/weft/ports/owners/red,eth0{ending}");
        fs::rename(file(".json"), file(ending)).unwrap();
        fs::OpenOptions::new().write(true).open(file(ending)).unwrap().set_len(40).unwrap();
        let problems = diagnose(&root()).unwrap();
        assert!(problems.iter().any(|one| one.what == "eth0 of red on n1"), "{problems:?}");
        assert!(holders(&root(), &"n1".parse().unwrap()).contains(&red.endpoint));
        // The DEL of another network's attachment of that name is late.
        remove(&fragment(elsewhere.clone())).unwrap();
        assert!(fs::exists(file(ending)).unwrap());

        mend();

        is_silent(&lab.server, Tcp, UPLINK[0], 8080);
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 9090), format!("{} at 81", SERVER[0]));
        assert_eq!(diagnose(&root()).unwrap(), []);
        assert_eq!(Books::new(&root()).owners().len(), 1);
        assert_eq!(fs::read_dir("/run/weft/ports/claims").unwrap().count(), 1, "{ending}: only tcp");
        assert!(!ruleset().contains("8081"), "{ending}: {}", ruleset());
    }
    reload(&root()).unwrap();
    assert_eq!(ruleset(), before);
    remove(&stays).unwrap();
    gone_for_good();
}

#[test]
fn a_container_on_two_networks_publishes_at_the_first() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let _blue = serve(&lab.blue, Tcp, &[80]);
    let ports = ["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp 0.0.0.0:9000-9009 -> 10.1.0.2:80-89"];
    let first = fragment(publish("red", &ports));
    let theirs = ports.map(|one| one.replace("10.1.0.2", "10.1.0.3"));
    let on = |endpoint, ports: &[&str]| fragment(publish_on(&endpoint, ports));
    let second = on(endpoint("n2", "red", "eth1"), &[&theirs[0], &theirs[1]]);
    ensure(&first).unwrap();

    assert_eq!(ensure(&second).unwrap(), Change::Made);
    assert_eq!(ensure(&second).unwrap(), Change::AlreadyThere);

    let answer = format!("{} at 80", SERVER[0]);
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), answer);
    assert_eq!((observe(&first).unwrap(), observe(&second).unwrap()), (vec![], vec![]));
    assert!(!ruleset().contains("10.1.0.3"), "{}", ruleset());
    reload(&root()).unwrap();
    assert_eq!(diagnose(&root()).unwrap(), []);
    // Not what leads elsewhere, not for part of a range, and not to another container.
    for (who, ports) in [
        (endpoint("n2", "red", "eth2"), "tcp 0.0.0.0:8080 -> 10.1.0.3:81"),
        (endpoint("n2", "red", "eth2"), "tcp 0.0.0.0:9000-9004 -> 10.1.0.3:80-84"),
        (endpoint("n2", "blue", "eth1"), &theirs[0]),
    ] {
        let error = ensure(&on(who, &[ports])).unwrap_err().to_string();
        assert!(error.ends_with(" is published by red on n1"), "{error}");
    }

    remove(&first).unwrap();

    // The ports are the second one's now.
    assert_eq!(observe(&second).unwrap(), NOTHING);
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), answer);
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 9000), answer);
    assert_eq!(ensure(&second).unwrap(), Change::AlreadyThere);
    ensure(&first).unwrap();
    remove(&first).unwrap();
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), answer, "who waits takes nothing along");
    remove(&second).unwrap();
    is_silent(&lab.server, Tcp, UPLINK[0], 8080);
    remove(&hairpin("n2")).unwrap();
    gone_for_good();
}

#[test]
fn what_several_ports_share_is_taken_over_once() {
    isolate().unwrap();
    let of = |container: &str| Publish {
        masquerade_all: true,
        ..publish(container, &["tcp 0.0.0.0:53 -> 10.1.0.2:53", "udp 0.0.0.0:53 -> 10.1.0.2:53"])
    };
    killed_after_the_rule(&of("red"));
    ensure(&fragment(of("blue"))).unwrap();
    assert_eq!(observe(&fragment(of("blue"))).unwrap(), NOTHING);
    killed_after_the_rule(&of("blue"));
    let plain = fragment(Publish { masquerade_all: false, ..of("blue") });
    ensure(&plain).unwrap();
    assert_eq!(observe(&plain).unwrap(), NOTHING);
    if has("nft") {
        assert!(!sh("nft list set inet weft masq_all4").contains("10.1.0.2"), "whoever is gone hides nobody");
    }
}

#[test]
fn reload_clears_away_what_was_begun() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let stays = fragment(publish("blue", &["tcp 0.0.0.0:9090 -> 10.1.0.2:80"]));
    ensure(&stays).unwrap();
    for kill in [killed_before_the_rule, killed_after_the_rule] {
        kill(&publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]));
        reload(&root()).unwrap();
        is_silent(&lab.server, Tcp, UPLINK[0], 8080);
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 9090), format!("{} at 80", SERVER[0]));
        assert_eq!(diagnose(&root()).unwrap(), []);
    }
    remove(&stays).unwrap();
    gone_for_good();
}

#[test]
fn every_flush_is_noticed_and_mended() {
    if !has("nft") {
        return;
    }
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80, 81]);
    let listed = "tcp 0.0.0.0:8081 -> 10.1.0.2:81 from 192.0.2.0/24";
    let ports = fragment(publish(
        "red",
        &["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp [::]:9000-9099 -> [fd00:1::2]:80-179", listed],
    ));
    ensure(&ports).unwrap();
    assert_eq!(diagnose(&root()).unwrap(), []);
    let works = || {
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 80", SERVER[0]));
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8081), format!("{} at 81", SERVER[0]));
        assert_eq!(reach(&lab.server, Tcp, UPLINK[1], 9001), format!("{} at 81", SERVER[1]));
        assert_eq!(call(&lab.blue, Tcp, UPLINK[0], 8081), None);
    };
    works();
    for flush in [
        "nft flush ruleset",
        "nft flush chain inet weft published",
        "nft flush chain inet weft published_ranges6",
        "nft flush chain inet weft restricted",
        "nft flush chain inet weft local_only",
        "nft flush chain inet weft hairpin",
        "nft flush map inet weft publish4",
        "nft flush set inet weft from4_24",
        "nft flush set inet weft restricted4",
        "nft flush set inet weft hairpin4_24",
        "nft flush map inet weft publish_ranges6",
    ] {
        sh(flush);
        let problems = diagnose(&root()).unwrap();
        assert!(!problems.is_empty(), "{flush}");
        assert!(problems.iter().all(|problem| problem.mend == "weft network reload"), "{problems:?}");
        reload(&root()).unwrap();
        assert_eq!(diagnose(&root()).unwrap(), [], "{flush}");
        works();
    }
    // An ADD repairs its own after a flush of everything.
    sh("nft flush ruleset");
    ensure(&ports).unwrap();
    assert_eq!(observe(&ports).unwrap(), NOTHING);
    works();
}

#[test]
fn connections_stay_open_over_a_reload() {
    let lab = Lab::new();
    let listener = lab.red.run(|| std::net::TcpListener::bind("10.1.0.2:80").unwrap()).unwrap();
    ensure(&fragment(publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]))).unwrap();
    let caller = lab.server.run(|| std::net::TcpStream::connect("192.0.2.1:8080").unwrap()).unwrap();
    let mut call = weft_testkit::Conversation::between(caller, listener.accept().unwrap().0);
    for _ in 0..3 {
        if has("nft") {
            sh("nft flush ruleset");
        }
        reload(&root()).unwrap();
        call.goes_on();
    }
}

#[test]
fn the_older_layout_is_replaced_with_everything() {
    isolate().unwrap();
    ensure(&fragment(publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]))).unwrap();
    let mut socket = Socket::open().unwrap();
    let mut older = Transaction::new();
    older.delete_table(TABLE).table(TABLE, Some("weft layout 1")).chain(&TABLE.chain("same_subnet"));
    socket.commit(&older).unwrap();
    assert_eq!(diagnose(&root()).unwrap().len(), 1);

    ensure(&fragment(publish("blue", &["udp [::]:53 -> [fd00:1::3]:53"]))).unwrap();

    assert_eq!(socket.table(TABLE).unwrap().flatten().as_deref(), Some("weft layout 7"));
    assert_eq!(diagnose(&root()).unwrap(), []);
}

#[test]
fn a_second_del_of_the_former_owner_is_late() {
    isolate().unwrap();
    let new = publish_on(&endpoint("n2", "red", "eth0"), &["tcp 0.0.0.0:8080 -> 10.1.0.2:80"]);
    ensure(&fragment(new.clone())).unwrap();
    remove(&fragment(publish("red", &[]))).unwrap();
    assert_eq!(observe(&fragment(new)).unwrap(), NOTHING);
}

#[test]
fn two_containers_exchange_a_port_while_it_is_called() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let _blue = serve(&lab.blue, Tcp, &[80]);
    let mut takers = ["red", "blue"].map(|name| {
        let address = if name == "red" { 2 } else { 3 };
        fragment(publish(name, &[&format!("tcp 0.0.0.0:8080 -> 10.1.0.{address}:80")]))
    });
    ensure(&takers[0]).unwrap();
    reach(&lab.server, Tcp, UPLINK[0], 8080);
    let (server, done) = (&lab.server, AtomicBool::new(false));
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) {
                if let Some(answer) = call(server, Tcp, UPLINK[0], 8080) {
                    assert_eq!(answer, format!("{} at 80", SERVER[0]));
                    answers += 1;
                }
            }
            answers
        });
        for _ in 0..40 {
            // The new one is refused until the old one has let go, and has it at once then.
            assert!(ensure(&takers[1]).is_err());
            remove(&takers[0]).unwrap();
            ensure(&takers[1]).unwrap();
            remove(&takers[0]).unwrap();
            takers.swap(0, 1);
        }
        done.store(true, Ordering::Relaxed);
        assert!(caller.join().unwrap() > 0);
    });
    thread::sleep(Duration::from_millis(50));
    assert_eq!(observe(&takers[0]).unwrap(), NOTHING, "the last one has it");
    assert!(!observe(&takers[1]).unwrap().is_empty());
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 80", SERVER[0]));
}

#[test]
fn many_processes_at_once_lose_nothing_and_make_every_rule_once() {
    isolate().unwrap();
    let texts = |worker: u16, i: u16| {
        let port = 10_000 + worker * 100 + i;
        [
            format!("tcp 0.0.0.0:{port} -> 10.1.{worker}.{i}:80"),
            format!("udp [::]:{port} -> [fd00:1::{worker}:{i}]:53"),
            format!("tcp 127.0.0.1:{}-{} -> 10.1.{worker}.{i}:7000-7009", 20_000 + port, 20_009 + port),
        ]
    };
    let of = |worker: u16, i: u16| {
        let list = texts(worker, i * 10);
        fragment(publish(&format!("c{worker}-{i}"), &list.each_ref().map(String::as_str)))
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|worker| {
                scope.spawn(move || {
                    for i in 0..8 {
                        ensure(&of(worker, i)).unwrap();
                        if i % 2 == 1 {
                            remove(&of(worker, i)).unwrap();
                        }
                    }
                })
            })
            .collect();
        // All the while somebody writes everything anew.
        let rebuilder = scope.spawn(|| {
            let limit = Instant::now() + Duration::from_secs(60);
            while !done.load(Ordering::Relaxed) && Instant::now() < limit {
                Firewall::new().rebuild(&claims()).ok();
                thread::yield_now();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        rebuilder.join().unwrap();
    });
    thread::sleep(Duration::from_millis(50));
    assert_eq!(diagnose(&root()).unwrap(), []);
    for worker in 0..6 {
        for i in 0..8 {
            assert_eq!(observe(&of(worker, i)).unwrap().is_empty(), i % 2 == 0, "{worker} {i}");
        }
    }
    let mut socket = Socket::open().unwrap();
    let counts = ["postrouting", "published", "published_ranges4", "local_only"]
        .map(|chain| socket.rules(TABLE, chain).unwrap().len());
    assert_eq!(counts, [2, 6, 6, 3]);
    if has("nft") {
        let elements = |map: &str| sh(&format!("nft list map inet weft {map}")).matches(" : ").count() - 1;
        assert_eq!([elements("publish4"), elements("publish6"), elements("publish_ranges4")], [24; 3]);
    }
    for worker in 0..6 {
        for i in 0..8 {
            remove(&of(worker, i)).unwrap();
        }
    }
    gone_for_good();
    assert!(!Path::new("/run/weft/ports/owners").exists());
}

#[test]
fn what_a_port_costs_does_not_grow() {
    isolate().unwrap();
    let one =
        |name: &str, port: u16| fragment(publish(name, &[&format!("tcp 0.0.0.0:{port} -> 10.1.0.2:80")]));
    let cost = |name: &str, port: u16| {
        let mut firewall = Firewall::new();
        firewall.ensure(&one(name, port)).unwrap();
        let added = firewall.messages();
        firewall.remove(&one(name, port)).unwrap();
        [added, firewall.messages() - added]
    };
    ensure(&one("first", 1)).unwrap();
    let alone = cost("c0", 8080);
    let many: Vec<_> = (0..5000_u16).map(|i| format!("tcp 0.0.0.0:{} -> 10.1.0.2:80", 20_000 + i)).collect();
    ensure(&fragment(publish("many", &many.iter().map(String::as_str).collect::<Vec<_>>()))).unwrap();
    assert_eq!(cost("c0", 8080), alone);
    // A batch around one port and the network's two subnets; then one around the port, and a look whether it was
    // heeded. Older kernels do not: another look, and a batch that deletes.
    assert_eq!(alone, [5, if elements_expire() { 4 } else { 8 }]);
    let range = fragment(publish("c1", &["tcp 0.0.0.0:30000-39999 -> 10.1.0.2:1-10000"]));
    ensure(&range).unwrap();
    let mut firewall = Firewall::new();
    firewall.remove(&range).unwrap();
    assert_eq!(firewall.messages(), alone[1], "a range is as one port");
}
