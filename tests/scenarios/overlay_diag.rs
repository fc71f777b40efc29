//! `weft overlay diag` names the link that is broken, also where no agent runs, which is when links stay broken.

use std::time::{Duration, Instant};

use weft_testkit::{Cluster, Container, Host, Lab, Output, does_not_reach, reaches, skip_unless};

use crate::overlay_agent::{addresses, connected};

/// What to type where no agent runs.
const START: &str = "systemctl enable --now weft-agent";

/// Two hosts with a container on each.
fn pair(options: &[&str]) -> (Cluster, Container, String) {
    let cluster = Cluster::new(2);
    cluster.network(1, &[options, &["blue"]].concat());
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let address = addresses(&green)[0].clone();
    reaches(&red, [&address]);
    (cluster, red, address)
}

fn diag(host: &Host, address: &str) -> Output {
    host.weft(["overlay", "diag", address])
}

/// Every link of the way is sound.
#[track_caller]
fn is_whole(host: &Host, address: &str, links: &[&str]) {
    let said = diag(host, address);
    let table = said.expect_ok();
    assert!(!table.contains("BROKEN"), "{table}");
    for link in links {
        let named = |line: &str| line.starts_with(link) && line.contains(" ok ");
        assert!(table.lines().any(named), "no {link}: {table}");
    }
}

/// This link and no other is broken, and this is what mends it.
#[track_caller]
fn is_broken(host: &Host, address: &str, link: &str, mend: &str) {
    let said = diag(host, address);
    assert_eq!(said.code, 1, "{said}");
    let broken: Vec<&str> = said.stdout.lines().filter(|line| line.contains("BROKEN")).collect();
    let [line] = broken[..] else { panic!("{said}") };
    assert!(line.starts_with(link) && line.contains(mend), "{said}");
    assert_eq!(said.stdout.lines().last(), Some(line), "nothing is said of what lies behind: {said}");
}

#[test]
fn each_link_that_somebody_breaks_is_named_without_an_agent() {
    let (mut cluster, red, address) = pair(&[]);
    let host = cluster.host(1);
    let links = ["network", "host", "device", "route", "neighbour", "fdb", "underlay"];
    is_whole(host, &address, &links);
    let vxlan = host.sh("ip -o link show type vxlan | cut -d: -f2 | tr -d ' '").expect_ok().trim().to_owned();
    let block =
        host.sh("ip -4 route show proto 201 | grep via | cut -d' ' -f1").expect_ok().trim().to_owned();
    let fdb = format!("bridge fdb show dev {vxlan} | grep permanent | head -1 | cut -d' ' -f1");
    for (link, line) in [
        ("route", format!("ip route del {block}")),
        ("neighbour", format!("ip -4 neigh flush dev {vxlan} nud permanent")),
        ("fdb", format!("bridge fdb del $({fdb}) dev {vxlan}")),
        ("fdb", format!("bridge fdb replace $({fdb}) dev {vxlan} dst 192.0.2.9")),
        ("device", format!("ip link set {vxlan} down")),
        ("device", format!("ip link del {vxlan}")),
    ] {
        cluster.kill(1);
        let host = cluster.host(1);
        is_whole(host, &address, &links);
        assert!(diag(host, &address).stderr.contains("weftd agent does not run on this host"));
        host.sh(&line).expect_ok();
        does_not_reach(&red, [&address]);
        is_broken(host, &address, link, START);
        cluster.start(1);
        cluster.eventually(&line, || red.ping(&address));
        is_whole(cluster.host(1), &address, &links);
    }
    // What is asked for has to be there, too, and so has the cluster.
    cluster.kill(1);
    let host = cluster.host(1);
    diag(host, "198.51.100.9").expect_failure(3, &["no network of the cluster has the address"]);
    host.sh(&format!("rm {}", host.path("var/lib/weft/overlay/membership.json").display())).expect_ok();
    diag(host, &address).expect_failure(1, &["weftd agent does not run on this host", START]);
}

#[test]
fn each_link_through_the_mesh_that_somebody_breaks_is_named() {
    let (mut cluster, red, address) = pair(&["-o", "encrypted"]);
    let links = ["route", "neighbour", "fdb", "mesh", "tunnel", "handshake"];
    is_whole(cluster.host(1), &address, &links);
    let host = cluster.host(1);
    let peer =
        host.sh("ip -6 route show dev weftwga proto 202 | cut -d' ' -f1").expect_ok().trim().to_owned();
    let mut breaks = vec![
        ("mesh", format!("ip -6 route del {peer} dev weftwga")),
        ("mesh", format!("ip -6 route del {peer} dev weftwga; ip -6 route add {peer} via 2001:db8::2")),
        ("mesh", "ip link del weftwga".to_owned()),
    ];
    // Where the kernel has no WireGuard of its own there is a process that may die.
    if !tunnels(host).is_empty() {
        breaks.push(("tunnel", "kill -9 $(cat tunnels)".to_owned()));
    }
    for (link, line) in breaks {
        cluster.kill(1);
        let host = cluster.host(1);
        is_whole(host, &address, &links);
        let line = line.replace("$(cat tunnels)", &tunnels(host));
        host.sh(&line).expect_ok();
        does_not_reach(&red, [&address]);
        let mend = if line.contains("via 2001:db8::2") { "ip route get" } else { START };
        is_broken(host, &address, link, mend);
        host.sh(&format!("ip -6 route del {peer} via 2001:db8::2"));
        cluster.start(1);
        cluster.eventually(&line, || red.ping(&address));
        is_whole(cluster.host(1), &address, &links);
    }
}

