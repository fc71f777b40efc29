//! Ports of the host that lead to containers: published when connecting or later, listed, withdrawn.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, falls_silent, skip_unless};

use crate::heals::conversation;

/// The host, as the outside knows it.
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
/// The outside, as the host knows it.
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Creates a network of both families, `10.<number>.0.0/24` and `fd00:<number>::/64`.
fn create(lab: &Lab, number: u8, name: &str, more: &[&str]) {
    let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd00:{number}::/64"));
    let words = ["network", "create", "--ipv6", "--subnet", &v4, "--subnet", &v6];
    lab.weft(words.into_iter().chain(more.iter().copied()).chain([name])).expect_ok();
}

/// A container on a network, with what else `connect` is told.
fn connected(lab: &Lab, network: &str, name: &str, more: &[&str]) -> Container {
    let container = lab.container(name);
    connect(lab, network, name, more);
    container
}

fn connect(lab: &Lab, network: &str, name: &str, more: &[&str]) {
    lab.weft(["network", "connect"].into_iter().chain(more.iter().copied()).chain([network, name]))
        .expect_ok();
}

/// Who answers at a port of the host, and whom it takes for the caller.
#[track_caller]
fn answers(from: &Container, host: &str, port: u16, by: &str, caller: &str) {
    let answer = from.ask_tcp(ip(host), port);
    let answer = answer.unwrap_or_else(|error| panic!("nobody answers at {host} port {port}: {error}"));
    assert_eq!((answer.by.as_str(), answer.caller), (by, ip(caller)), "{host} port {port}");
}

#[track_caller]
fn silent(from: &Container, host: &str, port: u16) {
    let answer = from.ask_tcp(ip(host), port);
    assert!(answer.is_err(), "{host} port {port}: {answer:?}");
}

fn listed(lab: &Lab, words: &[&str]) -> Vec<String> {
    let all = ["port", "ls", "-q"].into_iter().chain(words.iter().copied());
    let output = lab.weft(all);
    output.expect_ok().lines().map(String::from).collect()
}

#[test]
fn a_live_container_gets_a_port_and_loses_it() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &[]);
    let red = connected(&lab, "blue", "red", &[]);
    let _service = red.serve_tcp(80);
    for host in HOST {
        silent(&outside, host, 8080);
    }
    let before = lab.snapshot();

    let published = lab.weft(["port", "publish", "red", "8080:80"]);
    assert_eq!(published.expect_ok(), "0.0.0.0:8080->80/tcp\n[::]:8080->80/tcp\n");
    for (host, outer) in HOST.into_iter().zip(OUTSIDE) {
        answers(&outside, host, 8080, "red", outer);
    }
    assert_eq!(lab.ask_tcp(ip("127.0.0.1"), 8080).unwrap().by, "red");
    assert_eq!(lab.ask_tcp(ip("192.0.2.1"), 8080).unwrap().by, "red");

    let table = lab.weft(["port", "ls"]);
    for word in ["CONTAINER", "PORT", "red", "blue", "0.0.0.0:8080->80/tcp"] {
        assert!(table.expect_ok().contains(word), "{word}: {table}");
    }
    let row = lab.weft(["port", "ls", "--format", "json", "red"]);
    let row: Value = serde_json::from_str(row.expect_ok().lines().next().unwrap()).unwrap();
    assert_eq!(
        (&row["HostPort"], &row["ContainerIP"], &row["ContainerPort"]),
        (&json!("8080"), &json!("10.90.0.2"), &json!("80"))
    );
    assert!(lab.weft(["ps"]).expect_ok().contains("0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"));
    let inspected = lab.weft(["network", "inspect", "blue"]).expect_json();
    assert_eq!(
        inspected[0]["Containers"]["red"]["Ports"],
        json!({"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]})
    );

    let gone = lab.weft(["port", "unpublish", "red", "8080:80"]);
    assert_eq!(gone.expect_ok(), published.stdout);
    for host in HOST {
        assert!(falls_silent(&outside, host, 8080));
    }
    assert!(listed(&lab, &[]).is_empty());
    // What the network needs for published ports stays with it.
    let (left, now) = (lab.snapshot(), lab.ruleset());
    let added = before.difference(&left);
    assert!(!added.contains("8080") && !now.contains("8080"), "{added}{now}");
    lab.weft(["port", "unpublish", "red", "8080:80"])
        .expect_failure(3, &["red", "8080:80", "weft port ls red"]);
}

#[test]
fn a_port_comes_and_goes_under_traffic() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "7000:7000", "-p", "8081:80"]);
    let _service = red.serve_tcp(80);
    for host in HOST {
        let mut call = conversation(&outside, &red, host, [7000; 2]);
        let (comes_and_goes, stays) = (outside.load_tcp(ip(host), 8080), outside.load_tcp(ip(host), 8081));
        for round in 0..3 {
            assert!(comes_and_goes.from_now(1).iter().all(Option::is_none), "{host}, round {round}");
            lab.weft(["port", "publish", "red", "8080:80"]).expect_ok();
            let answers = comes_and_goes.from_now(3);
            assert!(answers.iter().all(|by| by.as_deref() == Some("red")), "{host}: {answers:?}");
            call.goes_on();
            lab.weft(["port", "unpublish", "red", "8080:80"]).expect_ok();
            assert!(falls_silent(&outside, host, 8080));
            call.goes_on();
        }
        assert!(stays.next(4).iter().all(|by| by.as_deref() == Some("red")), "{host}");
        call.goes_on();
    }
}

