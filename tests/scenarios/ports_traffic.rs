//! Published ports as traffic: who reaches them from where, and whom the container takes for the caller.

use std::time::Duration;

use serde_json::{Value, json};
use weft_nft::conntrack::{Tuple, Whose, forget};
use weft_testkit::{Container, Lab};

use crate::ports::{HOST, Net, OUTSIDE, entry, ip, tcp, udp};

const SCTP: u8 = 132;

/// Asks both services at a host address, TCP at 8080 and UDP at 5353.
macro_rules! ask {
    ($from:expr, $host:expr) => {
        [$from.ask_tcp(ip($host), 8080), $from.ask_udp(ip($host), 5353)]
    };
}

/// A host with a network, and red behind TCP port 8080 and UDP port 5353.
fn published(lab: &Lab) -> (Net<'_>, Container) {
    let net = Net::new(lab, "blue", 1);
    let red = lab.container("red");
    net.publish(&red, json!([tcp(8080, 80), udp(5353, 53)]));
    (net, red)
}

#[test]
fn the_outside_reaches_a_port_and_is_seen_as_itself() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let _services = (red.serve_tcp(80), red.serve_udp(53));
    assert!(
        HOST.iter().all(|host| ask!(outside, host).iter().all(Result::is_err)),
        "it is not published yet"
    );

    net.publish(&red, json!([tcp(8080, 80), udp(5353, 53)]));
    for (host, caller) in HOST.into_iter().zip(OUTSIDE) {
        let [by_tcp, by_udp] = ask!(outside, host).map(Result::unwrap);
        assert_eq!((by_tcp.by.as_str(), by_tcp.port, by_tcp.caller), ("red", 80, ip(caller)));
        assert_eq!((by_udp.by.as_str(), by_udp.port, by_udp.caller), ("red", 53, ip(caller)));
    }

    net.withdraw(&red);
    assert!(HOST.iter().all(|host| ask!(outside, host).iter().all(Result::is_err)), "it is published still");
}

#[test]
fn the_host_reaches_a_port_by_every_address_it_has() {
    let lab = Lab::new();
    lab.uplink();
    lab.ip("address add 192.0.2.44/24 dev uplink0");
    let (_net, red) = published(&lab);
    let _services = (red.serve_tcp(80), red.serve_udp(53));
    for host in
        ["127.0.0.1", "127.1.2.3", "::1", "192.0.2.44", "10.1.0.1", "fd00:1::1"].into_iter().chain(HOST)
    {
        let answers = ask!(lab, host);
        let by = answers.iter().map(|answer| answer.as_ref().ok().map(|answer| answer.by.as_str()));
        assert!(by.eq([Some("red"), Some("red")]), "{host}: {answers:?}");
    }
}

#[test]
fn containers_reach_a_port_wherever_they_are() {
    let lab = Lab::new();
    lab.uplink();
    let (net, red) = published(&lab);
    let other = Net::new(&lab, "green", 2);
    let (neighbour, stranger) = (lab.container("neighbour"), lab.container("stranger"));
    net.connect(&neighbour);
    other.connect(&stranger);
    let _services = (red.serve_tcp(80), red.serve_udp(53));
    for host in HOST.into_iter().chain(["10.1.0.1", "fd00:1::1"]) {
        for from in [&red, &neighbour, &stranger] {
            let answers = ask!(from, host);
            let by = answers.iter().map(|answer| answer.as_ref().ok().map(|answer| answer.by.as_str()));
            assert!(by.eq([Some("red"), Some("red")]), "{} to {host}: {answers:?}", from.name());
        }
    }
}

