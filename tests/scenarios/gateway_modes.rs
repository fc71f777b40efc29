//! How the outside reaches a network's containers: what each gateway mode lets in, in each family.

use std::net::IpAddr;

use weft_testkit::{Container, Lab, falls_silent};

const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The same, where the outside has routes to all containers.
fn routed_to(lab: &Lab) -> Container {
    let outside = lab.uplink_that_answers();
    outside.ip("route add 10.0.0.0/8 via 192.0.2.1");
    outside.ip("route add fd00::/16 via 2001:db8:ffff::1");
    outside
}

/// Creates `10.90.0.0/24` and `fd00:90::/64`, with red at `.2` and `::2` that serves 80 and 81 and publishes 80.
fn served(lab: &Lab, options: &[&str]) -> (Container, [weft_testkit::TcpServer; 2]) {
    let words = ["network", "create", "--ipv6", "--subnet", "10.90.0.0/24", "--subnet", "fd00:90::/64"];
    let options = options.iter().flat_map(|option| ["-o", option]);
    lab.weft(words.into_iter().chain(options).chain(["blue"])).expect_ok();
    let red = lab.container("red");
    lab.weft(["network", "connect", "-p", "8080:80", "blue", "red"]).expect_ok();
    let services = [red.serve_tcp(80), red.serve_tcp(81)];
    (red, services)
}

/// Whether somebody answers.
fn open(from: &Container, host: &str, port: u16) -> bool {
    from.ask_tcp(ip(host), port).is_ok()
}

/// What the outside reaches: the published port of the host; the published and the other port of the container, and a
/// ping, by the container's own address.
fn reached(outside: &Container, host: &str, own: &str) -> [bool; 4] {
    [open(outside, host, 8080), open(outside, own, 80), open(outside, own, 81), outside.ping(own)]
}

/// Whom the outside sees when the container calls.
fn seen(red: &Container, outside: &Container, address: &str) -> Option<String> {
    let service = outside.serve_tcp(0);
    red.call_tcp(ip(address), service.port()).ok().map(|caller| caller.to_string())
}

#[test]
fn nat_lets_in_what_is_published_and_nothing_else() {
    let lab = Lab::new();
    let outside = routed_to(&lab);
    let (red, _services) = served(&lab, &[]);
    for (host, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
        assert_eq!(reached(&outside, host, own), [true, false, false, false], "{own}");
    }
    for (host, outer) in HOST.into_iter().zip(OUTSIDE) {
        assert_eq!(seen(&red, &outside, outer).as_deref(), Some(host));
    }
}

#[test]
fn nat_unprotected_lets_in_whoever_has_a_route() {
    let lab = Lab::new();
    let outside = routed_to(&lab);
    let options = ["gateway_mode_ipv4=nat-unprotected", "gateway_mode_ipv6=nat-unprotected"];
    let (red, _services) = served(&lab, &options);
    for (host, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
        assert_eq!(reached(&outside, host, own), [true; 4], "{own}");
    }
    assert_eq!(seen(&red, &outside, OUTSIDE[0]).as_deref(), Some(HOST[0]));
}

#[test]
fn routed_lets_in_the_containers_published_ports() {
    let lab = Lab::new();
    let outside = routed_to(&lab);
    let modes = ["com.docker.network.bridge.gateway_mode_ipv4=routed", "gateway_mode_ipv6=routed"];
    let (red, _services) = served(&lab, &modes);
    for (host, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
        assert_eq!(reached(&outside, host, own), [false, true, false, true], "{own}");
    }
    for (outer, own) in OUTSIDE.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
        assert_eq!(seen(&red, &outside, outer).as_deref(), Some(own), "packets keep their address");
    }
    let shown = lab.weft(["port", "ls", "-q"]);
    assert_eq!(shown.expect_ok(), "10.90.0.2:80/tcp\n[fd00:90::2]:80/tcp\n");
    lab.weft(["port", "unpublish", "red", "8080:80"]).expect_ok();
    for own in ["10.90.0.2", "fd00:90::2"] {
        assert!(falls_silent(&outside, own, 80));
    }
    lab.weft(["port", "publish", "red", "81,from=2001:db8:ffff::/64"]).expect_ok();
    assert!(open(&outside, "fd00:90::2", 81) && !open(&outside, "10.90.0.2", 81));
}

#[test]
fn a_large_range_of_a_routed_network_is_one_element_and_one_claim() {
    let lab = Lab::new();
    let outside = routed_to(&lab);
    let (red, _services) = served(&lab, &["gateway_mode_ipv4=routed", "gateway_mode_ipv6=routed"]);
    lab.weft(["port", "publish", "red", "20000-60000"]).expect_ok();
    for (set, target) in [("open_ranges4", "10.90.0.2"), ("open_ranges6", "fd00:90::2")] {
        let listed = lab.sh(&format!("nft list set inet weft {set}")).expect_ok().to_string();
        assert!(listed.contains("20000-60000"), "{listed}");
        assert_eq!(listed.matches("tcp .").count(), 1, "{listed}");
        let claims = lab.path("run/weft/ports/claims/routed-tcp").join(target);
        let count = lab.sh(&format!("find {} -type f | wc -l", claims.display()));
        assert_eq!(count.expect_ok().trim(), "2", "the range's, and that of port 80");
    }
    let _services = [20000, 60000].map(|port| red.serve_tcp(port));
    let _closed = red.serve_tcp(60001);
    for own in ["10.90.0.2", "fd00:90::2"] {
        let heard = [20000, 60000, 60001].map(|port| open(&outside, own, port));
        assert_eq!(heard, [true, true, false], "{own}");
    }
    lab.weft(["port", "unpublish", "red", "20000-60000"]).expect_ok();
    assert!(falls_silent(&outside, "10.90.0.2", 20000) && falls_silent(&outside, "fd00:90::2", 60000));
}