#[test]
fn ports_come_with_the_connection_and_go_with_it() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    lab.weft(["network", "ls"]).expect_ok();
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        lab.set_sysctl(key, "1");
    }
    let before = lab.snapshot();
    create(&lab, 90, "blue", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "8080:80", "-p", "127.0.0.1:5353:53/udp"]);
    let (_tcp, _udp) = (red.serve_tcp(80), red.serve_udp(53));
    answers(&outside, HOST[0], 8080, "red", OUTSIDE[0]);
    assert_eq!(lab.ask_udp(ip("127.0.0.1"), 5353).unwrap().by, "red");
    assert_eq!(
        listed(&lab, &["red"]),
        ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "127.0.0.1:5353->53/udp"]
    );

    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert!(falls_silent(&outside, HOST[0], 8080));
    assert!(listed(&lab, &[]).is_empty());
    let green = connected(&lab, "blue", "green", &["-p", "8080:81"]);
    let _service = green.serve_tcp(81);
    answers(&outside, HOST[0], 8080, "green", OUTSIDE[0]);
    green.vanish();
    lab.weft(["network", "rm", "-f", "blue"]).expect_ok();
    lab.assert_restored(&before);
}

#[test]
fn free_ports_are_found_and_told() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "8000:80"]);
    let _service = red.serve_tcp(80);

    let chosen = lab.weft(["port", "publish", "red", "127.0.0.1::80"]).expect_ok().to_string();
    let port: u16 = chosen.strip_prefix("127.0.0.1:").unwrap().split('-').next().unwrap().parse().unwrap();
    let range = lab.sysctl("ipv4/ip_local_port_range");
    let mut ends = range.split_whitespace().map(|end| end.parse::<u16>().unwrap());
    assert!((ends.next().unwrap()..=ends.next().unwrap()).contains(&port), "{chosen}");
    assert_eq!(lab.ask_tcp(ip("127.0.0.1"), port).unwrap().by, "red");

    let both = lab.weft(["port", "publish", "red", "81"]).expect_ok().to_string();
    let ports: Vec<&str> = both.lines().map(|line| line.rsplit_once(':').unwrap().1).collect();
    assert_eq!(ports.len(), 2, "{both}");
    assert_eq!(ports[0], ports[1], "one port for both families");

    let first = lab.weft(["port", "publish", "red", "8000-8009:80"]);
    assert_eq!(first.expect_ok(), "0.0.0.0:8001->80/tcp\n[::]:8001->80/tcp\n");
    answers(&outside, HOST[0], 8001, "red", OUTSIDE[0]);
    lab.weft(["port", "publish", "red", "8000-8001:80"]).expect_failure(4, &["8000-8001"]);
}

