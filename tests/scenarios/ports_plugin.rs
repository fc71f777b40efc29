//! `portmap` as a plugin: what it refuses, what it leaves, what it says.

use serde_json::{Value, json};
use weft_testkit::{Lab, Snapshot, falls_silent, until};

use crate::ports::{HOST, Net, books, by, entry, host_ports, ip, tcp, udp};

/// The host's ports that the firewall knows, by the words of `nft`.
fn in_the_firewall(lab: &Lab, port: u16) -> bool {
    lab.sh("nft list table inet weft").stdout.contains(&port.to_string())
}

/// KERNEL: an element that is told to expire is listed until the next jiffy, 10 ms at most.
fn leaves_the_firewall(lab: &Lab, port: u16) -> bool {
    (0..50).any(|_| !in_the_firewall(lab, port))
}

#[test]
fn bad_input_is_an_error_and_leaves_nothing() {
    let lab = Lab::new();
    let net = Net::of(&lab, "blue", 1, &["10.1.0.0/24"]);
    let red = lab.container("red");
    let previous = net.connect(&red);
    let before = lab.snapshot();
    let table: [(Value, u64, &str); 19] = [
        (json!([tcp(0, 80)]), 7, "Invalid host port number: 0"),
        (json!([tcp(8080, 0)]), 7, "Invalid container port number: 0"),
        (json!([{"containerPort": 80}]), 7, "Invalid host port number: 0"),
        (json!([{"hostPort": 80, "containerPort": 70000}]), 7, "Invalid container port number: 70000"),
        (json!([entry(8000, 80, json!({"range": 0}))]), 7, "invalid range 0"),
        (json!([entry(8000, 80, json!({"range": -10}))]), 7, "invalid range -10"),
        (json!([entry(60000, 80, json!({"range": 10000}))]), 7, "10000 ports from 60000 go past port 65535"),
        (json!([entry(80, 60000, json!({"range": 10000}))]), 7, "10000 ports from 60000 go past port 65535"),
        (json!([entry(80, 80, json!({"protocol": "icmp"}))]), 7, "invalid protocol \"icmp\""),
        (json!([entry(80, 80, json!({"protocol": "tcp,udp"}))]), 7, "invalid protocol \"tcp,udp\""),
        (
            json!([entry(80, 80, json!({"hostIP": "203.0.113.9"}))]),
            102,
            "203.0.113.9 is not an address of this host",
        ),
        (json!([entry(80, 80, json!({"hostIP": "here"}))]), 7, "invalid hostIP \"here\""),
        (json!([entry(80, 80, json!({"hostIP": "::1"}))]), 102, "the container has no IPv6 address"),
        (json!([entry(80, 80, json!({"from": ["fd00::/8"]}))]), 102, "no address of its sources' family"),
        (json!([entry(80, 80, json!({"from": ["x"]}))]), 7, "invalid source \"x\""),
        (json!([tcp(80, 80), tcp(80, 80)]), 7, "port 80/tcp of 0.0.0.0 is asked for twice"),
        (json!([entry(80, 80, json!({"range": 10})), tcp(85, 1)]), 7, "is asked for twice"),
        (json!([tcp(80, 80), entry(80, 1, json!({"hostIP": "127.0.0.1"}))]), 7, "is asked for twice"),
        (json!([{"hostPort": "80", "containerPort": 80}]), 7, "hostPort"),
    ];
    for (mappings, code, words) in table {
        let refused = net.call(&previous, mappings.clone()).add(&red).expect_error(code);
        let said = refused["msg"].as_str().unwrap();
        assert!(said.contains(words), "{mappings} got {said:?}");
        assert_unchanged(&lab, &before, &mappings);
    }
    net.call(&previous, json!([tcp(8080, 80)])).add(&red).expect_ok();
    assert_ne!(lab.snapshot(), before, "ADD did nothing, so the comparisons prove nothing");
}

#[track_caller]
fn assert_unchanged(lab: &Lab, before: &Snapshot, what: &Value) {
    let now = lab.snapshot();
    assert!(now == *before, "{what} left something:\n{}", before.difference(&now));
}

