//! What becomes of hosts when their store is away, cut off, emptied, set back or swept behind their backs. Containers must not
//! notice.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_testkit::{Cluster, Container, Host, Output, Program, reaches};

use crate::overlay_agent::{addresses, connected, lost_nothing, pair, pinging};

/// The records of the cluster that no lease takes, one a line.
fn records(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let all = cluster.etcd.records();
    let lines: Vec<&str> = all.lines().collect();
    let pairs =
        lines.chunks(2).map(|pair| (pair[0].to_owned(), pair.get(1).copied().unwrap_or_default().to_owned()));
    pairs.filter(|(key, _)| !key.starts_with("/weft/v1/alive/")).collect()
}

/// Runs programs all at once.
fn together(programs: impl IntoIterator<Item = Program>) -> Vec<Output> {
    std::thread::scope(|scope| {
        let running: Vec<_> =
            programs.into_iter().map(|program| scope.spawn(move || program.run())).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn routes(host: &Host) -> BTreeSet<String> {
    let families = ["-4", "-6"].map(|family| host.sh(&format!("ip {family} route show proto 201")).stdout);
    families.iter().flat_map(|said| said.lines()).map(|line| line.trim().to_owned()).collect()
}

fn id_of(cluster: &Cluster, on: u8, name: &str) -> String {
    let peers = cluster.host(on).weft(["overlay", "peers", "--format", "json"]).expect_json();
    let peer =
        peers.as_array().unwrap().iter().find(|peer| peer["name"] == name && peer["state"] != "superseded");
    peer.unwrap_or_else(|| panic!("no {name}: {peers}"))["id"].as_str().unwrap().to_owned()
}

/// A1: an empty store, and three hosts come at once.
#[test]
fn hosts_that_join_at_once_are_one_cluster() {
    let mut cluster = Cluster::unjoined(3);
    for number in [1, 2, 3] {
        cluster.start(number);
    }
    let secret = cluster.underlay.lab().path("secret");
    cluster
        .underlay
        .lab()
        .write("secret", "c2l4dHkgZm91ciBieXRlcyBhcmUgbW9yZSB0aGFuIGVub3VnaCBmb3IgYSBzZWNyZXQuLi4uLi4u\n");
    cluster.underlay.lab().sh(&format!("chmod 0600 {}", secret.display())).expect_ok();
    let joins = [1, 2, 3].map(|number| {
        let own = cluster.authority.certificate(&format!("h{number}"), &[]);
        let program = cluster.host(number).weft_program(["overlay", "join", "--etcd", &cluster.etcd.url()]);
        let (ca, name) = (cluster.authority.file(), format!("h{number}"));
        let files = [("--ca", &ca), ("--cert", &own.file), ("--key", &own.key), ("--secret", &secret)];
        let program = files
            .iter()
            .fold(program, |program, (flag, file)| program.args([flag.as_ref(), file.as_os_str()]));
        program.args(["--name", &name])
    });
    for join in together(joins) {
        join.expect_ok();
    }
    let of_cluster: BTreeSet<String> = [1, 2, 3]
        .iter()
        .map(|number| cluster.status(*number)["cluster"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(of_cluster.len(), 1, "{of_cluster:?}");
    cluster.network(2, &["blue"]);
    let all = [1, 2, 3].map(|number| connected(&cluster, number, "c"));
    for from in &all {
        for to in &all {
            reaches(from, addresses(to));
        }
    }
}

/// A4 and B4: containers come, all at once, and go without the store, until the host's block is used up; then ADD says that it may be
/// tried later, and later it works.
#[test]
fn containers_come_and_go_without_the_store() {
    let (mut cluster, red, green) = pair();
    cluster.etcd.stop();
    let host = cluster.host(1);
    let many: Vec<_> = (0..24).map(|number| host.container(&format!("c{number}"))).collect();
    let add = |container: &Container| host.weft_program(["network", "connect", "blue", container.name()]);
    for added in together(many.iter().map(add)) {
        added.expect_ok();
    }
    let different: BTreeSet<String> = many.iter().flat_map(addresses).collect();
    assert_eq!(different.len(), 48, "{different:?}");
    reaches(&green, addresses(&many[23]));
    host.weft(["network", "disconnect", "blue", many[0].name()]).expect_ok();
    // Leases of containers that are not there fill the block up.
    let block = host.weft(["overlay", "status", "--format", "json"]).expect_json();
    let block = block["networks"][0]["blocks"].as_array().unwrap().iter();
    let block =
        block.filter_map(|block| block.as_str()).find(|block| block.contains('.')).unwrap().to_owned();
    let first: std::net::Ipv4Addr = block.split('/').next().unwrap().parse().unwrap();
    for nth in 2..63 {
        let lease =
            format!("var/lib/cni/networks/blue/{}", std::net::Ipv4Addr::from_bits(first.to_bits() + nth));
        if !host.path(&lease).exists() {
            host.write(&lease, "somebody\r\neth0");
        }
    }
    let late = host.container("late");
    let refused = host.weft(["network", "connect", "blue", late.name()]);
    refused.expect_failure(1, &["no IP addresses available", "another block when the store answers"]);
    assert!(!late.has_link("eth0"));
    // What a runtime is told: 11, try again later, and of STATUS 50.
    let list: Value = serde_json::from_str(&host.read("etc/weft/networks.d/blue.conflist")).unwrap();
    let mut conf = list["plugins"][0].clone();
    conf["cniVersion"] = "1.1.0".into();
    conf["name"] = "blue".into();
    host.plugin("overlay").conf(conf.to_string()).add(&late).expect_error(11);
    host.plugin("overlay").conf(conf.to_string()).status().expect_error(50);
    reaches(&red, addresses(&green));
    cluster.etcd.go_on();
    let host = cluster.host(1);
    cluster.eventually("there is another block", || {
        host.weft(["network", "connect", "blue", late.name()]).code == 0
    });
    cluster.eventually("its peers know", || addresses(&late).iter().all(|address| green.ping(address)));
}

/// B5: a host is cut off from the store, and from nothing else.
#[test]
fn a_host_that_is_cut_off_from_the_store_alone_keeps_its_traffic() {
    let (cluster, red, green) = pair();
    let before = records(&cluster);
    let ping = pinging(&red, &addresses(&green)[0]);
    let cut = cluster.host(2);
    cut.sh("nft add table inet t; nft 'add chain inet t o { type filter hook output priority 0; }'")
        .expect_ok();
    cut.sh("nft add rule inet t o tcp dport 2379 drop").expect_ok();
    cluster.eventually("h2 knows it", || cluster.status(2)["state"] == "degraded");
    // As if its lease had run out meanwhile.
    cluster.etcd.ctl(["del", &format!("/weft/v1/alive/{}", id_of(&cluster, 1, "h2"))]).expect_ok();
    cluster.eventually("h2 is suspect", || cluster.status(1)["suspect"] == 1);
    let late = connected(&cluster, 2, "late");
    reaches(&red, addresses(&late));
    assert_eq!(records(&cluster), before, "nothing is reassigned");
    cut.sh("nft delete table inet t").expect_ok();
    cluster.eventually("h2 is heard of", || {
        cluster.status(1)["suspect"] == 0 && cluster.status(2)["state"] == "ready"
    });
    lost_nothing(ping);
}

/// How often a host has listed the whole store since some of what it had not heard was compacted away.
fn listed_after_compaction(cluster: &Cluster, number: u8) -> u64 {
    let page = cluster.host(number).weft(["overlay", "status", "--metrics"]);
    let lines = page.expect_ok().lines().filter(|line| line.starts_with("weft_overlay_resync_total{"));
    let counts = lines.filter(|line| line.contains("compacted")).filter_map(|line| line.rsplit(' ').next());
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

/// B6: an agent sleeps while the store changes more than it remembers, and a peer's attributes with it.
#[test]
fn an_agent_that_slept_through_a_compaction_knows_what_changed() {
    let (cluster, red, green) = pair();
    let key = format!("/weft/v1/host/{}", id_of(&cluster, 1, "h2"));
    let forwarding = || cluster.host(1).sh("bridge fdb show | grep 'dst 192.0.2.'").stdout;
    assert!(routes(cluster.host(1)).iter().all(|route| !route.contains("mtu lock 1300")));
    assert!(forwarding().contains("dst 192.0.2.2 "), "{}", forwarding());
    assert_eq!(listed_after_compaction(&cluster, 1), 0);
    cluster.signal(1, Signal::SIGSTOP);
    // More than sockets hold, so that the server has to put the watch off.
    let noise = "x".repeat(60_000);
    for number in 0..150 {
        cluster.etcd.ctl(["put", &format!("/weft/v1/noise/{number}"), &noise]).expect_ok();
    }
    cluster.etcd.ctl(["del", "--prefix", "/weft/v1/noise/"]).expect_ok();
    // Meanwhile h2 moves, to a link that takes less.
    let moving = cluster.host(2);
    moving.set_mtu(cluster.underlay.lab(), 1350);
    moving.ip("address del 192.0.2.2/24 dev u0");
    moving.ip("address add 192.0.2.22/24 dev u0");
    moving.ip("route add default via 192.0.2.254");
    cluster.eventually("h2 says so", || {
        let record = cluster.etcd.ctl(["get", "--print-value-only", &key]).expect_ok().to_owned();
        record.contains("\"192.0.2.22\"") && record.contains("\"mtu\":1350")
    });
    let revision = cluster.etcd.revision().to_string();
    cluster.etcd.ctl(["compact", &revision]).expect_ok();
    cluster.signal(1, Signal::SIGCONT);
    cluster.eventually("h1 knows", || {
        let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
        peers[0]["mtu"] == 1350
    });
    assert!(listed_after_compaction(&cluster, 1) >= 1, "it was never behind");
    cluster.eventually("the kernel knows", || {
        let forwarding = forwarding();
        routes(cluster.host(1)).iter().any(|route| route.contains("mtu lock 1300"))
            && forwarding.contains("dst 192.0.2.22 ")
            && !forwarding.contains("dst 192.0.2.2 ")
    });
    cluster.eventually("the noise is forgotten", || cluster.status(1)["bad"].as_array().unwrap().is_empty());
    reaches(&red, addresses(&green));
}

/// What an agent has said since it was started. It is told to end.
fn said(cluster: &mut Cluster, number: u8) -> String {
    cluster.end(number).stderr
}

/// B7: the store is emptied. The hosts keep everything, say so, and make it what it was.
#[test]
fn an_emptied_store_is_filled_again() {
    let (mut cluster, red, green) = pair();
    cluster.eventually("all is said", || records(&cluster).len() >= 12);
    let (before, routes_before) = (records(&cluster), [1, 2].map(|number| routes(cluster.host(number))));
    let monitor = cluster.host(1).program("ip").args(["monitor", "link", "route", "neigh"]).background();
    let ping = pinging(&red, &addresses(&green)[0]);
    cluster.etcd.wipe();
    cluster.etcd.go_on();
    cluster.eventually("the store is what it was", || records(&cluster) == before);
    cluster.eventually("both are content", || {
        [1, 2].iter().all(|number| cluster.status(*number)["state"] == "ready")
    });
    lost_nothing(ping);
    assert_eq!([1, 2].map(|number| routes(cluster.host(number))), routes_before);
    let heard = monitor.end().stdout;
    let gone = |line: &&str| line.contains("Deleted") && line.contains("proto 201");
    assert_eq!(heard.lines().filter(gone).collect::<Vec<_>>(), Vec::<&str>::new());
    // The positive twin: a host that says that it goes is gone.
    cluster.host(2).weft(["network", "disconnect", "blue", green.name()]).expect_ok();
    cluster.host(2).weft(["overlay", "leave", "-f"]).expect_ok();
    cluster.eventually("h1 has no way to h2", || routes(cluster.host(1)).len() < routes_before[0].len());
    // It was no matter of course: both have raised the alarm.
    for number in [1, 2] {
        let said = said(&mut cluster, number);
        assert!(said.contains("what is known from before is kept"), "{said}");
    }
}

/// As B7, by a hand that deletes every key while everybody listens.
#[test]
fn keys_that_are_all_deleted_at_once_come_back() {
    let (mut cluster, red, green) = pair();
    let before = records(&cluster);
    let ping = pinging(&red, &addresses(&green)[0]);
    cluster.etcd.ctl(["del", "--prefix", "/weft/v1/"]).expect_ok();
    cluster.eventually("the store is what it was", || records(&cluster) == before);
    lost_nothing(ping);
    reaches(&green, addresses(&red));
    for number in [1, 2] {
        let said = said(&mut cluster, number);
        assert!(
            said.contains("weftd: the store has been emptied: what is known from before is kept"),
            "{said}"
        );
    }
}

/// B8: the store is restored from a backup that knows less.
#[test]
fn a_store_that_is_set_back_hears_what_it_forgot() {
    let (mut cluster, red, green) = pair();
    cluster.etcd.back_up("backup");
    cluster.network(1, &["later"]);
    let host = cluster.host(2);
    let late = host.container("late");
    host.weft(["network", "connect", "later", late.name()]).expect_ok();
    let first = cluster.host(1).container("first");
    cluster.host(1).weft(["network", "connect", "later", first.name()]).expect_ok();
    cluster
        .eventually("they reach each other", || addresses(&late).iter().all(|address| first.ping(address)));
    let before = records(&cluster);
    let pings = [pinging(&red, &addresses(&green)[0]), pinging(&first, &addresses(&late)[0])];
    cluster.etcd.restore("backup");
    cluster.etcd.go_on();
    cluster.eventually("the store knows again", || records(&cluster) == before);
    pings.into_iter().for_each(lost_nothing);
    assert!(cluster.host(1).weft(["network", "ls"]).expect_ok().contains("later"));
    // A revision of etcd is never set back, so it has said that it was.
    for number in [1, 2] {
        let said = said(&mut cluster, number);
        assert!(said.contains("weftd: the store went back from revision"), "{said}");
    }
}

/// Two hosts make a network at the same moment: of one name there is one, of one subnet too, and who comes late is told.
#[test]
fn networks_that_two_hosts_make_at_once_are_apart() {
    let cluster = Cluster::new(2);
    let at_once = |words: [&[&str]; 2]| {
        let create = |(number, words): (u8, &[&str])| {
            let all = ["network", "create", "-d", "overlay"].iter().chain(words).copied();
            cluster.host(number).weft_program(all)
        };
        let mut said = together([1, 2].into_iter().zip(words).map(create));
        said.sort_by_key(|output| output.code);
        said
    };
    let [made, late] = &at_once([&["blue"], &["blue"]])[..] else { panic!() };
    made.expect_ok();
    late.expect_failure(4, &["network blue exists already"]);
    let subnet = ["--subnet", "10.201.0.0/16"];
    let [made, late] = &at_once([&[&subnet[..], &["red"]].concat(), &[&subnet[..], &["green"]].concat()])[..]
    else {
        panic!()
    };
    made.expect_ok();
    late.expect_failure(4, &["subnet 10.201.0.0/16 overlaps 10.201.0.0/16 of network", "leave --subnet out"]);
    let keys = |prefix: &str| {
        let all = records(&cluster).into_iter().filter(|(key, _)| key.starts_with(prefix));
        all.count()
    };
    assert_eq!((keys("/weft/v1/net/"), keys("/weft/v1/vni/")), (2, 2));
    // What was asked for in vain can be had another way.
    let other = at_once([&["yellow"], &["violet"]]);
    for output in other {
        output.expect_ok();
    }
}

/// Under the name of the store another cluster's answers. Nothing of it is taken over and nothing said to it, until the own one is back.
#[test]
fn another_clusters_store_is_left_alone() {
    let (mut cluster, red, green) = pair();
    let (before, routes_before) = (records(&cluster), [1, 2].map(|number| routes(cluster.host(number))));
    let own = cluster.status(1)["cluster"].as_str().unwrap().to_owned();
    let record =
        cluster.etcd.ctl(["get", "--print-value-only", "/weft/v1/cluster"]).expect_ok().trim().to_owned();
    let (there, ping) = ("ab".repeat(16), pinging(&red, &addresses(&green)[0]));
    [1, 2].iter().for_each(|number| cluster.signal(*number, Signal::SIGSTOP));
    cluster.etcd.wipe();
    cluster.etcd.go_on();
    assert!(record.contains(&own), "{record}");
    cluster.etcd.ctl(["put", "/weft/v1/cluster", &record.replace(&own, &there)]).expect_ok();
    let foreign = records(&cluster);
    [1, 2].iter().for_each(|number| cluster.signal(*number, Signal::SIGCONT));
    let parts = [format!("cluster {there}"), format!("of {own}"), "weft overlay leave -f".into()];
    for number in [1, 2] {
        cluster.eventually("it is told", || {
            let status = cluster.status(number);
            let why = status["why"].as_str().unwrap_or_default();
            status["state"] == "degraded" && parts.iter().all(|part| why.contains(part))
        });
    }
    let host = cluster.host(1);
    host.weft(["network", "create", "-d", "overlay", "later"]).expect_failure(1, &[&there]);
    assert_eq!(records(&cluster), foreign, "nothing is said to it");
    assert_eq!([1, 2].map(|number| routes(cluster.host(number))), routes_before);
    lost_nothing(ping);
    reaches(&green, addresses(&red));
    // The positive twin: a store without that record is ours to fill.
    cluster.etcd.ctl(["del", "/weft/v1/cluster"]).expect_ok();
    cluster.eventually("the store is what it was", || records(&cluster) == before);
    cluster.eventually("both are content", || {
        [1, 2].iter().all(|number| cluster.status(*number)["state"] == "ready")
    });
    reaches(&green, addresses(&red));
}

/// C2 and C3: a machine takes another one's place under its address, which it may only once that one is silent.
#[test]
fn a_host_is_replaced_under_its_address() {
    let (mut cluster, red, green) = pair();
    let (old, way) = (id_of(&cluster, 1, "h2"), addresses(&green)[0].clone());
    cluster.host(2).weft(["network", "disconnect", "blue", green.name()]).expect_ok();
    cluster.kill(2);
    // Another disk: the machine knows nothing of who was there.
    let host = cluster.host(2);
    let (disk, other) = (host.path("var/lib/weft"), host.path("old-disk"));
    let (disk, other) = (disk.display().to_string(), other.display().to_string());
    host.sh(&format!("cp -a {disk} {other}")).expect_ok();
    for folder in ["var/lib/weft", "run/weft", "etc/weft", "var/lib/cni"] {
        // What is in them: a folder may be a mount.
        let folder = host.path(folder).display().to_string();
        host.sh(&format!("find {folder} -mindepth 1 -delete")).expect_ok();
    }
    for kind in ["vxlan", "bridge"] {
        let names = host.sh(&format!("ip -o link show type {kind} | cut -d: -f2")).stdout;
        names.split_whitespace().for_each(|name| drop(host.sh(&format!("ip link del {name}"))));
    }
    host.sh("nft flush ruleset; ip route flush proto 201; ip -6 route flush proto 201").expect_ok();
    cluster.start(2);
    let refused = cluster.join(2);
    assert_ne!(refused.code, 0);
    for part in ["192.0.2.2", "h2", &old, "is alive"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    cluster.etcd.ctl(["del", &format!("/weft/v1/alive/{old}")]).expect_ok();
    let refused = cluster.join(2);
    assert!(refused.code != 0 && refused.stderr.contains("--takeover"), "{}", refused.stderr);
    cluster.join_with(2, &["--takeover"]).expect_ok();
    let new = cluster.status(2)["host"]["id"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    cluster.eventually("blue is there", || cluster.host(2).weft(["network", "exists", "blue"]).code == 0);
    let fresh = connected(&cluster, 2, "fresh");
    assert_ne!(addresses(&fresh)[0], way, "what the old one gave out is in quarantine");
    cluster.eventually("h1 knows the new one", || addresses(&fresh).iter().all(|address| red.ping(address)));
    let of_old =
        records(&cluster).into_iter().find(|(key, _)| key.ends_with(&format!("host/{old}"))).unwrap();
    assert!(of_old.1.contains(&format!("\"superseded_by\":\"{new}\"")), "{}", of_old.1);
    // The old one comes back after all: it is told so, and has no part in anything any more.
    assert_eq!(cluster.status(2)["state"], "ready");
    let before = records(&cluster);
    cluster.kill(2);
    let host = cluster.host(2);
    host.sh(&format!("find {disk} -mindepth 1 -delete && cp -a {other}/. {disk}")).expect_ok();
    cluster.start(2);
    let told = format!("this host was replaced by {new}, which took over its underlay address");
    cluster.eventually("it is told", || {
        let status = cluster.status(2);
        status["state"] == "degraded" && status["why"].as_str().unwrap_or_default().starts_with(&told)
    });
    cluster
        .host(2)
        .weft(["network", "create", "-d", "overlay", "late"])
        .expect_failure(1, &[&told, "hint: weft overlay leave -f"]);
    assert_eq!(records(&cluster), before);
}