#[test]
fn a_range_is_one_publication() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "9000-9999:9000-9999", "-p", "7000-7009:80-89"]);
    let _services = [9000, 9123, 9999, 80, 85, 89].map(|port| red.serve_tcp(port));
    for (outer, inner) in [(9000, 9000), (9123, 9123), (9999, 9999), (7000, 80), (7005, 85), (7009, 89)] {
        for host in HOST {
            let answer = outside.ask_tcp(ip(host), outer).ok();
            assert_eq!(answer.map(|answer| answer.port), Some(inner), "{host} port {outer}");
        }
    }
    silent(&outside, HOST[0], 7010);
    assert!(listed(&lab, &[]).contains(&"0.0.0.0:9000-9999->9000-9999/tcp".to_string()));
    lab.weft(["port", "publish", "red", "9500:1"]).expect_failure(4, &["red", "blue"]);
    lab.weft(["port", "unpublish", "red", "9000-9999:9000-9999"]).expect_ok();
    assert!(falls_silent(&outside, HOST[0], 9123));
    assert_eq!(outside.ask_tcp(ip(HOST[0]), 7005).unwrap().port, 85, "the other range stays");
}

#[test]
fn a_port_has_one_holder_and_the_refusal_names_it() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "8080:80"]);
    let _service = red.serve_tcp(80);
    lab.container("green");
    let before = lab.snapshot();
    lab.weft(["network", "connect", "-p", "8080:80", "blue", "green"])
        .expect_failure(4, &["8080", "red", "blue"]);
    lab.assert_restored(&before);

    connect(&lab, "blue", "green", &[]);
    let before = lab.snapshot();
    for port in ["8080:80", "127.0.0.1:8080:81", "8000-8100:8000-8100"] {
        lab.weft(["port", "publish", "green", "9090:90", port]).expect_failure(4, &["red", "blue"]);
    }
    lab.assert_restored(&before);
    answers(&outside, HOST[0], 8080, "red", OUTSIDE[0]);
    lab.weft(["port", "publish", "green", "8080:80/udp"]).expect_ok();
    lab.weft(["port", "publish", "red", "8080:81"]).expect_failure(4, &["8080/tcp", "red", "blue"]);

    let _taken = lab.serve_tcp(7070);
    lab.weft(["port", "publish", "green", "7070:70"]).expect_failure(4, &["7070"]);
    assert_eq!(lab.ask_tcp(ip("127.0.0.1"), 7070).unwrap().by, "host");
}

#[test]
fn only_those_who_may_come_in_do() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    outside.ip("address add 192.0.2.3/24 dev eth0");
    create(&lab, 90, "blue", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "8080:80,from=192.0.2.3", "-p", "8081:80"]);
    let _service = red.serve_tcp(80);
    for host in HOST {
        silent(&outside, host, 8080);
    }
    answers(&outside, HOST[0], 8081, "red", OUTSIDE[0]);
    assert_eq!(listed(&lab, &[]), ["0.0.0.0:8080->80/tcp", "0.0.0.0:8081->80/tcp", "[::]:8081->80/tcp"]);
    let from = lab.weft(["port", "ls", "--format", "{{.From}}"]);
    assert_eq!(from.expect_ok().lines().next(), Some("192.0.2.3/32"));

    lab.weft(["port", "unpublish", "red", "8080:80"]).expect_ok();
    let sources = "8080:80,from=192.0.2.0/24,from=2001:db8:ffff::/64";
    lab.weft(["port", "publish", "red", sources]).expect_ok();
    for (host, outer) in HOST.into_iter().zip(OUTSIDE) {
        answers(&outside, host, 8080, "red", outer);
    }
    lab.weft(["port", "publish", "red", "8082:80,from=198.51.100.0/24"]).expect_ok();
    silent(&outside, HOST[0], 8082);
    assert_eq!(lab.ask_tcp(ip("127.0.0.1"), 8082).unwrap().by, "red", "the host itself may");
}

