//! A host of a cluster boots again, and one that cannot have a network is told so and has all the others.

use weft_testkit::{Cluster, reaches};

use crate::overlay_agent::{addresses, connected, pair};

/// C1: what a reboot takes comes back from the disk, before the store has said anything.
#[test]
fn a_host_that_boots_again_takes_up_where_it_was() {
    let (mut cluster, red, green) = pair();
    let host = cluster.host(1);
    let before = cluster.status(1);
    let mac = |cluster: &Cluster| {
        let name =
            cluster.host(1).sh("ip -o link show type vxlan | cut -d: -f2").expect_ok().trim().to_owned();
        cluster.host(1).link(&name)["address"].clone()
    };
    let address = mac(&cluster);
    cluster.eventually("the disk has a copy", || {
        host.read("var/lib/weft/overlay/state.json").contains(before["networks"][0]["id"].as_str().unwrap())
    });
    cluster.end(1);
    cluster.etcd.stop();
    let host = cluster.host(1);
    red.vanish();
    for kind in ["vxlan", "bridge"] {
        let names = host.sh(&format!("ip -o link show type {kind} | cut -d: -f2")).expect_ok().to_owned();
        names.split_whitespace().for_each(|name| drop(host.ip(&format!("link del {name}"))));
    }
    host.sh(
        "nft flush ruleset; ip route flush proto 201; ip -6 route flush proto 201; rm -r $WEFT_ROOT/run/*",
    )
    .expect_ok();
    cluster.start(1);
    let after = cluster.status(1);
    assert_eq!(after["state"], "stale");
    assert_eq!(mac(&cluster), address);
    assert_eq!(after["networks"][0]["blocks"], before["networks"][0]["blocks"]);
    let again = connected(&cluster, 1, "again");
    reaches(&again, addresses(&green));
    reaches(&green, addresses(&again));
    cluster.etcd.go_on();
    cluster.eventually("the store is heard of", || cluster.status(1)["state"] == "ready");
    assert_eq!(cluster.status(1)["host"]["id"], before["host"]["id"]);
    reaches(&green, addresses(&again));
}

/// F4, at join: the network's subnet leads elsewhere on this host.
#[test]
fn a_network_that_a_host_cannot_have_is_refused_there_alone() {
    let mut cluster = Cluster::unjoined(2);
    cluster.start(1);
    cluster.join(1).expect_ok();
    cluster.network(1, &["--subnet", "10.200.0.0/16", "blue"]);
    cluster.network(1, &["--subnet", "10.201.0.0/16", "red"]);
    cluster.host(2).ip("route add 10.200.7.0/24 via 192.0.2.1");
    cluster.start(2);
    cluster.join(2).expect_ok();
    let refused = |cluster: &Cluster| {
        let networks = cluster.status(2)["networks"].as_array().unwrap().clone();
        networks.iter().filter_map(|one| one["refused"].as_str()).map(str::to_owned).collect::<Vec<_>>()
    };
    cluster.eventually("blue is refused", || {
        let why = refused(&cluster);
        matches!(&why[..], [why] if why.contains("10.200.7.0/24") && why.contains("u0"))
    });
    cluster.eventually("red is there", || cluster.host(2).weft(["network", "exists", "red"]).code == 0);
    cluster.host(2).weft(["network", "exists", "blue"]).expect_failure(3, &[]);
    let status = cluster.status(2);
    assert_eq!(status["state"], "degraded");
    assert!(
        status["why"].as_str().unwrap().contains("network blue is not to be had on this host"),
        "{status}"
    );
    let told = cluster.host(2).weft(["overlay", "status"]);
    assert!(
        told.expect_ok().contains("subnet 10.200.0.0/16 overlaps 10.200.7.0/24 of this host"),
        "{}",
        told.stdout
    );
    // It is the host's matter, and over when the route is.
    assert_eq!(cluster.status(1)["networks"][0]["refused"], serde_json::Value::Null);
    cluster.host(2).ip("route del 10.200.7.0/24");
    cluster.host(2).weft(["overlay", "apply"]).expect_ok();
    cluster.eventually("blue is there", || cluster.host(2).weft(["network", "exists", "blue"]).code == 0);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    cluster.eventually("they reach each other", || addresses(&green).iter().all(|address| red.ping(address)));
}
