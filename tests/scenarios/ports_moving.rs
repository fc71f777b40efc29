//! Published ports move between networks: whoever is killed meanwhile, and whatever the networks make of them.

use std::path::Path;

use weft_testkit::{Container, Lab, Output, Program, skip_unless, staged, staged_folder};

use crate::ports::HOST;

/// The calls between which something changes.
const CHANGES: [&str; 11] = [
    "write",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "flock",
    "clone",
    "clone3",
    "wait4",
    "waitid",
];

const CONNECT: [&str; 6] = ["network", "connect", "--gw-priority", "10", "pink", "red"];
const DISCONNECT: [&str; 4] = ["network", "disconnect", "pink", "red"];

fn create(lab: &Lab, number: u8, name: &str, more: &[&str]) {
    let subnet = format!("10.{number}.0.0/24");
    let words = ["network", "create", "--subnet", &subnet];
    lab.weft(words.into_iter().chain(more.iter().copied()).chain([name])).expect_ok();
}

fn listed(lab: &Lab) -> Vec<String> {
    let rows = lab.weft(["port", "ls", "--format", "{{.Network}} {{.Port}}"]);
    rows.expect_ok().lines().map(String::from).collect()
}

/// Runs `weft` and kills it as it enters the `nth` call of one kind. The plugins it has started go on.
fn killed(lab: &Lab, words: &[&str], call: &str, nth: u32) -> Output {
    let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
    let program = Program::new("strace").args(["-o", "/dev/null", "-e", &inject]);
    let program = program.args([staged("weft")]).args(words);
    program.env("WEFT_ROOT", lab.root()).env("CNI_PATH", staged_folder()).run()
}

/// Says all there is to know of a port at which nobody answers, and how the next call fares.
#[track_caller]
fn reached(lab: &Lab, outside: &Container, red: &Container, port: u16, moment: &str) {
    let ask = || outside.ask_tcp(HOST[0].parse().unwrap(), port).map(|answer| answer.by);
    let answer = ask();
    if !answer.as_ref().is_ok_and(|by| by == "red") {
        let routes = red.ip("route show");
        panic!("{moment}: port {port}: {answer:?}, then {:?}\n{}\n{routes}", ask(), lab.ruleset());
    }
}

fn crash(words: &[&str]) {
    let lab = Lab::new();
    skip_unless!(Path::new("/usr/bin/strace").exists(), "strace");
    let outside = lab.uplink();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &[]);
    let red = lab.container("red");
    let _service = red.serve_tcp(80);
    lab.weft(["network", "connect", "-p", "8080:80", "-p", "9000-9009:80-89", "blue", "red"]).expect_ok();
    let on_blue = listed(&lab);
    let on_pink: Vec<String> = on_blue.iter().map(|row| row.replace("blue", "pink")).collect();
    let lock = lab.root().join("run/weft/locks/container-red");
    let (mut kills, mut on_their_way) = (0, 0);
    for call in CHANGES {
        for nth in 1.. {
            if words == DISCONNECT {
                lab.weft(CONNECT).expect_ok();
            }
            let output = killed(&lab, words, call, nth);
            let moment = format!("killed at {call} {nth}");
            if output.code != 0 {
                assert_eq!(output.code, 137, "{moment}: {output}");
                kills += 1;
                // A plugin may be at work still.
                lab.sh(&format!("flock {} true", lock.display())).expect_ok();
                let left = listed(&lab);
                if left.len() < on_blue.len() {
                    on_their_way += 1;
                    let told = lab.weft(["doctor"]);
                    let told_of = ["ports of red", "8080", "weft network reload"];
                    assert!(
                        told.code == 1 && told_of.iter().all(|word| told.stdout.contains(word)),
                        "{told}"
                    );
                }
                match nth % 3 {
                    0 => drop(lab.weft(["network", "reload"]).expect_ok()),
                    1 => {
                        lab.weft(["doctor", "--fix"]).expect_ok();
                    }
                    _ => {
                        lab.weft(["port", "publish", "red", "7000:80"]).expect_ok();
                        lab.weft(["port", "unpublish", "red", "7000:80"]).expect_ok();
                    }
                }
                let now = listed(&lab);
                assert!(now == on_blue || now == on_pink, "{moment}: {left:?}, then {now:?}");
            }
            lab.weft(DISCONNECT);
            assert_eq!(listed(&lab), on_blue, "{moment}");
            for port in [8080, 9000] {
                reached(&lab, &outside, &red, port, &moment);
            }
            lab.weft(["doctor"]).expect_ok();
            if output.code == 0 {
                break;
            }
        }
    }
    assert!(kills > 8 && on_their_way > 0, "{kills} kills, {on_their_way} while ports moved");
}