#[test]
fn a_published_port_is_reached_from_an_isolated_network() {
    let lab = Lab::new();
    lab.uplink();
    let net = Net::new(&lab, "blue", 1).bridge_key("isolate", json!(true));
    let other = Net::new(&lab, "green", 2).bridge_key("isolate", json!(true));
    let (red, stranger) = (lab.container("red"), lab.container("stranger"));
    net.publish(&red, json!([tcp(8080, 80), udp(5353, 53)]));
    other.connect(&stranger);
    let _services = (red.serve_tcp(80), red.serve_udp(53));
    for (host, own) in HOST.into_iter().zip(["10.1.0.2", "fd00:1::2"]) {
        assert!(stranger.ask_tcp(ip(own), 80).is_err(), "the networks are not apart");
        for answer in ask!(stranger, host) {
            assert_eq!(answer.unwrap().by, "red");
        }
    }
}

/// The kernels tests run on have no SCTP sockets: the first packet of an association, made by hand, tells enough.
#[test]
fn sctp_is_carried_where_the_packet_is_meant_to_go() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let previous = net.connect(&red);
    for ((host, own), caller) in HOST.into_iter().zip(["10.1.0.2", "fd00:1::2"]).zip(OUTSIDE) {
        let ear = red.ear(ip(own));
        let first =
            |port| ear.so_far(&red).into_iter().find(|heard| (heard.protocol, heard.port) == (SCTP, port));
        outside.send_sctp(ip(host), 3868).unwrap();
        assert_eq!(first(5000), None, "it is not published yet");

        net.call(&previous, json!([entry(3868, 5000, json!({"protocol": "sctp"}))])).add(&red).expect_ok();
        outside.send_sctp(ip(host), 3868).unwrap();
        let heard = ear.expect(SCTP, 5000);
        assert_eq!((heard.source, heard.destination), (ip(caller), ip(own)));
        lab.send_sctp(ip(host), 3868).unwrap();
        ear.expect(SCTP, 5000);

        net.withdraw(&red);
        ear.so_far(&red);
        outside.send_sctp(ip(host), 3868).unwrap();
        assert_eq!(first(5000), None, "it is published still");
    }
}

#[test]
fn a_host_address_is_the_only_one_that_leads_there() {
    let lab = Lab::new();
    let outside = lab.uplink();
    lab.ip("address add 192.0.2.7/24 dev uplink0");
    lab.ip("address add 2001:db8:ffff::7/64 dev uplink0 nodad");
    let net = Net::new(&lab, "blue", 1);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let _services = (red.serve_tcp(80), green.serve_tcp(80));
    let at = |host: &str| entry(8080, 80, json!({"hostIP": host}));
    net.publish(&red, json!([at("192.0.2.7"), at("2001:db8:ffff::7")]));
    // The same port of other addresses is another's to have.
    net.publish(&green, json!([at("192.0.2.1"), at("::1"), at("127.0.0.1")]));

    let by = |host: &str| outside.ask_tcp(ip(host), 8080).map(|answer| answer.by).ok();
    assert_eq!(by("192.0.2.7").as_deref(), Some("red"));
    assert_eq!(by("2001:db8:ffff::7").as_deref(), Some("red"));
    assert_eq!(by("192.0.2.1").as_deref(), Some("green"));
    assert_eq!(by("2001:db8:ffff::1"), None);
    for host in ["127.0.0.1", "::1"] {
        assert_eq!(lab.ask_tcp(ip(host), 8080).unwrap().by, "green", "{host}");
    }
}

/// Ports of a range lead where their place in the range says; what is beside it leads nowhere.
fn range(first: u16, target: u16, count: u16) {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let mut places = vec![0, 1, count / 2, count - 1];
    places.sort_unstable();
    places.dedup();
    let ports = || places.iter().map(|place| (first + place, target + place));
    let services: Vec<_> = ports().map(|(_, port)| (red.serve_tcp(port), red.serve_udp(port))).collect();
    let mapping = |protocol: &str| entry(first, target, json!({"range": count, "protocol": protocol}));
    net.publish(&red, json!([mapping("tcp"), mapping("udp")]));
    for host in HOST {
        for (port, leads_to) in ports() {
            let by_tcp = outside.ask_tcp(ip(host), port).unwrap();
            let by_udp = outside.ask_udp(ip(host), port).unwrap();
            assert_eq!((by_tcp.port, by_udp.port), (leads_to, leads_to));
        }
        assert_eq!(lab.ask_tcp(ip(host), first + (count - 1)).unwrap().port, target + (count - 1));
        assert_eq!(red.ask_tcp(ip(host), first + 1).unwrap().port, target + 1);
        assert!(outside.ask_tcp(ip(host), first - 1).is_err());
        assert!(outside.ask_tcp(ip(host), first + count).is_err());
    }
    drop(services);
}