#[test]
fn a_port_that_is_asked_for_twice_in_either_family_leaves_nothing() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let previous = net.connect(&red);
    let before = lab.snapshot();
    let at = |host: &str, port: u16| entry(port, 80, json!({"hostIP": host}));
    let range = |host: &str| entry(8000, 80, json!({"hostIP": host, "range": 100}));
    let table = [
        (json!([tcp(8080, 80), at("::", 8080)]), "port 8080/tcp of :: is asked for twice"),
        (json!([tcp(8080, 80), at("0.0.0.0", 8080)]), "port 8080/tcp of 0.0.0.0 is asked for twice"),
        (json!([at("::1", 8080), tcp(8080, 81)]), "asked for twice"),
        (json!([range("::"), at("::1", 8099)]), "asked for twice"),
        (json!([range("127.0.0.1"), tcp(8000, 1)]), "asked for twice"),
    ];
    for (mappings, words) in table {
        let refused = net.call(&previous, mappings.clone()).add(&red).expect_error(7);
        let said = refused["msg"].as_str().unwrap();
        assert!(said.contains(words), "{mappings} got {said:?}");
        assert_unchanged(&lab, &before, &mappings);
    }
    for apart in [json!([at("0.0.0.0", 8080), at("::", 8080)]), json!([range("127.0.0.1"), range("::1")])] {
        net.call(&previous, apart.clone()).add(&red).expect_ok();
        assert_ne!(lab.snapshot(), before, "{apart}");
        net.withdraw(&red);
    }
}

#[test]
fn a_host_address_of_another_host_may_be_published_when_asked_for() {
    let lab = Lab::new();
    let mut net = Net::new(&lab, "blue", 1);
    net.portmap = json!({"allowForeignHostIP": true});
    let red = lab.container("red");
    let _service = red.serve_tcp(80);
    net.publish(&red, json!([entry(8080, 80, json!({"hostIP": "192.0.2.9"}))]));
    // It comes later, as an address that moves between hosts does.
    let outside = lab.uplink();
    assert!(outside.ask_tcp(ip("192.0.2.9"), 8080).is_err());
    lab.ip("address add 192.0.2.9/24 dev uplink0");
    // The outside asks for the neighbour once a second.
    let answered = || outside.ask_tcp(ip("192.0.2.9"), 8080).is_ok_and(|answer| answer.by == "red");
    until("the outside knows the neighbour", answered);
}

#[test]
fn everything_goes_with_the_network() {
    let lab = Lab::new();
    lab.uplink();
    let before = lab.snapshot();
    let net = Net::new(&lab, "blue", 1);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let mappings = json!([tcp(8080, 80), udp(5353, 53), entry(9000, 1000, json!({"range": 500}))]);
    net.publish(&red, mappings);
    net.publish(&green, json!([entry(7070, 80, json!({"from": ["192.0.2.0/24"]}))]));
    for port in [8080, 5353, 9000, 7070] {
        assert!(in_the_firewall(&lab, port), "port {port}: {}", lab.ruleset());
    }

    net.disconnect(&red);
    net.disconnect(&green);
    net.gc(&[]);
    // The bridge turned forwarding on, which other networks may count on by now.
    lab.set_sysctl("ipv4/ip_forward", "0");
    lab.set_sysctl("ipv6/conf/all/forwarding", "0");
    lab.assert_restored(&before);
}

/// ADD again is how ports are published and withdrawn on a running container.
#[test]
fn add_publishes_exactly_what_it_is_told() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let _services = (red.serve_tcp(80), red.serve_tcp(81));
    let previous = net.connect(&red);
    let answers = |port| outside.ask_tcp(ip(HOST[0]), port).map(|answer| answer.port).ok();
    let steps: [(Value, [Option<u16>; 3]); 6] = [
        (json!([]), [None, None, None]),
        (json!([tcp(8080, 80)]), [Some(80), None, None]),
        (json!([tcp(8080, 80), tcp(8081, 81)]), [Some(80), Some(81), None]),
        (
            json!([tcp(8080, 81), tcp(8081, 81), entry(8082, 80, json!({"range": 5}))]),
            [Some(81), Some(81), Some(80)],
        ),
        (json!([entry(8081, 80, json!({"range": 2}))]), [None, Some(80), Some(81)]),
        (json!([]), [None, None, None]),
    ];
    for (mappings, expected) in steps {
        let result = net.call(&previous, mappings.clone()).add(&red).expect_json();
        assert_eq!(result, previous);
        for (port, expected) in [8080, 8081, 8082].into_iter().zip(expected) {
            let now = (0..50).map(|_| answers(port)).find(|now| *now == expected);
            assert_eq!(now, Some(expected), "{mappings}: port {port}");
        }
        net.call(&previous, mappings).check(&red).expect_ok();
    }
    assert_eq!(books(&lab, "red"), [""; 0]);
}