#[test]
fn a_connect_killed_while_ports_move_loses_none() {
    crash(&CONNECT);
}

#[test]
fn a_disconnect_killed_while_ports_move_loses_none() {
    crash(&DISCONNECT);
}

/// A connection that fails late has taken the ports along already.
#[test]
fn a_connect_that_fails_gives_the_ports_back() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &[]);
    for (name, port) in [("red", "8080:80"), ("green", "8081:80")] {
        lab.container(name);
        lab.weft(["network", "connect", "-p", port, "blue", name]).expect_ok();
    }
    let before = listed(&lab);
    let refused = lab.weft(CONNECT[..4].iter().copied().chain(["-p", "8081:80", "pink", "red"]));
    refused.expect_failure(4, &["8081", "green"]);
    assert_eq!(listed(&lab), before);
    lab.weft(["doctor"]).expect_ok();
}

const ROUTED: [&str; 2] = ["-o", "gateway_mode_ipv4=routed"];

#[test]
fn a_routed_network_opens_no_port_of_one_address_to_everybody() {
    let lab = Lab::new();
    let outside = lab.uplink();
    outside.ip(&format!("route add 10.0.0.0/8 via {}", HOST[0]));
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &ROUTED);
    let red = lab.container("red");
    let _services = [red.serve_tcp(80), red.serve_tcp(81)];
    let words = ["network pink is routed", "its ports are the container's own, at every address"];
    let local = "127.0.0.1:8081:81";
    lab.weft(["network", "connect", "-p", local, "pink", "red"]).expect_failure(2, &words);
    lab.weft(["network", "connect", "pink", "red"]).expect_ok();
    lab.weft(["port", "publish", "red", local]).expect_failure(2, &words);
    assert!(outside.ask_tcp("10.91.0.2".parse().unwrap(), 81).is_err());
    lab.weft(DISCONNECT).expect_ok();

    // It does not get there by moving, either, and keeps nothing else from it.
    lab.weft(["network", "connect", "-p", "8080:80", "-p", local, "blue", "red"]).expect_ok();
    let moved = lab.weft(CONNECT);
    moved.expect_ok();
    for word in words.into_iter().chain(["ports of red stay on network blue"]) {
        assert!(moved.stderr.contains(word), "{moved}");
    }
    assert_eq!(listed(&lab), ["blue 127.0.0.1:8081->81/tcp", "pink 10.91.0.3:80/tcp"]);
    assert_eq!(outside.ask_tcp("10.91.0.3".parse().unwrap(), 80).unwrap().by, "red");
    assert!(outside.ask_tcp("10.91.0.3".parse().unwrap(), 81).is_err());

    let binding = ["network", "create", "-o", "host_binding_ipv4=127.0.0.1"];
    lab.weft(binding.into_iter().chain(ROUTED).chain(["mint"]))
        .expect_failure(2, &["host_binding_ipv4=127.0.0.1", "routed", "gateway_mode_ipv4"]);
}