#[test]
fn an_equal_range_leads_to_the_same_ports() {
    range(8000, 8000, 100);
}

#[test]
fn a_range_shifted_down_leads_to_its_ports() {
    range(20_000, 1_000, 500);
}

#[test]
fn a_range_shifted_up_leads_to_its_ports() {
    range(1_000, 60_000, 5_000);
}

#[test]
fn a_range_that_ends_at_the_last_port_leads_to_its_ports() {
    range(30_001, 55_536, 10_000);
}

#[test]
fn a_range_of_two_ports_leads_to_them() {
    range(8001, 9000, 2);
}

#[test]
fn a_list_of_callers_keeps_others_out_and_not_the_host() {
    let lab = Lab::new();
    let outside = lab.uplink();
    outside.ip("address add 192.0.2.3/24 dev eth0");
    outside.ip("address add 2001:db8:ffff::3/64 dev eth0 nodad");
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let _services = [80, 81, 90, 91].map(|port| red.serve_tcp(port));
    let from = json!({"from": ["192.0.2.2", "2001:db8:ffff::2/128"]});
    let ranged = json!({"from": ["192.0.2.2", "2001:db8:ffff::2/128"], "range": 2});
    net.publish(&red, json!([entry(8080, 80, from), entry(9000, 90, ranged), tcp(7070, 81)]));
    for ((host, listed), other) in HOST.into_iter().zip(OUTSIDE).zip(["192.0.2.3", "2001:db8:ffff::3"]) {
        outside.ip(&format!("route replace {host} dev eth0 src {listed}"));
        for port in [8080, 9000, 9001] {
            assert!(outside.ask_tcp(ip(host), port).is_ok(), "{host} {port}: the caller is on the list");
            assert!(lab.ask_tcp(ip(host), port).is_ok(), "{host} {port}: the host always may");
        }
        outside.ip(&format!("route replace {host} dev eth0 src {other}"));
        for port in [8080, 9000, 9001] {
            assert!(outside.ask_tcp(ip(host), port).is_err(), "{host} {port}: {other} is not on the list");
        }
        assert_eq!(outside.call_tcp(ip(host), 7070).unwrap(), ip(other), "this port is for everybody");
    }
}

/// A neighbour may know that the host has a port for itself alone, and can send what the host would never send.
#[test]
fn a_port_of_127_0_0_1_is_not_reached_by_forged_packets() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let (red, green) = (lab.container("red"), lab.container("green"));
    let _service = red.serve_udp(53);
    net.publish(&red, json!([entry(5353, 53, json!({"protocol": "udp", "hostIP": "127.0.0.1"}))]));
    net.connect(&green);
    assert_eq!(lab.ask_udp(ip("127.0.0.1"), 5353).unwrap().by, "red");
    assert_eq!(lab.sysctl("ipv4/conf/br1/route_localnet"), "1");

    // Without a loopback interface that is up, 127.0.0.1 is an address like others.
    outside.ip("route add 127.0.0.1/32 via 192.0.2.1 dev eth0");
    green.ip("route add 127.0.0.1/32 via 10.1.0.1 dev eth0");
    for forger in [&outside, &green] {
        forger.run("sysctl", "-qw net.ipv4.conf.eth0.route_localnet=1").expect_ok();
    }
    // The host's own switch would keep the outside out as well; what is asked here is whether the firewall does.
    lab.set_sysctl("ipv4/conf/uplink0/route_localnet", "1");
    let ear = red.ear(ip("10.1.0.2"));
    let heard = || ear.so_far(&red).iter().filter(|heard| heard.port == 53).count();
    for forger in [&outside, &green] {
        let client = forger.udp_client(ip("127.0.0.1"), 5353);
        assert!(client.ask_within(Duration::from_millis(100)).is_err());
        assert_eq!(heard(), 0, "a packet of {} for 127.0.0.1 reached the container", forger.name());
    }

    // Without the rule it does: the forged packets are good ones.
    let rule = lab.sh("nft -a list chain inet weft local_only | grep 'ip daddr 127.0.0.0/8 '").stdout;
    let handle = rule.split_whitespace().last().unwrap();
    lab.sh(&format!("nft delete rule inet weft local_only handle {handle}")).expect_ok();
    let answer = green.udp_client(ip("127.0.0.1"), 5353).ask_within(Duration::from_millis(100));
    assert_ne!(heard(), 0, "the forged packets are no good without {rule}: {answer:?}");
}

