//! Two networks: apart in addressing, together in one container.

use weft_testkit::Lab;

fn two_networks(lab: &Lab) {
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "create", "--subnet", "10.91.0.0/24", "pink"]).expect_ok();
}

#[test]
fn networks_without_a_subnet_do_not_overlap() {
    let lab = Lab::new();
    let mut subnets = Vec::new();
    for number in 0..20 {
        let name = format!("n{number}");
        lab.weft(["network", "create", &name]).expect_ok();
        let inspected = lab.weft(["network", "inspect", &name]).expect_json();
        subnets.push(inspected[0]["IPAM"]["Config"][0]["Subnet"].as_str().unwrap().to_string());
    }
    let different: std::collections::HashSet<&String> = subnets.iter().collect();
    assert_eq!(different.len(), 20, "{subnets:?}");
}

#[test]
fn a_second_connect_gets_eth1() {
    let lab = Lab::new();
    let red = lab.container("red");
    two_networks(&lab);
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "pink", "red"]).expect_ok();
    assert_eq!(red.addresses("eth0"), ["10.90.0.2/24"]);
    assert_eq!(red.addresses("eth1"), ["10.91.0.2/24"]);
    assert!(red.ping("10.90.0.1"));
    assert!(red.ping("10.91.0.1"));

    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert!(!red.has_link("eth0"));
    assert!(red.ping("10.91.0.1"), "disconnect took the other network's interface");
}

fn two_networks_of_both_families(lab: &Lab) {
    for (name, number) in [("blue", 90), ("pink", 91)] {
        let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd00:{number}::/64"));
        lab.weft(["network", "create", "--ipv6", "--subnet", &v4, "--subnet", &v6, name]).expect_ok();
    }
}

fn first_gateway(red: &weft_testkit::Container) -> String {
    gateway_to(red, "192.0.2.2")
}

/// The gateways of both families.
fn first_gateways(red: &weft_testkit::Container) -> [String; 2] {
    [first_gateway(red), gateway_to(red, "2001:db8:ffff::2")]
}

fn gateway_to(red: &weft_testkit::Container, address: &str) -> String {
    let family = if address.contains(':') { "-6" } else { "-4" };
    let route = red.ip(&format!("{family} -oneline route get {address}"));
    route.split_whitespace().skip_while(|word| *word != "via").nth(1).unwrap().to_string()
}

#[test]
fn the_default_route_stays_with_the_first_network() {
    let lab = Lab::new();
    let red = lab.container("red");
    two_networks(&lab);
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "pink", "red"]).expect_ok();
    assert_eq!(first_gateway(&red), "10.90.0.1");
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert_eq!(first_gateway(&red), "10.91.0.1", "the other network's route takes over");
}

#[test]
fn the_default_route_goes_to_the_highest_priority() {
    let lab = Lab::new();
    let red = lab.container("red");
    two_networks(&lab);
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "--gw-priority", "10", "pink", "red"]).expect_ok();
    assert_eq!(first_gateway(&red), "10.91.0.1");
}

#[test]
fn the_default_route_of_ipv6_stays_with_the_first_network() {
    let lab = Lab::new();
    let red = lab.container("red");
    two_networks_of_both_families(&lab);
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "pink", "red"]).expect_ok();
    assert_eq!(first_gateways(&red), ["10.90.0.1", "fd00:90::1"]);
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert_eq!(first_gateways(&red), ["10.91.0.1", "fd00:91::1"], "the other network's route takes over");
}

#[test]
fn the_default_route_of_ipv6_goes_to_the_highest_priority() {
    let lab = Lab::new();
    let red = lab.container("red");
    two_networks_of_both_families(&lab);
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "--gw-priority", "10", "pink", "red"]).expect_ok();
    assert_eq!(first_gateways(&red), ["10.91.0.1", "fd00:91::1"]);
    assert!(red.ping("fd00:91::1") && red.ping("fd00:90::1"));
}

#[test]
fn the_same_network_twice_is_refused() {
    let lab = Lab::new();
    let red = lab.container("red");
    two_networks(&lab);
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    let refused = lab.weft(["network", "connect", "blue", "red"]);
    refused.expect_failure(4, &["red", "blue"]);
    assert!(red.ping("10.90.0.1"), "the refused connect broke the first");
}

#[test]
fn an_interface_name_can_be_chosen_and_is_refused_when_taken() {
    let lab = Lab::new();
    let red = lab.container("red");
    two_networks(&lab);
    lab.weft(["network", "connect", "--interface", "net7", "blue", "red"]).expect_ok();
    assert_eq!(red.addresses("net7"), ["10.90.0.2/24"]);
    let before = lab.snapshot();
    lab.weft(["network", "connect", "--interface", "net7", "pink", "red"]).expect_failure(4, &["net7"]);
    lab.assert_restored(&before);
    assert!(red.ping("10.90.0.1"));
}