#[test]
fn a_taken_port_names_its_holder_in_every_combination() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    let other = Net::new(&lab, "green", 2);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let at = |host: &str| entry(8080, 80, json!({"hostIP": host}));
    let range = |first: u16, count: u16| entry(first, 80, json!({"range": count}));
    let previous = [net.connect(&red), other.connect(&green)];
    let table = [
        (tcp(8080, 80), tcp(8080, 81), true),
        (tcp(8080, 80), at("127.0.0.1"), true),
        (at("::1"), tcp(8080, 80), true),
        (at("127.0.0.1"), at("127.0.0.1"), true),
        (at("127.0.0.1"), at("127.0.0.2"), false),
        (at("127.0.0.1"), at("::"), false),
        (tcp(8080, 80), range(8000, 100), true),
        (range(8000, 100), tcp(8080, 80), true),
        (range(8000, 100), range(8099, 2), true),
        (range(8000, 100), range(8100, 2), false),
        (range(8000, 100), range(7990, 11), true),
        (range(8000, 100), range(8010, 10), true),
        (range(8000, 100), entry(8050, 80, json!({"range": 100, "hostIP": "::1"})), true),
        (entry(8050, 80, json!({"range": 100, "hostIP": "127.0.0.1"})), range(8000, 100), true),
        (tcp(8080, 80), udp(8080, 80), false),
        (udp(8080, 80), udp(8080, 80), true),
    ];
    for (held, wanted, collides) in table {
        net.call(&previous[0], json!([held])).add(&red).expect_ok();
        let before = lab.snapshot();
        let second = other.call(&previous[1], json!([wanted.clone()])).add(&green);
        if collides {
            let refused = second.expect_error(101);
            let said = refused["msg"].as_str().unwrap();
            assert!(said.contains("published by red on blue"), "{held} and {wanted}: {said}");
            assert_unchanged(&lab, &before, &wanted);
        } else {
            second.expect_ok();
        }
        other.withdraw(&green);
        net.withdraw(&red);
        other.call(&previous[1], json!([wanted])).add(&green).expect_ok();
        other.withdraw(&green);
    }
}

#[test]
fn a_port_the_host_listens_on_names_the_process() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let previous = net.connect(&red);
    let before = lab.snapshot();
    let service = lab.serve_tcp(8080);
    for mapping in
        [tcp(8080, 80), entry(8000, 80, json!({"range": 100})), entry(8080, 80, json!({"hostIP": "::1"}))]
    {
        let refused = net.call(&previous, json!([mapping.clone()])).add(&red).expect_error(101);
        let said = refused["msg"].as_str().unwrap();
        let process = format!("(process {})", std::process::id());
        assert!(said.contains("port 8080/tcp of") && said.contains(&process), "{said}");
        assert_unchanged(&lab, &before, &mapping);
    }
    net.call(&previous, json!([udp(8080, 80)])).add(&red).expect_ok();
    drop(service);
    net.call(&previous, json!([udp(8080, 80), tcp(8080, 80)])).add(&red).expect_ok();
    // What is published already is not looked for again: a process may listen there, in vain.
    let _service = lab.serve_tcp(8080);
    net.call(&previous, json!([udp(8080, 80), tcp(8080, 80), tcp(9090, 80)])).add(&red).expect_ok();
}

