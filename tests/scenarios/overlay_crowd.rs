//! What a host's kernel has of the others, and what becomes of it when many of them vanish at once.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, Container, Host, reaches};

use crate::overlay_agent::{addresses, connected, lost_nothing, pinging};

/// Everything that a host's kernel has for its peers, a line each.
#[derive(Debug, PartialEq, Eq)]
struct OfPeers {
    routes: BTreeSet<String>,
    neighbours: BTreeSet<String>,
    forwarding: BTreeSet<String>,
}

fn of_peers(host: &Host, vxlan: &str) -> OfPeers {
    let lines = |line: String| {
        let said = host.sh(&line).stdout;
        said.lines().map(|line| line.trim().to_owned()).collect::<BTreeSet<_>>()
    };
    OfPeers {
        routes: lines(format!("for f in 4 6; do ip -$f route show dev {vxlan} | grep via; done")),
        neighbours: lines(format!("ip neigh show dev {vxlan}")),
        forwarding: lines(format!("bridge fdb show dev {vxlan} | grep dst")),
    }
}

fn counts(found: &OfPeers) -> [usize; 3] {
    [found.routes.len(), found.neighbours.len(), found.forwarding.len()]
}

fn vxlan(host: &Host) -> String {
    host.sh("ip -o link show type vxlan | cut -d: -f2 | tr -d ' '").expect_ok().trim().to_owned()
}

/// One route and neighbour of each family and one way to a host for each peer, however many containers it has and whatever it sends.
#[test]
fn the_kernel_knows_hosts_and_not_containers() {
    let cluster = Cluster::new(3);
    cluster.network(1, &["--ipv6", "blue"]);
    let host = cluster.host(1);
    let red = connected(&cluster, 1, "red");
    let far = connected(&cluster, 3, "far");
    let device = vxlan(host);
    cluster.eventually("h1 knows both", || counts(&of_peers(host, &device)) == [4, 4, 2]);
    let before = of_peers(host, &device);
    let crowd: Vec<Container> = (0..20).map(|nth| connected(&cluster, 2, &format!("c{nth}"))).collect();
    for container in &crowd {
        reaches(container, addresses(&red));
    }
    assert_eq!(of_peers(host, &device), before);
    // A host that lies about its link-layer address teaches nobody anything.
    cluster.signal(3, Signal::SIGSTOP);
    let (liar, theirs) = (cluster.host(3), vxlan(cluster.host(3)));
    let own = liar.link(&theirs)["address"].as_str().unwrap().to_owned();
    let mac = host.link(&device)["address"].as_str().unwrap().to_owned();
    let via =
        liar.ip_json(&format!("route get {}", addresses(&red)[0]))[0]["gateway"].as_str().unwrap().to_owned();
    let lie = |nth: u8| {
        let to = &addresses(&red)[0];
        let ear = red.ear(to.parse().unwrap());
        liar.ip(&format!("link set {theirs} address 02:00:00:00:00:{nth:02x}"));
        // KERNEL: whom a link has found is forgotten with its own address (neigh_changeaddr).
        liar.ip(&format!("neigh replace {via} lladdr {mac} dev {theirs} nud permanent"));
        far.inside(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"?", (to.as_str(), 700 + u16::from(nth))).unwrap();
        });
        ear.expect(17, 700 + u16::from(nth));
        format!("02:00:00:00:00:{nth:02x}")
    };
    for nth in 1..=5 {
        lie(nth);
    }
    assert_eq!(of_peers(host, &device), before);
    // The twin: a device that learns, as it is unless somebody says otherwise.
    cluster.signal(1, Signal::SIGSTOP);
    host.ip(&format!("link set {device} type vxlan learning"));
    let last = lie(6);
    let learned = of_peers(host, &device).forwarding;
    assert!(learned.iter().any(|line| line.starts_with(&last)), "{learned:?}");
    liar.ip(&format!("link set {theirs} address {own}"));
}

/// Deletes the records of hosts as somebody would who has the wrong list.
fn delete(cluster: &Cluster, hosts: &[&String]) {
    let keys: Vec<String> = hosts.iter().map(|id| format!("/weft/v1/host/{id}")).collect();
    cluster.etcd.delete_together(&keys.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Two hosts that vanish are gone; of five hosts four do not leave at one moment without a word.
#[test]
fn few_hosts_may_vanish_at_once_and_most_may_not() {
    let mut cluster = Cluster::new(5);
    cluster.network(1, &["blue"]);
    let ids: Vec<String> =
        (1..=5).map(|number| cluster.status(number)["host"]["id"].as_str().unwrap().to_owned()).collect();
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let routes = |cluster: &Cluster| {
        cluster.host(1).sh("ip -4 route show proto 201 | grep via").stdout.lines().count()
    };
    cluster.eventually("all ways are there", || routes(&cluster) == 4);
    reaches(&red, addresses(&green));
    // Whoever runs says at once again that it is there.
    (2..=5).for_each(|number| cluster.kill(number));
    delete(&cluster, &[&ids[3], &ids[4]]);
    cluster.eventually("nothing leads to two of them", || routes(&cluster) == 2);
    assert_eq!(cluster.status(1)["alarms"].as_array().unwrap().len(), 0, "{}", cluster.status(1));
    (4..=5).for_each(|number| cluster.start(number));
    cluster.eventually("they are there again", || routes(&cluster) == 4);
    (4..=5).for_each(|number| cluster.kill(number));
    let ping = pinging(&red, &addresses(&green)[0]);
    delete(&cluster, &ids[1..].iter().collect::<Vec<_>>());
    cluster.eventually("it is told", || {
        cluster.status(1)["alarms"].to_string().contains("4 of 4 hosts, or what they had, vanished")
    });
    assert_eq!(cluster.status(1)["state"], "degraded");
    assert_eq!(routes(&cluster), 4);
    lost_nothing(ping);
    (2..=5).for_each(|number| cluster.start(number));
    cluster.eventually("all is well", || (1..=5).all(|number| cluster.status(number)["state"] == "ready"));
    assert_eq!(routes(&cluster), 4);
    reaches(&green, addresses(&red));
}
