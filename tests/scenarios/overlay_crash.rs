//! Encrypted networks and what happens to hosts: who carries the packets is killed, a host boots again, another one takes its place.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_testkit::{Cluster, Container, Host, Program, does_not_reach, reaches, skip_unless, staged, until};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_load::{Flow, WINDOW};
use crate::overlay_tunnel::{CANARY, transfer, tunnels};

const STATS: &str = r#"{"do":"stats"}"#;
const KEY: &str = "var/lib/weft/overlay/keys/wg-a.key";

/// Two hosts with a container of an encrypted network on each.
fn sealed() -> (Cluster, Container, Container) {
    let cluster = Cluster::new(2);
    cluster.network(1, &["-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    reaches(&red, addresses(&green));
    reaches(&green, addresses(&red));
    (cluster, red, green)
}

/// Ends whoever carries a host's packets, if that is a program of ours.
fn kill_tunnels(host: &Host) {
    let ids = tunnels(host);
    if !ids.trim().is_empty() {
        host.sh(&format!("kill -9 {ids}")).expect_ok();
        until("they are gone", || tunnels(host).trim().is_empty());
    }
}

/// Asks a tunnel of slot A, as the agent does.
fn ask(root: &Path, question: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(root.join("run/weft/overlay/wg-a.sock")).ok()?;
    stream.write_all(format!("{question}\n").as_bytes()).ok()?;
    serde_json::from_reader(stream).ok()
}

fn worker(host: &Host) -> u64 {
    ask(host.root(), STATS).unwrap()["pid"].as_u64().unwrap()
}

/// A datagram each way all the time, while those who carry them are killed.
fn both_ways(red: &Container, green: &Container) -> [Flow; 2] {
    let flows = [(red, green), (green, red)].map(|(from, to)| Flow::start(from, to, &addresses(to)[0]));
    flows.iter().for_each(|flow| flow.gets_through(100));
    flows
}

/// B2: what is lost is what was on its way to the one that died, in one piece; before and after it nothing is. Nothing is on the wire.
#[test]
fn a_tunnel_that_is_killed_under_load_loses_what_it_had_and_shows_nothing() {
    let (cluster, red, green) = sealed();
    skip_unless!(
        !cluster.underlay.lab().has_link_type("wireguard"),
        "a kernel without WireGuard, where a program of ours carries packets"
    );
    let host = cluster.host(1);
    let capture = cluster.underlay.capture();
    let flows = both_ways(&red, &green);
    let before = worker(host);
    let killed = flows.each_ref().map(Flow::sent);
    host.sh(&format!("kill -9 {before}")).expect_ok();
    until("another one has shaken hands", || {
        let stats = ask(host.root(), STATS).unwrap_or_default();
        stats["pid"].as_u64().is_some_and(|id| id != before) && stats["peers"][0]["handshake"].is_object()
    });
    let shaken = flows.each_ref().map(Flow::sent);
    flows.iter().for_each(|flow| flow.gets_through(100));
    for ((flow, killed), shaken) in flows.map(Flow::count).into_iter().zip(killed).zip(shaken) {
        // What is on its way when a number is read was sent before or will be right after.
        let span = killed.saturating_sub(WINDOW)..=shaken + WINDOW;
        let within = |(from, to): &(u64, u64)| span.contains(from) && span.contains(to);
        assert!(flow.gaps.len() <= 1 && flow.gaps.iter().all(within), "{span:?} {flow:?}");
    }
    // The twin: without the one that holds the device nobody is started until the agent looks, and that is seen in the count.
    cluster.signal(1, Signal::SIGSTOP);
    let flows = both_ways(&red, &green);
    kill_tunnels(host);
    flows.iter().for_each(|flow| flow.goes_on(20));
    cluster.signal(1, Signal::SIGCONT);
    flows.iter().for_each(|flow| flow.gets_through(100));
    for flow in flows.map(Flow::count) {
        assert!(flow.arrived < flow.sent, "{flow:?}");
    }
    assert_eq!(capture.stop_and_count(CANARY), 0);
}

/// C1: the same key and the same address, with the store away; and nothing works that was there before the boot.
#[test]
fn a_host_that_boots_again_is_who_it_was_to_the_mesh() {
    let (mut cluster, red, green) = sealed();
    let host = cluster.host(1);
    let id = cluster.status(1)["networks"][0]["id"].as_str().unwrap().to_owned();
    let copy = || host.read("var/lib/weft/overlay/state.json");
    // What the disk knows of the other's key is what the mesh is made of.
    cluster.eventually("the disk has a copy", || {
        copy().contains(&id) && copy().matches("public_key").count() >= 2
    });
    let key = host.read(KEY);
    let mesh = |host: &Host| host.addresses("weftwga");
    let address = mesh(host);
    let own = |cluster: &Cluster| {
        let peers = cluster.host(2).weft(["overlay", "peers", "--format", "json"]).expect_json();
        peers[0]["tunnels"][0]["key"].as_str().unwrap().to_owned()
    };
    let public = own(&cluster);
    cluster.end(1);
    cluster.etcd.stop();
    let host = cluster.host(1);
    red.vanish();
    kill_tunnels(host);
    for kind in ["vxlan", "bridge", "tun", "wireguard"] {
        let names = host.sh(&format!("ip -o link show type {kind} | cut -d: -f2")).stdout;
        names.split_whitespace().for_each(|name| drop(host.ip(&format!("link del {name}"))));
    }
    host.sh(
        "nft flush ruleset; for proto in 201 202; do ip route flush proto $proto; ip -6 route flush proto $proto; done
         rm -r $WEFT_ROOT/run/*",
    )
    .expect_ok();
    assert!(!host.has_link("weftwga"));
    let capture = cluster.underlay.capture();
    cluster.start(1);
    assert_eq!(cluster.status(1)["state"], "stale");
    let again = connected(&cluster, 1, "again");
    reaches(&again, addresses(&green));
    reaches(&green, addresses(&again));
    transfer(&again, &green, &addresses(&green)[0]);
    assert_eq!(capture.stop_and_count(CANARY), 0);
    let host = cluster.host(1);
    assert_eq!(host.read(KEY), key);
    assert_eq!(mesh(host), address);
    assert_eq!(own(&cluster), public);
    cluster.etcd.go_on();
    cluster.eventually("the store is heard of", || cluster.status(1)["state"] == "ready");
    assert_eq!((own(&cluster), cluster.host(1).read(KEY)), (public, key));
    reaches(&green, addresses(&again));
}

/// C2 and C3: another machine has the place. The key of the one before is good for nothing, wherever it is used.
#[test]
fn the_key_of_a_host_that_was_replaced_opens_nothing() {
    let (mut cluster, red, green) = sealed();
    skip_unless!(
        !cluster.underlay.lab().has_link_type("wireguard"),
        "a kernel without WireGuard, where a program of ours carries packets"
    );
    let keys = |cluster: &Cluster| {
        let peers = cluster.host(1).weft(["overlay", "peers", "--format", "json"]).expect_json();
        peers.to_string().split('"').filter(|part| part.len() == 44).map(str::to_owned).collect::<Vec<_>>()
    };
    let [lost] = &keys(&cluster)[..] else { panic!("{:?}", keys(&cluster)) };
    let lost = lost.clone();
    // The old machine's disk, with its key and what it knows of h1, in another machine.
    let host = cluster.host(2);
    let thief = cluster.underlay.stranger(66);
    let root = cluster.underlay.lab().path("thief");
    std::fs::create_dir_all(root.join("var/lib")).unwrap();
    host.sh(&format!("cp -a {}/var/lib/weft {}/var/lib/", host.root().display(), root.display())).expect_ok();
    host.weft(["network", "disconnect", "blue", green.name()]).expect_ok();
    cluster.kill(2);
    let host = cluster.host(2);
    kill_tunnels(host);
    let shaken = || {
        let stats = ask(&root, STATS)?;
        Some(stats["peers"].as_array()?.iter().any(|peer| !peer["handshake"].is_null()))
    };
    let run = || {
        let words = ["--root", root.to_str().unwrap(), "tunnel", "--slot", "A"];
        let program = Program::new(staged("weftd")).inside(&thief).args(words).background();
        until("it answers", || shaken().is_some());
        program
    };
    let stop = |program: weft_testkit::Background| {
        ask(&root, r#"{"do":"stop"}"#);
        program.end();
    };
    // The positive twin: as long as it is h2's key h1 takes it, wherever it comes from.
    let program = run();
    until("hands are shaken", || shaken() == Some(true));
    stop(program);

    for folder in ["var/lib/weft", "run/weft", "etc/weft", "var/lib/cni"] {
        host.sh(&format!("find {} -mindepth 1 -delete", host.path(folder).display())).expect_ok();
    }
    for kind in ["vxlan", "bridge", "tun"] {
        let names = host.sh(&format!("ip -o link show type {kind} | cut -d: -f2")).stdout;
        names.split_whitespace().for_each(|name| drop(host.sh(&format!("ip link del {name}"))));
    }
    host.sh("nft flush ruleset; for proto in 201 202; do ip route flush proto $proto; ip -6 route flush proto $proto; done")
        .expect_ok();
    cluster.start(2);
    cluster.eventually("h2 is not heard of", || cluster.status(1)["suspect"] == 1);
    cluster.join_with(2, &["--takeover"]).expect_ok();
    cluster.eventually("blue is there", || cluster.host(2).weft(["network", "exists", "blue"]).code == 0);
    let fresh = connected(&cluster, 2, "fresh");
    cluster.eventually("they reach each other", || addresses(&fresh).iter().all(|address| red.ping(address)));
    cluster.eventually("h1 has the new key alone", || {
        let keys = keys(&cluster);
        keys.len() == 1 && keys[0] != lost
    });

    // The old one comes back after all. What it says arrives, and is not answered.
    let capture = cluster.underlay.capture();
    let program = run();
    let asked = || ask(&root, STATS).unwrap()["peers"][0]["public_key"].as_str().unwrap().to_owned();
    let peer = asked();
    for _ in 0..5 {
        ask(&root, &format!(r#"{{"do":"handshake","peer":"{peer}"}}"#)).unwrap();
    }
    does_not_reach(&thief, ["fd00::1"]);
    assert_eq!(shaken(), Some(false));
    stop(program);
    let frames = capture.stop();
    let of_kind = |kind: u8, from: [u8; 4], to: [u8; 4]| {
        let head = [from, to].concat();
        frames
            .iter()
            .filter(|frame| frame.get(26..34) == Some(&head[..]) && frame.get(42) == Some(&kind))
            .count()
    };
    let (here, there) = ([192, 0, 2, 66], [192, 0, 2, 1]);
    assert!(of_kind(1, here, there) > 0, "it has said nothing");
    assert_eq!(of_kind(2, there, here), 0);
    reaches(&red, addresses(&fresh));
}