#[test]
fn a_choice_is_the_first_port_that_nobody_has() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let [red, green, white] = ["red", "green", "white"].map(|name| lab.container(name));
    let _service = lab.serve_tcp(8000);
    let choice = || entry(8000, 80, json!({"range": 4, "choose": true}));
    net.publish(&red, json!([tcp(8001, 80)]));
    net.publish(&green, json!([choice(), choice()]));
    assert_eq!(host_ports(&lab, "green"), [8002, 8003], "8000 is the host's and 8001 red's");
    let _services = green.serve_tcp(80);
    for host in HOST {
        assert_eq!(outside.ask_tcp(ip(host), 8003).unwrap().by, "green");
    }

    let previous = net.connect(&white);
    let before = lab.snapshot();
    let refused = net.call(&previous, json!([choice()])).add(&white).expect_error(101);
    assert!(refused["msg"].as_str().unwrap().contains("no tcp port of 8000-8003 is free"), "{refused}");
    assert_unchanged(&lab, &before, &choice());
    net.withdraw(&red);
    net.call(&previous, json!([choice()])).add(&white).expect_ok();
    assert_eq!(host_ports(&lab, "white"), [8001]);
}

#[test]
fn a_choice_stays_while_the_same_is_asked_for() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let any = json!({"containerPort": 80, "choose": true});
    let previous = net.publish(&red, json!([any]));
    let chosen = host_ports(&lab, "red");
    let range = lab.sysctl("ipv4/ip_local_port_range");
    let range: Vec<u16> = range.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!((range[0]..=range[1]).contains(&chosen[0]), "{chosen:?} of {range:?}");

    net.call(&previous, json!([any, tcp(8080, 81)])).add(&red).expect_ok();
    let with_another = host_ports(&lab, "red");
    assert!(with_another.contains(&chosen[0]) && with_another.contains(&8080), "{with_another:?}");
    net.call(&previous, json!([any])).check(&red).expect_ok();

    // The next one to choose gets the next port, not one that a client may still be talking to.
    net.withdraw(&red);
    net.call(&previous, json!([any])).add(&red).expect_ok();
    assert_ne!(host_ports(&lab, "red"), chosen);
}

#[test]
fn a_range_is_one_element() {
    let lab = Lab::new();
    let net = Net::of(&lab, "blue", 1, &["10.1.0.0/24"]);
    let red = lab.container("red");
    let elements = || {
        let listing: Value = serde_json::from_str(&lab.sh("nft -j list table inet weft").stdout).unwrap();
        let objects = listing["nftables"].as_array().unwrap();
        let count = |object: &Value| object["map"]["elem"].as_array().map_or(0, Vec::len);
        objects.iter().map(count).sum::<usize>()
    };
    let previous = net.publish(&red, json!([tcp(8080, 80)]));
    let one = elements();
    net.call(&previous, json!([entry(10_000, 20_000, json!({"range": 10_000}))])).add(&red).expect_ok();
    assert_eq!(elements(), one, "{}", lab.ruleset());
}

/// Runtimes tell a range as its ports, one by one.
#[test]
fn a_row_of_thousands_of_ports_is_one_range() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let _services = (red.serve_tcp(1000), red.serve_tcp(2999), red.serve_tcp(80));
    let previous = net.connect(&red);
    let mut row: Vec<Value> = (0..2000).map(|index| tcp(8000 + index, 1000 + index)).collect();
    row.push(tcp(443, 80));
    let call = |ports: &[Value]| net.call(&previous, json!(ports));
    call(&row).add(&red).expect_ok();
    let listed = books(&lab, "red");
    let v4: Vec<_> = listed.iter().filter(|line| line.contains("0.0.0.0")).map(String::as_str).collect();
    assert_eq!(v4, ["tcp 0.0.0.0 8000-9999 -> 10.1.0.2 1000-2999", "tcp 0.0.0.0 443 -> 10.1.0.2 80"]);
    for port in [8000, 9999, 443] {
        assert_eq!(by(&outside, port).as_deref(), Some("red"), "{port}");
    }
    call(&row).check(&red).expect_ok();
    let green = lab.container("green");
    let other = net.connect(&green);
    let refused = net.call(&other, json!([tcp(8500, 80)])).add(&green).expect_error(101);
    assert_eq!(refused["msg"], "port 8000-9999/tcp of 0.0.0.0 is published by red on blue");

    // With a hole in it, it is two, and the port in the hole is anybody's.
    row.remove(500);
    call(&row).add(&red).expect_ok();
    assert!(books(&lab, "red").contains(&"tcp 0.0.0.0 8501-9999 -> 10.1.0.2 1501-2999".into()));
    assert_eq!(by(&outside, 9999).as_deref(), Some("red"));
    net.call(&other, json!([tcp(8500, 80)])).add(&green).expect_ok();
    net.withdraw(&red);
    assert!(falls_silent(&outside, HOST[0], 9999) && books(&lab, "red").is_empty());
}