#[test]
fn what_cannot_be_published_leaves_nothing() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    lab.weft(["network", "create", "--subnet", "10.91.0.0/24", "four"]).expect_ok();
    lab.weft(["network", "create", "--internal", "--subnet", "10.92.0.0/24", "inner"]).expect_ok();
    connected(&lab, "blue", "red", &[]);
    connected(&lab, "four", "green", &[]);
    connected(&lab, "inner", "brown", &[]);
    lab.container("grey");
    let before = lab.snapshot();
    let refused = |container: &str, ports: &[&str], code: i32, words: &[&str]| {
        let all = ["port", "publish", container].into_iter().chain(ports.iter().copied());
        lab.weft(all).expect_failure(code, words);
        lab.assert_restored(&before);
    };
    refused(
        "red",
        &["8080:0"],
        2,
        &["invalid containerPort: 0: port 0 cannot be published\nhint: [[IP:][HOSTPORT"],
    );
    refused("red", &["0"], 2, &["invalid containerPort: 0"]);
    refused("red", &["8080:90-80"], 2, &["invalid containerPort: 90-80: the range 90-80 is reversed"]);
    refused("red", &["90-80:80-90"], 2, &["invalid hostPort: 90-80: the range 90-80 is reversed"]);
    refused("red", &["65530-65540:1-11"], 2, &["invalid hostPort: 65530-65540"]);
    refused("red", &["70000:80"], 2, &["invalid hostPort: 70000"]);
    refused("red", &["8000-8001:90-92"], 2, &["invalid ranges", "90-92 and 8000-8001"]);
    refused("red", &["80/icmp"], 2, &["invalid proto: icmp"]);
    refused("red", &["8080:80", "8080:80"], 2, &["8080:80/tcp", "twice"]);
    refused("red", &["8080:80", "8000-9000:1000-2000"], 2, &["twice"]);
    refused("red", &["203.0.113.9:8080:80"], 2, &["203.0.113.9", "host"]);
    refused("green", &["[::1]:8080:80"], 2, &["green", "[::1]:8080:80", "no address of that family"]);
    refused("green", &["8080:80,from=fd00::/8"], 2, &["green", "no address of that family"]);
    refused("brown", &["8080:80"], 2, &["inner", "internal"]);
    refused("grey", &["8080:80"], 3, &["grey", "not connected", "weft network connect"]);
    refused("nobody", &["8080:80"], 3, &["nobody"]);

    let connect = |more: &[&str], network: &str, code: i32, words: &[&str]| {
        let all = ["network", "connect"].into_iter().chain(more.iter().copied()).chain([network, "grey"]);
        lab.weft(all).expect_failure(code, words);
        lab.assert_restored(&before);
    };
    connect(&["-p", "8080:80"], "inner", 2, &["inner", "internal"]);
    connect(&["-p", "8080:80", "-p", "8080:81"], "blue", 2, &["8080:81/tcp", "twice"]);
    connect(&["-p", "[::1]:8080:80"], "four", 2, &["grey", "no address of that family"]);
    connect(&["-p", "203.0.113.9:8080:80"], "blue", 2, &["203.0.113.9"]);
    connect(&["-p", "80/"], "nowhere", 3, &["nowhere"]);
    // Whoever asks for the network `none` makes its file.
    lab.weft(["network", "connect", "-p", "8080:80", "none", "grey"])
        .expect_failure(2, &["none", "no ports"]);
    assert!(!lab.weft(["ps"]).expect_ok().contains("grey"));
}

