//! A host's place on the underlay changes while it runs: others find it where it is.

use weft_testkit::{Cluster, Container, Host, reaches};

use crate::overlay_agent::{addresses, connected, lost_nothing, pinging};

/// Two hosts with a container of a plain and of an encrypted network on each.
fn crossing() -> (Cluster, Vec<(Container, Container)>) {
    let cluster = Cluster::new(2);
    let mut pairs = Vec::new();
    for (name, options) in [("blue", &[][..]), ("dark", &["-o", "encrypted"])] {
        cluster.network(1, &[options, &[name]].concat());
        let [here, there] = [1, 2].map(|number| cluster.host(number).connected(name, name).0);
        reaches(&here, addresses(&there));
        pairs.push((here, there));
    }
    (cluster, pairs)
}

/// The addresses of h2 as h1 knows them.
fn known(cluster: &Cluster) -> String {
    let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
    peers[0]["underlay"].to_string()
}

/// Everything on h1 leads to the new address of h2, and nothing to an older one.
#[track_caller]
fn follows(cluster: &Cluster, pairs: &[(Container, Container)], now: &str, before: &str) {
    let quoted = |address: &str| format!("\"{address}\"");
    cluster.eventually("h1 hears of it", || {
        let known = known(cluster);
        known.contains(&quoted(now)) && !known.contains(&quoted(before))
    });
    for (here, there) in pairs {
        let way = addresses(there);
        cluster.eventually("they reach each other", || way.iter().all(|address| here.ping(address)));
        cluster.eventually("and back", || addresses(here).iter().all(|address| there.ping(address)));
    }
    let ruleset = cluster.host(1).ruleset();
    let has = |address: &str| ruleset.split([' ', ',', '}', '\n']).any(|word| word == address);
    assert!(has(now) && !has(before), "{ruleset}");
    let claimed = |address: &str| cluster.etcd.records().contains(&format!("/weft/v1/underlay/{address}\n"));
    assert!(claimed(now) && !claimed(before), "{}", cluster.etcd.records());
    cluster.eventually("h2 is content", || cluster.status(2)["state"] == "ready");
}

fn address(host: &Host, last: u8) {
    host.ip(&format!("address add 192.0.2.{last}/24 dev u0"));
    host.ip("route add default via 192.0.2.254");
}

#[test]
fn a_host_that_gets_another_address_is_found_there() {
    let (cluster, pairs) = crossing();
    let host = cluster.host(2);
    // As a DHCP client does whose lease was not renewed: for a moment there is none.
    host.ip("address del 192.0.2.2/24 dev u0");
    host.ip("address del 2001:db8::2/64 dev u0");
    cluster.eventually("h2 says that it is nowhere", || {
        let alarms = cluster.status(2)["alarms"].to_string();
        alarms.contains("--underlay-if") || alarms.contains("no address that other hosts could reach")
    });
    assert!(known(&cluster).contains("\"192.0.2.2\""), "a host that is nowhere keeps its record");
    host.ip("address add 2001:db8::22/64 dev u0 nodad");
    address(host, 22);
    follows(&cluster, &pairs, "192.0.2.22", "192.0.2.2");
    assert!(known(&cluster).contains("2001:db8::22"), "{}", known(&cluster));
}

#[test]
fn a_host_whose_link_is_made_anew_is_found_by_it() {
    let (cluster, pairs) = crossing();
    let (host, lab) = (cluster.host(2), cluster.underlay.lab());
    lab.ip("link delete v-h2");
    lab.ip("link add v-h2 mtu 1400 type veth peer name u0 mtu 1400 netns h2");
    lab.ip("link set v-h2 master ul up");
    host.ip("link set u0 up");
    address(host, 33);
    follows(&cluster, &pairs, "192.0.2.33", "192.0.2.2");
    let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
    assert_eq!(peers[0]["mtu"], 1400, "{peers}");
    // The new link is listened to as the first was.
    host.ip("address del 192.0.2.33/24 dev u0");
    address(host, 44);
    follows(&cluster, &pairs, "192.0.2.44", "192.0.2.33");
}

/// The same address twice, found out while both hosts run: who had it keeps it, and the other is told whose it is.
#[test]
fn an_address_that_another_host_has_is_not_taken_from_it() {
    const TAKEN: &str = "192.0.2.1";
    let cluster = Cluster::new(3);
    cluster.network(1, &["blue"]);
    let [red, green, third] = [1, 2, 3].map(|number| connected(&cluster, number, "c"));
    reaches(&third, addresses(&red));
    reaches(&third, addresses(&green));
    let id = |number| cluster.status(number)["host"]["id"].as_str().unwrap().to_owned();
    let ids = [1, 2].map(id);
    // Which of two answers on the link is nothing that a cluster decides: the others have found h1 already.
    let mac = cluster.host(1).link("u0")["address"].as_str().unwrap().to_owned();
    for host in
        [cluster.host(3), cluster.host(2)].map(|host| &**host).into_iter().chain([cluster.underlay.ctl()])
    {
        host.ip(&format!("neigh replace {TAKEN} lladdr {mac} dev u0 nud permanent"));
    }
    let claim = format!("/weft/v1/underlay/{TAKEN}");
    let claimed = || cluster.etcd.ctl(["get", "--print-value-only", &claim]).expect_ok().to_owned();
    let before = claimed();
    assert!(before.contains(&ids[0]), "{before}");
    let way = || cluster.host(3).sh("bridge fdb show | grep 'dst 192.0.2.'").stdout;
    let ways = way();
    let ping = pinging(&third, &addresses(&red)[0]);
    // The first address of the interface is the one that others are told.
    let host = cluster.host(2);
    host.ip("address del 192.0.2.2/24 dev u0");
    host.ip(&format!("address add {TAKEN}/32 dev u0"));
    address(host, 2);
    let parts = [TAKEN, &ids[0], &ids[1], "which is alive", "give this host an address of its own"];
    cluster.eventually("h2 is told whose it is", || {
        let alarms = cluster.status(2)["alarms"].to_string();
        parts.iter().all(|part| alarms.contains(part))
    });
    assert_eq!(cluster.status(2)["state"], "degraded");
    assert_eq!(claimed(), before);
    assert_eq!(way(), ways);
    assert!(ways.contains("dst 192.0.2.1 ") && ways.contains("dst 192.0.2.2 "), "{ways}");
    assert_eq!([1, 3].map(|number| cluster.status(number)["state"].clone()), ["ready", "ready"]);
    lost_nothing(ping);
    reaches(&third, addresses(&green));
    // It is over when the address is gone.
    host.ip(&format!("address del {TAKEN}/32 dev u0"));
    cluster.eventually("h2 is content", || cluster.status(2)["state"] == "ready");
    reaches(&green, addresses(&red));
    reaches(&green, addresses(&third));
}