#[test]
fn check_finds_whatever_is_missing() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let mappings = json!([
        tcp(8080, 80),
        udp(5353, 53),
        entry(9000, 1000, json!({"range": 50})),
        entry(7070, 80, json!({"from": ["192.0.2.0/24"]})),
    ]);
    let previous = net.publish(&red, mappings.clone());
    let check = || net.call(&previous, mappings.clone()).check(&red);
    let again = || net.call(&previous, mappings.clone()).add(&red).expect_ok().to_string();
    check().expect_ok();

    let listing: Value = serde_json::from_str(&lab.sh("nft -j list table inet weft").stdout).unwrap();
    let filled = |object: &Value| {
        let set = if object["map"].is_null() { &object["set"] } else { &object["map"] };
        set["elem"].as_array().filter(|elements| !elements.is_empty())?;
        set["name"].as_str().map(String::from)
    };
    let sets: Vec<String> = listing["nftables"].as_array().unwrap().iter().filter_map(filled).collect();
    let ours = |set: &&String| {
        ["publish", "restricted", "allowed", "hairpin"].iter().any(|kind| set.starts_with(kind))
    };
    let sets: Vec<&String> = sets.iter().filter(ours).collect();
    assert!(sets.len() >= 7, "{sets:?} of {}", lab.ruleset());
    for set in sets {
        lab.sh(&format!("nft flush set inet weft {set} || nft flush map inet weft {set}")).expect_ok();
        assert_ne!(check().code, 0, "CHECK did not miss the elements of {set}");
        again();
        check().expect_ok();
    }
    lab.set_sysctl("ipv4/conf/br1/route_localnet", "0");
    let missed = check().expect_error(999);
    assert!(missed["msg"].as_str().unwrap().contains("route_localnet"), "{missed}");
    again();
    check().expect_ok();
    lab.sh("nft delete table inet weft").expect_ok();
    assert_ne!(check().code, 0);
    again();
    net.bridge().add(&lab.container("other")).expect_ok();
    check().expect_ok();
}

#[test]
fn gc_keeps_what_is_valid_and_takes_the_rest() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let other = Net::new(&lab, "green", 2);
    let [red, white, black] = ["red", "white", "black"].map(|name| lab.container(name));
    let _services = (white.serve_tcp(80), black.serve_tcp(80));
    net.publish(&red, json!([tcp(8080, 80), udp(8080, 80)]));
    net.publish(&white, json!([tcp(9090, 80)]));
    other.publish(&black, json!([tcp(7070, 80)]));
    assert!(in_the_firewall(&lab, 8080));
    red.vanish();

    net.gc(&[("white", "eth0")]);

    assert!(leaves_the_firewall(&lab, 8080), "{}", lab.ruleset());
    assert_eq!(books(&lab, "red"), [""; 0]);
    assert_eq!(outside.ask_tcp(ip(HOST[0]), 9090).unwrap().by, "white");
    assert_eq!(outside.ask_tcp(ip(HOST[1]), 7070).unwrap().by, "black", "another network's");
}

#[test]
fn gc_without_a_list_and_status_say_what_they_should() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    net.publish(&red, json!([tcp(8080, 80)]));
    let before = lab.snapshot();
    let call = net.call(&Value::Null, json!([])).env("CNI_COMMAND", "GC").env("CNI_PATH", "/nowhere");
    call.bare().expect_error(7);
    net.call(&Value::Null, json!([])).status().expect_ok();
    lab.assert_restored(&before);
    let status = |backend: &str, path: &str| {
        let conf = json!({"cniVersion": "1.1.0", "name": "blue", "type": "portmap", "backend": backend});
        lab.plugin("portmap").json(&conf).env("PATH", path).status()
    };
    status("pigeons", "/usr/sbin").expect_error(7);
    for (backend, program) in [("iptables", "iptables"), ("nftables", "nft")] {
        status(backend, "/usr/sbin").expect_ok();
        let lacking = status(backend, "/nowhere").expect_error(50);
        assert!(lacking["msg"].as_str().unwrap().contains(program), "{lacking}");
    }
    status("weft", "/nowhere").expect_ok();
}