#[test]
fn networks_are_apart_but_for_their_published_ports() {
    let lab = Lab::new();
    lab.uplink_that_answers();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "8080:80"]);
    let green = connected(&lab, "pink", "green", &[]);
    let _services = (red.serve_tcp(80), red.serve_tcp(81));
    for address in ["10.90.0.2", "fd00:90::2"] {
        silent(&green, address, 80);
    }
    // It leaves its own network, so it comes with the host's address.
    answers(&green, HOST[0], 8080, "red", "10.90.0.1");
    answers(&green, HOST[1], 8080, "red", "fd00:90::1");
    answers(&green, "10.91.0.1", 8080, "red", "10.90.0.1");
    silent(&green, HOST[0], 81);

    let neighbour = connected(&lab, "blue", "olive", &[]);
    assert_eq!(neighbour.ask_tcp(ip(HOST[0]), 8080).unwrap().by, "red", "from the same network");
    assert_eq!(red.ask_tcp(ip(HOST[0]), 8080).unwrap().by, "red", "from the container itself");
}

#[test]
fn containers_of_a_network_can_be_kept_apart() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &["-o", "icc=false"]);
    create(&lab, 91, "pink", &[]);
    let apart = ["red", "green"].map(|name| connected(&lab, "blue", name, &[]));
    let together = ["olive", "brown"].map(|name| connected(&lab, "pink", name, &[]));
    let _services = (apart[0].serve_tcp(80), together[0].serve_tcp(80));
    for ([_, other], number, expected) in [(&apart, 90, false), (&together, 91, true)] {
        let routes = [
            (format!("10.{number}.0.2"), 32, format!("10.{number}.0.1")),
            (format!("fd00:{number}::2"), 128, format!("fd00:{number}::1")),
        ];
        for (address, length, gateway) in routes {
            let reached = || other.ask_tcp(ip(&address), 80).is_ok();
            assert_eq!(reached(), expected, "{address}");
            other.ip(&format!("route add {address}/{length} via {gateway}"));
            assert_eq!(reached(), expected, "{address} by way of the host");
        }
        assert!(other.ping(OUTSIDE[0]), "the way out stays open");
    }
    lab.weft(["port", "publish", "red", "8080:80"]).expect_ok();
    answers(&outside, HOST[0], 8080, "red", OUTSIDE[0]);
}

/// Whether bridged frames pass IP's hooks decides where addresses are translated, and nothing else.
fn apart_but_for_published_ports(switch: &str) {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    for program in ["iptables", "ip6tables"] {
        let key = format!("bridge/bridge-nf-call-{program}");
        skip_unless!(Path::new("/proc/sys/net").join(&key).exists(), "br_netfilter");
        lab.set_sysctl(&key, switch);
    }
    create(&lab, 90, "blue", &["-o", "icc=false"]);
    let red = connected(&lab, "blue", "red", &["-p", "8080:80"]);
    let green = connected(&lab, "blue", "green", &[]);
    let _services = (red.serve_tcp(80), red.serve_udp(80), green.serve_tcp(80));
    let apart = || {
        for address in ["10.90.0.2", "fd00:90::2"] {
            silent(&green, address, 80);
        }
    };
    apart();
    assert!(green.ask_udp(ip("10.90.0.2"), 80).is_err());
    silent(&red, "10.90.0.3", 80);
    for (host, gateway) in HOST.into_iter().zip(["10.90.0.1", "fd00:90::1"]) {
        answers(&green, host, 8080, "red", gateway);
        answers(&green, gateway, 8080, "red", gateway);
        answers(&red, host, 8080, "red", gateway);
    }
    answers(&outside, HOST[0], 8080, "red", OUTSIDE[0]);
    assert_eq!(lab.ask_tcp(ip("127.0.0.1"), 8080).unwrap().by, "red");
    lab.weft(["port", "publish", "green", "8081:80"]).expect_ok();
    answers(&red, HOST[0], 8081, "green", "10.90.0.1");
    silent(&red, "10.90.0.3", 80);
    apart();
    lab.weft(["doctor"]).expect_ok();

    lab.sh("nft flush ruleset").expect_ok();
    let told = lab.weft(["doctor"]);
    assert_eq!(told.code, 1, "{told}");
    lab.weft(["network", "reload"]).expect_ok();
    silent(&green, "10.90.0.2", 80);
    answers(&green, HOST[0], 8080, "red", "10.90.0.1");
    lab.sh("nft delete table bridge weft").expect_ok();
    let told = lab.weft(["doctor"]);
    assert_eq!(told.stdout.contains("chain bridge weft forward"), switch == "1", "{told}");
    for name in ["red", "green"] {
        lab.weft(["network", "disconnect", "blue", name]).expect_ok();
    }
    lab.weft(["network", "rm", "blue"]).expect_ok();
    assert!(!lab.ruleset().contains("table bridge weft"), "{}", lab.ruleset());
}

