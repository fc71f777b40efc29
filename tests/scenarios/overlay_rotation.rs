//! Keys of a cluster's hosts are replaced, by command and under load.

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_testkit::{Cluster, Host, reaches};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_load::{Connection, Flow};

const HOSTS: [u8; 3] = [1, 2, 3];

/// The routes to the other hosts of the mesh.
fn ways(host: &Host) -> String {
    host.sh("ip -6 route show type unicast proto 202").expect_ok().to_owned()
}

/// Whether a host sends by this device to so many others, and by no other to anybody.
fn all_go_by(host: &Host, device: &str, others: usize) -> bool {
    let ways = ways(host);
    ways.lines().count() == others && ways.lines().all(|line| line.contains(&format!("dev {device} ")))
}

fn tunnels(host: &Host) -> Vec<Value> {
    let peers = host.weft(["overlay", "peers", "--format", "json"]).expect_json();
    peers.as_array().unwrap().iter().flat_map(|peer| peer["tunnels"].as_array().unwrap().clone()).collect()
}

/// The fourth clause's promise, by the product: three hosts, every pair under load, and agents that are killed on the way. The old key
/// goes three minutes after the last handshake with it, and so long this takes.
#[test]
fn keys_of_a_cluster_are_replaced_under_load_whoever_is_killed_meanwhile() {
    let mut cluster = Cluster::new(3);
    cluster.network(1, &["-o", "encrypted", "blue"]);
    let all = HOSTS.map(|number| connected(&cluster, number, "c"));
    let pairs: Vec<(usize, usize)> =
        (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to).collect();
    pairs.iter().for_each(|(from, to)| reaches(&all[*from], addresses(&all[*to])));
    let start = |(from, to): &(usize, usize)| Flow::start(&all[*from], &all[*to], &addresses(&all[*to])[0]);
    let flows: Vec<Flow> = pairs.iter().map(start).collect();
    let open = |from: usize, to: usize| Connection::open(&all[from], &all[to], &addresses(&all[to])[0]);
    let connections = [open(0, 1), open(1, 2), open(2, 0)];
    let on_all = |is_so: &dyn Fn(&Host) -> bool| HOSTS.iter().all(|number| is_so(cluster.host(*number)));
    cluster.eventually("all send by the first", || on_all(&|host| all_go_by(host, "weftwga", 2)));

    // As long as h2 does not hear of it nobody can be done, so it is in the middle that h1's agent dies.
    cluster.signal(2, Signal::SIGSTOP);
    let host = cluster.host(1);
    host.weft(["overlay", "rotate"]).expect_ok();
    cluster.eventually("h1 and h3 go by the second", || {
        let to_h3 = ways(host).lines().filter(|line| line.contains("dev weftwgb ")).count() == 1;
        to_h3 && host.has_link("weftwga") && cluster.host(3).has_link("weftwgb")
    });
    host.weft(["overlay", "rotate"]).expect_failure(4, &["being replaced already", "weft overlay peers"]);
    cluster.kill(1);
    cluster.signal(2, Signal::SIGCONT);
    cluster.eventually("h2 has a second key as well", || cluster.host(2).has_link("weftwgb"));
    assert!(ways(cluster.host(1)).contains("dev weftwga "), "{}", ways(cluster.host(1)));
    cluster.start(1);
    let on_all = |is_so: &dyn Fn(&Host) -> bool| HOSTS.iter().all(|number| is_so(cluster.host(*number)));
    cluster.eventually("all send by the second", || on_all(&|host| all_go_by(host, "weftwgb", 2)));

    // And again, while everybody waits for the last packets by the old way.
    cluster.kill(3);
    cluster.start(3);
    let on_all = |is_so: &dyn Fn(&Host) -> bool| HOSTS.iter().all(|number| is_so(cluster.host(*number)));
    cluster.in_the_end("the first is gone everywhere", || {
        on_all(&|host| !host.has_link("weftwga") && !host.path("var/lib/weft/overlay/keys/wg-a.key").exists())
    });
    for number in HOSTS {
        let host = cluster.host(number);
        assert!(all_go_by(host, "weftwgb", 2), "{}", ways(host));
        let tunnels = tunnels(host);
        let sound = |tunnel: &Value| tunnel["slot"] == "B" && tunnel["handshake"].is_u64();
        assert!(tunnels.len() == 2 && tunnels.iter().all(sound), "{tunnels:?}");
        cluster.eventually("all is sound", || host.weft(["overlay", "peers", "--verify"]).code == 0);
    }
    for (flow, pair) in flows.into_iter().zip(&pairs) {
        let counted = flow.count();
        assert_eq!(counted.arrived, counted.sent, "{pair:?}");
        assert!(counted.sent > 1000, "{pair:?}: {counted:?} is no load");
    }
    for connection in connections {
        assert!(connection.turns() > 100);
    }
    // The twin: a moment without the device is seen in the count.
    let flow = start(&pairs[0]);
    flow.goes_on(10);
    cluster.signal(1, Signal::SIGSTOP);
    cluster.host(1).ip("link set weftwgb down");
    flow.goes_on(10);
    cluster.signal(1, Signal::SIGCONT);
    flow.gets_through(10);
    let counted = flow.count();
    assert!(counted.arrived < counted.sent, "{counted:?}");
}