/// What the host forwards for others has nothing to do with its own ports.
#[test]
fn what_passes_through_the_host_is_left_alone() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let (net, red) = published(&lab);
    let green = lab.container("green");
    net.connect(&green);
    let _services = (red.serve_tcp(80), outside.serve_tcp(8080), outside.serve_udp(5353));
    for (host, far) in HOST.into_iter().zip(OUTSIDE) {
        assert_eq!(green.ask_tcp(ip(host), 8080).unwrap().by, "red");
        assert_eq!(green.ask_tcp(ip(far), 8080).unwrap().by, "outside");
        assert_eq!(green.ask_udp(ip(far), 5353).unwrap().by, "outside");
        assert_eq!(lab.ask_tcp(ip(far), 8080).unwrap().by, "outside");
    }
}

/// One client that never stops sending, over everything that can happen to its port.
#[test]
fn a_udp_client_is_always_answered_by_who_has_the_port() {
    for family in [0, 1] {
        let lab = Lab::new();
        let outside = lab.uplink();
        let net = Net::new(&lab, "blue", 1);
        let (red, green) = (lab.container("red"), lab.container("green"));
        let _services = (red.serve_udp(53), green.serve_udp(53), lab.serve_udp(7000));
        let client = outside.udp_client(ip(HOST[family]), 5353);
        let other = outside.udp_client(ip(HOST[family]), 7000);
        assert!(client.ask_within(Duration::from_millis(200)).is_err());
        assert_eq!(other.ask().unwrap().by, "host");

        net.publish(&red, json!([udp(5353, 53)]));
        assert_eq!(client.ask().unwrap().by, "red");
        net.disconnect(&red);
        net.publish(&green, json!([udp(5353, 53)]));
        assert_eq!(client.ask().unwrap().by, "green");
        net.disconnect(&green);
        {
            let _host = lab.serve_udp(5353);
            assert_eq!(client.ask().unwrap().by, "host");
        }
        net.publish(&red, json!([entry(5300, 53, json!({"protocol": "udp", "range": 100}))]));
        assert!(client.ask_within(Duration::from_millis(200)).is_err(), "port 106 of red is nobody's");
        assert_eq!(other.ask().unwrap().by, "host", "another port's client noticed something");
    }
}