#[test]
fn each_family_has_a_mode_of_its_own() {
    let lab = Lab::new();
    let outside = routed_to(&lab);
    let (red, _services) = served(&lab, &["gateway_mode_ipv6=routed"]);
    assert_eq!(reached(&outside, HOST[0], "10.90.0.2"), [true, false, false, false]);
    assert_eq!(reached(&outside, HOST[1], "fd00:90::2"), [false, true, false, true]);
    assert_eq!(seen(&red, &outside, OUTSIDE[0]).as_deref(), Some(HOST[0]));
    assert_eq!(seen(&red, &outside, OUTSIDE[1]).as_deref(), Some("fd00:90::2"));
    lab.weft(["port", "unpublish", "red", "8080:80"]).expect_ok();
    assert!(falls_silent(&outside, HOST[0], 8080));
    assert!(falls_silent(&outside, "fd00:90::2", 80));
}

#[test]
fn isolated_gives_a_family_no_gateway() {
    let lab = Lab::new();
    let outside = routed_to(&lab);
    let (red, _services) = served(&lab, &["gateway_mode_ipv4=isolated"]);
    let green = lab.container("green");
    lab.weft(["network", "connect", "blue", "green"]).expect_ok();
    assert_eq!(reached(&outside, HOST[0], "10.90.0.2"), [false; 4]);
    assert_eq!(reached(&outside, HOST[1], "fd00:90::2"), [true, false, false, false]);
    assert_eq!(red.ip("-4 route show default"), "");
    assert_ne!(red.ip("-6 route show default"), "");
    assert!(!lab.ip("-4 address show").contains("10.90.0.1"), "the host has an address on the network");
    assert!(open(&green, "10.90.0.2", 80) && open(&green, "fd00:90::2", 80), "containers reach each other");

    // Nor does a route help that somebody makes.
    lab.ip(&format!("route add 10.90.0.0/24 dev {}", bridge(&lab)));
    red.ip("route add default via 10.90.0.77 dev eth0 onlink");
    assert_eq!(reached(&outside, HOST[0], "10.90.0.2"), [false; 4]);
    lab.weft(["port", "publish", "red", "127.0.0.1:8081:80"])
        .expect_failure(2, &["blue", "IPv4 is isolated"]);
}

fn bridge(lab: &Lab) -> String {
    let links = lab.ip_json("link show type bridge");
    links[0]["ifname"].as_str().unwrap().to_string()
}

#[test]
fn packets_leave_with_the_address_that_was_named() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    lab.ip("address add 192.0.2.77/24 dev uplink0");
    lab.ip("address add 2001:db8:ffff::77/64 dev uplink0 nodad");
    let options = ["host_ipv4=192.0.2.77", "com.docker.network.host_ipv6=2001:db8:ffff::77"];
    let (red, services) = served(&lab, &options);
    for (outer, source) in OUTSIDE.into_iter().zip(["192.0.2.77", "2001:db8:ffff::77"]) {
        assert_eq!(seen(&red, &outside, outer).as_deref(), Some(source));
    }
    drop(services);
    lab.weft(["network", "rm", "-f", "blue"]).expect_ok();
    red.vanish();
    let (red, _services) = served(&lab, &[]);
    assert_eq!(seen(&red, &outside, OUTSIDE[0]).as_deref(), Some(HOST[0]), "the name went with the network");
}

#[test]
fn packets_leave_with_no_address_of_another_host_unless_that_is_allowed() {
    let lab = Lab::new();
    lab.uplink();
    lab.container("red");
    let create = ["network", "create", "--subnet", "10.90.0.0/24", "-o", "host_ipv4=192.0.2.99"];
    lab.weft(create.into_iter().chain(["blue"])).expect_ok();
    lab.weft(["network", "connect", "blue", "red"])
        .expect_failure(2, &["192.0.2.99", "is not an address of this host", "allow_foreign_host_ip"]);
    assert!(!lab.ruleset().contains("192.0.2.99"), "{}", lab.ruleset());
    // It is the host's by now.
    lab.ip("address add 192.0.2.99/24 dev uplink0");
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert!(lab.ruleset().contains("192.0.2.99"), "{}", lab.ruleset());
    lab.weft(["network", "rm", "-f", "blue"]).expect_ok();
    lab.ip("address del 192.0.2.99/24 dev uplink0");
    assert!(!lab.ruleset().contains("192.0.2.99"), "{}", lab.ruleset());

    lab.weft(create.into_iter().chain(["-o", "allow_foreign_host_ip=true", "blue"])).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert!(lab.ruleset().contains("192.0.2.99"), "{}", lab.ruleset());
}

#[test]
fn packets_keep_their_address_where_nothing_is_masqueraded() {
    let lab = Lab::new();
    let outside = routed_to(&lab);
    let (red, _services) = served(&lab, &["masquerade=false"]);
    for (outer, own) in OUTSIDE.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
        assert_eq!(seen(&red, &outside, outer).as_deref(), Some(own));
    }
    for (host, own) in HOST.into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
        assert_eq!(reached(&outside, host, own), [true, false, false, false], "{own}");
    }
}

#[test]
fn a_mode_that_does_not_exist_is_refused() {
    let lab = Lab::new();
    let before = lab.snapshot();
    let create = ["network", "create", "-o", "gateway_mode_ipv4=bridged", "blue"];
    lab.weft(create)
        .expect_failure(2, &["gateway_mode_ipv4=bridged", "nat, nat-unprotected, routed, isolated"]);
    lab.weft(["network", "create", "-o", "host_ipv4=::1", "blue"])
        .expect_failure(2, &["host_ipv4=::1", "IPv4"]);
    lab.assert_restored(&before);
}