/// The session is good for minutes, and nothing says yet that nobody is there any more.
#[test]
fn a_tunnel_that_nobody_answers_in_is_named_at_once() {
    let (mut cluster, red, address) = pair(&["-o", "encrypted"]);
    skip_unless!(
        !cluster.underlay.lab().has_link_type("wireguard"),
        "a kernel without WireGuard, which says so only when the session has ended"
    );
    for agent in [true, false] {
        if !agent {
            cluster.kill(1);
        }
        let host = cluster.host(1);
        is_whole(host, &address, &["tunnel", "handshake"]);
        host.cut_off(cluster.host(2).ipv4());
        does_not_reach(&red, [&address]);
        // Hands that were shaken just now are as good as can be known.
        cluster.eventually("it is noticed", || diag(host, &address).code == 1);
        is_broken(host, &address, "handshake", "let UDP port 51820 pass between the hosts");
        host.heal();
        cluster.eventually("they shake hands", || diag(cluster.host(1), &address).code == 0);
        reaches(&red, [&address]);
    }
    // One that never did: the other host has made a key that nobody here has spoken to.
    let host = cluster.host(1);
    host.cut_off(cluster.host(2).ipv4());
    cluster.start(1);
    let tunnel = tunnels(cluster.host(1));
    cluster.host(1).sh(&format!("kill -9 {tunnel}")).expect_ok();
    cluster.eventually("another tunnel runs", || {
        let now = tunnels(cluster.host(1));
        !now.is_empty() && now != tunnel
    });
    cluster.eventually("it has never shaken hands", || {
        let said = diag(cluster.host(1), &address).stdout;
        let broken = said.lines().find(|line| line.contains("BROKEN")).unwrap_or_default();
        broken.starts_with("handshake") && broken.contains("never, with h2")
    });
}

/// The kernel's WireGuard tells of no other end that is gone as long as it has a session. Three minutes after the last handshake it has none,
/// and nothing that was heard of is in the way any more.
#[test]
fn the_kernels_wireguard_says_who_is_gone_when_its_session_has_ended() {
    const SESSION: u64 = 180;
    skip_unless!(Lab::new().has_link_type("wireguard"), "a kernel with WireGuard");
    let (mut cluster, red, address) = pair(&["-o", "encrypted"]);
    let host = cluster.host(1);
    is_whole(host, &address, &["tunnel", "handshake"]);
    let age = || {
        let peers = host.weft(["overlay", "peers", "--format", "json"]);
        let peers: serde_json::Value = serde_json::from_str(peers.expect_ok()).unwrap();
        peers[0]["tunnels"][0]["handshake"].as_u64()
    };
    // Nobody says anything meanwhile, so nobody shakes hands.
    let begun = Instant::now();
    while age().is_none_or(|age| age <= SESSION) {
        assert!(begun.elapsed() < Duration::from_secs(2 * SESSION), "they shake hands: {:?}", age());
        std::thread::sleep(Duration::from_secs(1));
    }
    host.weft(["overlay", "peers", "--verify"]).expect_ok();
    host.cut_off(cluster.host(2).ipv4());
    for agent in [true, false] {
        if !agent {
            cluster.kill(1);
        }
        is_broken(cluster.host(1), &address, "handshake", "let UDP port 51820 pass between the hosts");
    }
    let host = cluster.host(1);
    host.heal();
    cluster.eventually("they shake hands", || diag(host, &address).code == 0);
    is_whole(host, &address, &["tunnel", "handshake"]);
    reaches(&red, [&address]);
}

/// The processes of a host's tunnels.
fn tunnels(host: &Host) -> String {
    // Without the bracket the shell would find itself.
    host.sh(&format!("pgrep -f '[r]oot {} tunnel'", host.root().display())).stdout.replace('\n', " ")
}

/// `apply` is no word of comfort: what it could not do it says.
#[test]
fn apply_fails_where_something_stays_broken() {
    let (cluster, red, address) = pair(&[]);
    let host = cluster.host(1);
    host.weft(["overlay", "apply"]).expect_ok();
    let block =
        host.sh("ip -4 route show proto 201 | grep via | cut -d' ' -f1").expect_ok().trim().to_owned();
    host.sh(&format!("ip route del {block} && ip route add {block} via 192.0.2.2 dev u0")).expect_ok();
    let said = host.weft(["overlay", "apply"]);
    said.expect_failure(1, &["network blue", &block, "hint: weft overlay status"]);
    host.ip(&format!("route del {block} via 192.0.2.2"));
    host.weft(["overlay", "apply"]).expect_ok();
    reaches(&red, [&address]);
}