#[test]
fn containers_apart_reach_published_ports() {
    apart_but_for_published_ports("0");
}

#[test]
fn containers_apart_reach_published_ports_where_bridged_frames_pass_ip() {
    apart_but_for_published_ports("1");
}

#[test]
fn ports_follow_the_default_route() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &[]);
    let red = connected(&lab, "blue", "red", &["-p", "8080:80,from=192.0.2.0/24", "-p", "80"]);
    let _service = red.serve_tcp(80);
    answers(&outside, HOST[0], 8080, "red", OUTSIDE[0]);
    let at = || {
        let rows = lab.weft(["port", "ls", "--format", "{{.Network}} {{.Port}} {{.From}}"]);
        rows.expect_ok().lines().map(String::from).collect::<Vec<_>>()
    };
    let on_blue = at();
    assert_eq!(on_blue.len(), 3, "{on_blue:?}");
    assert_eq!(on_blue[0], "blue 0.0.0.0:8080->80/tcp 192.0.2.0/24");

    // A network that does not lead out changes nothing.
    connect(&lab, "pink", "red", &["--gw-priority", "-1"]);
    assert_eq!(at(), on_blue);
    lab.weft(["port", "publish", "red", "8081:80"]).expect_ok();
    assert!(at().iter().all(|row| row.starts_with("blue ")), "{:?}", at());
    answers(&outside, HOST[0], 8081, "red", OUTSIDE[0]);
    let all_on_blue = at();
    lab.weft(["network", "disconnect", "pink", "red"]).expect_ok();
    assert_eq!(at(), all_on_blue);

    // One that does takes the ports along, with everything that was said and chosen about them.
    connect(&lab, "pink", "red", &["--gw-priority", "10", "-p", "8082:80"]);
    let mut moved: Vec<String> = all_on_blue.iter().map(|row| row.replace("blue", "pink")).collect();
    moved.extend(["pink 0.0.0.0:8082->80/tcp ".to_string(), "pink [::]:8082->80/tcp ".to_string()]);
    let (mut now, mut expected) = (at(), moved.clone());
    now.sort();
    expected.sort();
    assert_eq!(now, expected);
    for port in [8080, 8081, 8082] {
        answers(&outside, HOST[0], port, "red", OUTSIDE[0]);
    }
    answers(&outside, HOST[1], 8082, "red", OUTSIDE[1]);

    lab.weft(["network", "disconnect", "pink", "red"]).expect_ok();
    let mut back: Vec<String> = moved.iter().map(|row| row.replace("pink", "blue")).collect();
    let mut now = at();
    now.sort();
    back.sort();
    assert_eq!(now, back);
    for port in [8080, 8081, 8082] {
        answers(&outside, HOST[0], port, "red", OUTSIDE[0]);
    }
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert!(at().is_empty());
}

