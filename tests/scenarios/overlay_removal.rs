//! Networks and hosts are removed under the eyes of the others, and leave nothing.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, reaches};

use crate::overlay_agent::{addresses, connected, pair};

fn network_id(cluster: &Cluster) -> String {
    cluster.status(1)["networks"][0]["id"].as_str().unwrap().to_owned()
}

/// Returns how many keys of the store begin so.
fn count(cluster: &Cluster, prefix: &str) -> usize {
    let records = cluster.etcd.records();
    records.lines().filter(|line| line.starts_with(&format!("/weft/v1/{prefix}"))).count()
}

/// Two hosts with a network and no container.
fn empty() -> Cluster {
    let cluster = Cluster::new(2);
    cluster.network(1, &["blue"]);
    cluster.eventually("both take part", || count(&cluster, "member/") == 2);
    cluster
}

/// A container that came before its host had told anybody: its host does not let go of the network.
#[test]
fn a_network_is_not_removed_under_a_container_that_others_have_not_heard_of() {
    let cluster = empty();
    cluster.signal(2, Signal::SIGSTOP);
    let green = connected(&cluster, 2, "green");
    assert!(!cluster.etcd.records().contains("\"used\":"), "nobody has heard of it");
    let remove = cluster.host(1).weft_program(["network", "rm", "blue"]);
    let refused = std::thread::scope(|scope| {
        let removing = scope.spawn(move || remove.run());
        cluster.eventually("it is announced", || count(&cluster, "removal/") == 1);
        cluster.signal(2, Signal::SIGCONT);
        removing.join().unwrap()
    });
    refused.expect_failure(4, &["network blue is in use: 1 addresses on host h2", "weft ps, on h2"]);
    // Everything is as it was: h1 had let go, and takes part again.
    cluster.eventually("it is called off", || count(&cluster, "removal/") == 0);
    cluster.eventually("h1 takes part again", || {
        count(&cluster, "member/") == 2 && cluster.host(1).weft(["network", "exists", "blue"]).code == 0
    });
    let red = cluster.host(1).container("red");
    cluster.eventually("containers connect", || {
        cluster.host(1).weft(["network", "connect", "blue", red.name()]).code == 0
    });
    cluster.eventually("they reach each other", || addresses(&green).iter().all(|address| red.ping(address)));
    for (number, container) in [(1, &red), (2, &green)] {
        cluster.host(number).weft(["network", "disconnect", "blue", container.name()]).expect_ok();
    }
    cluster.eventually("blue goes", || cluster.host(2).weft(["network", "rm", "blue"]).code == 0);
    for number in [1, 2] {
        let host = cluster.host(number);
        cluster.eventually("it is gone", || host.weft(["network", "exists", "blue"]).code == 3);
        cluster.eventually("its devices are gone", || !host.sh("ip -o link").stdout.contains(": ov"));
    }
    assert_eq!(
        ["net/", "vni/", "block/", "member/", "removal/"].map(|prefix| count(&cluster, prefix)),
        [0; 5]
    );
}

/// Whoever removes a network dies half-way: the announcement runs out with its lease, and hosts that let go take part again.
#[test]
fn a_removal_that_nobody_finishes_is_called_off() {
    let mut cluster = empty();
    cluster.signal(2, Signal::SIGSTOP);
    let remove = cluster.host(1).weft_program(["network", "rm", "blue"]);
    let failed = std::thread::scope(|scope| {
        let removing = scope.spawn(move || remove.run());
        cluster.eventually("h1 has let go", || count(&cluster, "member/") == 1);
        cluster.signal(1, Signal::SIGKILL);
        removing.join().unwrap()
    });
    assert_ne!(failed.code, 0, "{}", failed.stdout);
    cluster.kill(1);
    cluster.signal(2, Signal::SIGCONT);
    cluster.eventually("h2 lets go", || count(&cluster, "member/") == 0);
    let host = cluster.host(2);
    cluster.eventually("no container gets in", || host.weft(["network", "exists", "blue"]).code == 3);
    // As if its lease had run out.
    cluster.etcd.ctl(["del", &format!("/weft/v1/removal/{}", network_id_of(&cluster))]).expect_ok();
    cluster.start(1);
    for number in [1, 2] {
        let host = cluster.host(number);
        cluster.eventually("blue is there", || host.weft(["network", "exists", "blue"]).code == 0);
    }
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    cluster.eventually("they reach each other", || addresses(&green).iter().all(|address| red.ping(address)));
}

fn network_id_of(cluster: &Cluster) -> String {
    let records = cluster.etcd.records();
    let key = records.lines().find_map(|line| line.strip_prefix("/weft/v1/removal/"));
    key.unwrap_or_else(|| panic!("nothing is being removed: {records}")).to_owned()
}

/// What a killed `rm`, `leave` or `forget` has not got to is seen to by another host.
#[test]
fn what_killed_removals_left_is_collected() {
    let (mut cluster, red, green) = pair();
    let blue = network_id(&cluster);
    cluster.network(1, &["red"]);
    cluster.eventually("both take part in both", || count(&cluster, "member/") == 4);
    let networks = cluster.status(1)["networks"].clone();
    let gone = networks.as_array().unwrap().iter().find(|one| one["name"] == "red").unwrap();
    let (gone, vni) = (gone["id"].as_str().unwrap().to_owned(), gone["vni"].as_u64().unwrap());
    let vnis = count(&cluster, "vni/");
    cluster.etcd.delete_together(&["/weft/v1/net/red", &format!("/weft/v1/vni/{vni}")]);
    let left = |network: &str| ["block/", "member/"].map(|kind| count(&cluster, &format!("{kind}{network}")));
    cluster.eventually("nothing is left of red", || left(&gone) == [0, 0] && count(&cluster, "vni/") < vnis);
    assert_eq!(left(&blue), [4, 2], "what is there is left alone");
    reaches(&red, addresses(&green));

    // A host that was put out by half: only its own record is gone.
    let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
    let id = peers[0]["id"].as_str().unwrap().to_owned();
    cluster.kill(2);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let word = |at: u128, host: &str| {
        format!("{{\"schema\":1,\"host\":\"{host}\",\"at\":{at},\"reason\":\"forgotten\"}}")
    };
    cluster.etcd.ctl(["put", &format!("/weft/v1/left/{id}"), &word(now, &id)]).expect_ok();
    for key in ["host", "alive"] {
        cluster.etcd.ctl(["del", &format!("/weft/v1/{key}/{id}")]).expect_ok();
    }
    let states = || -> BTreeSet<String> {
        let shown = cluster.host(1).weft(["network", "inspect", "blue"]).expect_json();
        let all = shown[0]["Blocks"].as_array().unwrap().clone();
        let of = all.iter().filter(|block| block["HostID"] == id.as_str());
        of.map(|block| block["State"].as_str().unwrap().to_owned()).collect()
    };
    cluster
        .eventually("its blocks are in quarantine", || states() == BTreeSet::from(["quarantine".to_owned()]));
    cluster.eventually("it takes part in nothing", || count(&cluster, "member/") == 1);
    // That a host has left is known for a month.
    let old = "ab".repeat(16);
    cluster.etcd.ctl(["put", &format!("/weft/v1/left/{old}"), &word(1, &old)]).expect_ok();
    cluster.eventually("the old word is gone", || count(&cluster, &format!("left/{old}")) == 0);
    assert_eq!(count(&cluster, "left/"), 1, "{}", cluster.etcd.records());
}