#[test]
fn ports_come_back_from_a_routed_network_as_they_went() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &ROUTED);
    lab.container("red");
    lab.weft(["network", "connect", "-p", "8080:80", "-p", "9000-9002:90-92", "-p", "85", "blue", "red"])
        .expect_ok();
    let before = listed(&lab);
    lab.weft(CONNECT).expect_ok();
    let mut there = listed(&lab);
    there.sort();
    assert_eq!(there, ["pink 10.91.0.2:80/tcp", "pink 10.91.0.2:85/tcp", "pink 10.91.0.2:90-92/tcp"]);
    lab.weft(DISCONNECT).expect_ok();
    let (mut now, mut expected) = (listed(&lab), before);
    now.sort();
    expected.sort();
    assert_eq!(now, expected);
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();

    // What was left to us without translation is chosen with it.
    lab.weft(["network", "connect", "-p", "8000-8010:81", "-p", "82", "-p", "8080:83", "pink", "red"])
        .expect_ok();
    lab.weft(["network", "connect", "--gw-priority", "10", "blue", "red"]).expect_ok();
    let ports = listed(&lab);
    assert!(ports.contains(&"blue 0.0.0.0:8000->81/tcp".into()), "{ports:?}");
    assert!(ports.contains(&"blue 0.0.0.0:8080->83/tcp".into()), "{ports:?}");
    let chosen = ports.iter().find(|row| row.ends_with("->82/tcp")).unwrap();
    assert_ne!(chosen, "blue 0.0.0.0:82->82/tcp");
}

#[test]
fn a_port_of_a_routed_container_is_published_once() {
    let lab = Lab::new();
    create(&lab, 91, "pink", &ROUTED);
    lab.container("red");
    lab.weft(["network", "connect", "-p", "8080:80", "pink", "red"]).expect_ok();
    for again in ["8080:80", "8081:80", "80"] {
        lab.weft(["port", "publish", "red", again])
            .expect_failure(4, &["80/tcp", "published by red on pink"]);
    }
    lab.weft(["port", "publish", "red", "8081:81", "8082:81"])
        .expect_failure(2, &["81/tcp", "asked for twice"]);
    lab.weft(["port", "publish", "red", "8081:81"]).expect_ok();
    assert_eq!(listed(&lab), ["pink 10.91.0.2:80/tcp", "pink 10.91.0.2:81/tcp"]);
    lab.weft(["port", "unpublish", "red", "[::1]:90:81"]).expect_failure(3, &["does not publish"]);
    lab.weft(["port", "unpublish", "red", "127.0.0.1:8081:81"]).expect_failure(3, &["does not publish"]);
    lab.weft(["port", "unpublish", "red", "8081:81"]).expect_ok();
}

#[test]
fn an_isolated_family_publishes_nothing() {
    let lab = Lab::new();
    create(&lab, 91, "pink", &["-o", "gateway_mode_ipv4=isolated"]);
    lab.container("red");
    let words = ["network pink publishes no ports", "gateway mode for IPv4 is isolated"];
    lab.weft(["network", "connect", "-p", "8080:80", "pink", "red"]).expect_failure(2, &words);
    lab.weft(["network", "connect", "pink", "red"]).expect_ok();
    lab.weft(["port", "publish", "red", "8080:80"]).expect_failure(2, &words);
}

#[test]
fn an_address_the_host_has_not_is_published_where_the_network_allows_it() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &["-o", "allow_foreign_host_ip=true"]);
    lab.container("red");
    let port = "203.0.113.9:8080:80";
    let words = ["203.0.113.9 is not an address of this host", "-o allow_foreign_host_ip"];
    lab.weft(["network", "connect", "-p", port, "blue", "red"]).expect_failure(2, &words);
    lab.weft(["network", "connect", "-p", port, "pink", "red"]).expect_ok();
    assert_eq!(listed(&lab), ["pink 203.0.113.9:8080->80/tcp"]);
}

#[test]
fn part_of_a_published_range_is_not_unpublished_alone() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    lab.container("red");
    lab.weft(["network", "connect", "-p", "8000-8005:8000-8005", "blue", "red"]).expect_ok();
    lab.weft(["port", "unpublish", "red", "8003:8003"])
        .expect_failure(3, &["publishes 8003:8003/tcp as part of 8000-8005"]);
    assert_eq!(listed(&lab).len(), 1);
    lab.weft(["port", "unpublish", "red", "9003:9003"]).expect_failure(3, &["does not publish"]);
}