#[test]
fn a_network_without_a_port_plugin_says_what_is_missing() {
    let lab = Lab::new();
    lab.container("red");
    let conf = json!({
        "cniVersion": "1.1.0", "name": "hand",
        "plugins": [{"type": "bridge", "bridge": "br-hand", "isDefaultGateway": true, "ipMasq": true,
            "capabilities": {"ips": true},
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.93.0.0/24"}]]}}],
    });
    lab.write("/etc/weft/networks.d/hand.conflist", conf.to_string());
    let hint = r#"append {"type": "portmap", "capabilities": {"portMappings": true}}"#;
    lab.weft(["network", "connect", "-p", "8080:80", "hand", "red"]).expect_failure(2, &["hand", hint]);
    connect(&lab, "hand", "red", &[]);
    lab.weft(["port", "publish", "red", "8080:80"]).expect_failure(2, &["hand", hint, "hand.conflist"]);
    let mut conf = conf;
    conf["plugins"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "portmap", "capabilities": {"portMappings": true}}));
    lab.write("/etc/weft/networks.d/hand.conflist", conf.to_string());
    lab.weft(["port", "publish", "red", "8080:80"]).expect_ok();
    let red = lab.weft(["port", "ls", "red"]);
    assert!(red.expect_ok().contains("0.0.0.0:8080->80/tcp"), "{red}");
    lab.weft(["network", "disconnect", "hand", "red"]).expect_ok();
    assert!(listed(&lab, &[]).is_empty());
}

#[test]
fn the_usual_host_address_is_the_networks() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    create(&lab, 90, "blue", &["-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1"]);
    let red = connected(&lab, "blue", "red", &["-p", "8080:80", "-p", "192.0.2.1:8081:80"]);
    let _service = red.serve_tcp(80);
    assert_eq!(listed(&lab, &[]), ["127.0.0.1:8080->80/tcp", "192.0.2.1:8081->80/tcp"]);
    assert_eq!(lab.ask_tcp(ip("127.0.0.1"), 8080).unwrap().by, "red");
    silent(&outside, HOST[0], 8080);
    answers(&outside, HOST[0], 8081, "red", OUTSIDE[0]);
}

#[test]
fn a_first_connection_whose_port_is_taken_leaves_nothing() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    connected(&lab, "blue", "red", &["-p", "8080:80"]);
    lab.weft(["network", "create", "--subnet", "10.91.0.0/24", "-o", "bridge=br-pink", "pink"]).expect_ok();
    lab.container("green");
    let before = (lab.ruleset(), lab.ip("-brief link"));
    lab.weft(["network", "connect", "-p", "8080:80", "pink", "green"]).expect_failure(4, &["8080", "red"]);
    assert_eq!((lab.ruleset(), lab.ip("-brief link")), before, "nothing is left of the try");

    lab.weft(["network", "connect", "-p", "8081:80", "pink", "green"]).expect_ok();
    assert!(lab.ip("-brief link").contains("br-pink"), "it would have been seen");
}

#[test]
fn more_ports_to_choose_than_there_are_are_refused_at_once() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "open", &["-o", "gateway_mode_ipv4=routed", "-o", "gateway_mode_ipv6=routed"]);
    lab.set_sysctl("ipv4/ip_local_port_range", "40000 40009");
    lab.set_sysctl("ipv4/ip_local_reserved_ports", "40005");
    let red = connected(&lab, "blue", "red", &["-p", "8080:80"]);
    let before = lab.snapshot();
    for ports in [&["1-65535"][..], &["1-10"], &["1-5", "11-15"], &["[::]::1-10"]] {
        let words = ["port", "publish", "red"].into_iter().chain(ports.iter().copied());
        // What the manager says, and not the plugin.
        let output = lab.weft(words);
        output.expect_failure(4, &["cannot publish", "40000-40009 has 9", "-p FIRST-LAST:FIRST-LAST"]);
        lab.assert_restored(&before);
    }
    lab.container("grey");
    let before = lab.snapshot();
    lab.weft(["network", "connect", "-p", "1-65535", "blue", "grey"])
        .expect_failure(4, &["cannot publish 1-65535/tcp: that is 65535 ports", "40000-40009 has 9"]);
    lab.assert_restored(&before);

    // As many as there are, and as many of another protocol.
    lab.weft(["port", "publish", "red", "1-9", "1-9/udp"]).expect_ok();
    let _service = red.serve_tcp(9);
    assert_eq!(lab.ask_tcp(ip("127.0.0.1"), 40009).unwrap().by, "red");
    // Where nothing is translated, nothing is chosen.
    connected(&lab, "open", "green", &["-p", "1-20"]);
    assert!(lab.weft(["port", "ls", "green"]).expect_ok().contains("20/tcp"));
}