/// DEL with whatever is left: no namespace, no previous result, no sound configuration.
#[test]
fn del_needs_the_endpoint_alone() {
    let lab = Lab::new();
    let net = Net::new(&lab, "blue", 1);
    for (round, conf) in [
        json!({}),
        json!({"runtimeConfig": {"portMappings": [{"hostPort": -1}]}}),
        json!({"runtimeConfig": {"portMappings": "all"}}),
        json!({"backend": "pigeons", "markMasqBit": 99}),
        json!({"prevResult": {"cniVersion": "0.1.0", "ip4": {"ip": "bad"}}}),
    ]
    .into_iter()
    .enumerate()
    {
        let red = lab.container(&format!("red{round}"));
        net.publish(&red, json!([tcp(8080, 80)]));
        assert!(in_the_firewall(&lab, 8080));
        red.vanish();
        let mut conf = conf;
        conf["cniVersion"] = json!("1.1.0");
        conf["name"] = json!("blue");
        conf["type"] = json!("portmap");
        let call = lab.plugin("portmap").json(&conf).netns("");
        call.del(&red).expect_ok();
        assert!(leaves_the_firewall(&lab, 8080), "{conf}: {}", lab.ruleset());
        call.del(&red).expect_ok();
    }
}

/// Behind `ptp` the way to a container is a link of its own: what calls from loopback need of it goes with the container.
#[test]
fn a_container_with_a_link_of_its_own_leaves_nothing() {
    let lab = Lab::new();
    lab.uplink();
    let before = lab.snapshot();
    let ptp = json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "ptp",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]},
    });
    let portmap = |port: u16, previous: &Value| {
        lab.plugin("portmap").json(&json!({
            "cniVersion": "1.1.0", "name": "n1", "type": "portmap", "prevResult": previous,
            "runtimeConfig": {"portMappings": [tcp(port, 80)]},
        }))
    };
    let claims = || {
        let names = std::fs::read_dir(lab.path("run/weft/masquerade/networks/n1")).unwrap();
        names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>().join(" ")
    };
    let (red, green) = (lab.container("red"), lab.container("green"));
    let [(of_red, first), (of_green, second)] = [(&red, 8080), (&green, 9090)].map(|(container, port)| {
        let previous = lab.plugin("ptp").json(&ptp).add(container).expect_json();
        portmap(port, &previous).add(container).expect_ok();
        portmap(port, &previous).check(container).expect_ok();
        let link = previous["interfaces"][0]["name"].as_str().unwrap().to_string();
        (link, previous)
    });
    for link in [&of_red, &of_green] {
        assert!(
            lab.ruleset().contains(link) && claims().contains(link),
            "{link}: {}{}",
            lab.ruleset(),
            claims()
        );
    }
    portmap(9090, &second).del(&green).expect_ok();
    lab.plugin("ptp").json(&ptp).del(&green).expect_ok();
    assert!((0..50).any(|_| !lab.ruleset().contains(&of_green)), "{}", lab.ruleset());
    assert!(!claims().contains(&of_green), "{}", claims());
    assert!(lab.ruleset().contains(&of_red) && claims().contains(&of_red));
    portmap(8080, &first).check(&red).expect_ok();
    portmap(8080, &first).del(&red).expect_ok();
    lab.plugin("ptp").json(&ptp).del(&red).expect_ok();
    portmap(8080, &Value::Null).gc(&[]).expect_ok();
    lab.plugin("ptp").json(&ptp).gc(&[]).expect_ok();
    // ptp turned forwarding on, which other networks may count on by now.
    lab.set_sysctl("ipv4/ip_forward", "0");
    lab.set_sysctl("ipv6/conf/all/forwarding", "0");
    lab.assert_restored(&before);
}