#[test]
fn flows_of_just_what_is_published_are_forgotten_when_it_comes_and_when_it_goes() {
    let targets = [["10.1.0.2", "10.1.0.3"], ["fd00:1::2", "fd00:1::3"]];
    for (family, [of_red, of_green]) in targets.into_iter().enumerate() {
        let lab = Lab::new();
        let outside = lab.uplink_that_answers();
        lab.ip("address add 192.0.2.44/24 dev uplink0");
        lab.ip("address add 2001:db8:ffff::44/64 dev uplink0 nodad");
        let (here, there) = (HOST[family], ["192.0.2.44", "2001:db8:ffff::44"][family]);
        let net = Net::new(&lab, "blue", 1);
        let (red, green) = (lab.container("red"), lab.container("green"));
        let _services = (red.serve_udp(53), green.serve_udp(53));
        let [at_red, at_green] = [net.connect(&red), net.connect(&green)];
        let at = |host: &str, port: u16| entry(port, 53, json!({"protocol": "udp", "hostIP": host}));
        let mut socket = weft_nft::Socket::open().unwrap();
        let mut left = |whose, host: &str, port: u16, target: &str| {
            let tuple = Tuple { protocol: 17, address: ip(host), ports: port..=port, target: ip(target) };
            forget(&mut socket, &[tuple], whose).unwrap()
        };

        // Flows to the host itself, which answers that nobody is there.
        for (host, port) in [(here, 5353), (here, 5354), (there, 5353)] {
            assert!(outside.ask_udp(ip(host), port).is_err());
        }
        net.call(&at_red, json!([at(here, 5353)])).add(&red).expect_ok();
        assert_eq!(left(Whose::Others, here, 5353, of_red), 0, "ADD has forgotten it");
        assert_eq!(left(Whose::Others, here, 5354, of_red), 1, "another port");
        assert_eq!(left(Whose::Others, there, 5353, of_red), 1, "another address");

        net.call(&at_red, json!([at(here, 5353), at(here, 5354)])).add(&red).expect_ok();
        net.call(&at_green, json!([at(there, 5353)])).add(&green).expect_ok();
        let ask = |host: &str, port: u16| outside.ask_udp(ip(host), port).unwrap().by;
        assert_eq!([ask(here, 5353), ask(here, 5354), ask(there, 5353)], ["red", "red", "green"]);
        net.call(&at_red, json!([at(here, 5354)])).add(&red).expect_ok();
        assert_eq!(left(Whose::Ours, here, 5353, of_red), 0, "what went has no flows");
        assert_eq!(left(Whose::Ours, here, 5354, of_red), 1, "what stayed has");
        assert_eq!(ask(here, 5354), "red");
        net.withdraw(&red);
        assert_eq!(left(Whose::Ours, here, 5354, of_red), 0, "DEL has forgotten it");
        assert_eq!(left(Whose::Ours, there, 5353, of_green), 1, "another's");
    }
}

#[test]
fn connections_go_on_while_other_ports_come_and_go() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    let lab = Lab::new();
    let outside = lab.uplink();
    let net = Net::new(&lab, "blue", 1);
    let red = lab.container("red");
    let previous = net.publish(&red, json!([tcp(8080, 80)]));
    let service = red.inside(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    let mut client = outside.inside(|| TcpStream::connect("192.0.2.1:8080")).unwrap();
    let mut server = service.accept().unwrap().0;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    let mut talk = || {
        let mut word = [0; 4];
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut word).unwrap();
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut word).unwrap();
    };
    talk();
    for mappings in [json!([tcp(8080, 80), tcp(9090, 80), udp(8080, 80)]), json!([tcp(8080, 80)])] {
        net.call(&previous, mappings).add(&red).expect_ok();
        talk();
    }
    let green = lab.container("green");
    net.publish(&green, json!([tcp(9090, 80)]));
    net.disconnect(&green);
    talk();
}

#[test]
fn a_lone_family_has_ports_of_its_own() {
    let lab = Lab::new();
    let outside = lab.uplink();
    for (number, subnet, family) in [(1, "10.1.0.0/24", 0), (2, "fd00:2::/64", 1)] {
        let net = Net::of(&lab, &format!("n{number}"), number, &[subnet]);
        let red = lab.container(&format!("red{number}"));
        let _service = red.serve_tcp(80);
        net.publish(&red, json!([tcp(8080 + u16::from(number), 80)]));
        assert!(outside.ask_tcp(ip(HOST[family]), 8080 + u16::from(number)).is_ok());
        assert!(outside.ask_tcp(ip(HOST[1 - family]), 8080 + u16::from(number)).is_err());
        assert_eq!(net.call(&Value::Null, json!([])).del(&red).code, 0);
    }
}
