//! Who gets which address.

use weft_testkit::Lab;

#[track_caller]
fn connected(lab: &Lab, name: &str, words: &[&str]) -> Vec<String> {
    let container = lab.container(name);
    let mut line = vec!["network", "connect"];
    line.extend(words);
    line.extend(["blue", name]);
    lab.weft(line).expect_ok();
    container.addresses("eth0")
}

#[test]
fn ipv6_comes_with_a_generated_subnet() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--ipv6", "blue"]).expect_ok();
    let red = connected(&lab, "red", &[]);
    assert_eq!(red.len(), 2, "{red:?}");
    assert!(red[1].starts_with("fd") && red[1].ends_with("/64"), "{red:?}");
    let green = lab.container("green");
    lab.weft(["network", "connect", "blue", "green"]).expect_ok();
    assert!(green.ping(red[1].split('/').next().unwrap()), "the first IPv6 packet was lost");
}

#[test]
fn both_families_can_be_given() {
    let lab = Lab::new();
    lab.weft([
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "10.90.0.0/24",
        "--subnet",
        "2001:db8:90::/64",
        "blue",
    ])
    .expect_ok();
    assert_eq!(connected(&lab, "red", &[]), ["10.90.0.2/24", "2001:db8:90::2/64"]);
    let addresses = connected(&lab, "green", &["--ip", "10.90.0.77", "--ip6", "2001:db8:90::77"]);
    assert_eq!(addresses, ["10.90.0.77/24", "2001:db8:90::77/64"]);
}

#[test]
fn addresses_come_from_the_range_and_the_gateway_is_the_given_one() {
    let lab = Lab::new();
    let words = [
        "network",
        "create",
        "--subnet",
        "10.90.0.0/24",
        "--ip-range",
        "10.90.0.128/28",
        "--gateway",
        "10.90.0.254",
        "blue",
    ];
    lab.weft(words).expect_ok();
    let red = lab.container("red");
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    let address = red.addresses("eth0")[0].clone();
    let last: u8 = address.trim_start_matches("10.90.0.").trim_end_matches("/24").parse().unwrap();
    assert!((128..144).contains(&last), "{address}");
    assert!(red.ip("route").contains("default via 10.90.0.254"));
    assert!(red.ping("10.90.0.254"));
}

#[test]
fn an_address_outside_the_range_can_be_asked_for() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "--ip-range", "10.90.0.128/28", "blue"])
        .expect_ok();
    assert_eq!(connected(&lab, "red", &["--ip", "10.90.0.9"]), ["10.90.0.9/24"]);
}

#[test]
fn an_auxiliary_address_is_never_given() {
    let lab = Lab::new();
    let words = [
        "network",
        "create",
        "--subnet",
        "10.90.0.0/29",
        "--aux-address",
        "router=10.90.0.2",
        "--aux-address",
        "nas=10.90.0.4",
        "blue",
    ];
    lab.weft(words).expect_ok();
    assert_eq!(connected(&lab, "a", &[]), ["10.90.0.3/29"]);
    assert_eq!(connected(&lab, "b", &[]), ["10.90.0.5/29"]);
    lab.container("c");
    let refused = lab.weft(["network", "connect", "--ip", "10.90.0.4", "blue", "c"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("10.90.0.4"), "{refused}");
}

#[test]
fn a_name_that_comes_back_gets_its_address_back() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    assert_eq!(connected(&lab, "one", &["--name", "web"]), ["10.90.0.2/24"]);
    assert_eq!(connected(&lab, "two", &["--name", "db"]), ["10.90.0.3/24"]);
    lab.weft(["network", "disconnect", "blue", "one"]).expect_ok();
    assert_eq!(connected(&lab, "three", &["--name", "cache"]), ["10.90.0.4/24"]);
    assert_eq!(connected(&lab, "four", &["--name", "web"]), ["10.90.0.2/24"]);
}

#[test]
fn a_taken_address_names_its_holder() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    connected(&lab, "red", &["--ip", "10.90.0.9"]);
    let green = lab.container("green");
    let before = lab.snapshot();
    lab.weft(["network", "connect", "--ip", "10.90.0.9", "blue", "green"])
        .expect_failure(4, &["10.90.0.9", "red"]);
    assert!(!green.has_link("eth0"));
    lab.assert_restored(&before);
}

#[test]
fn an_exhausted_pool_says_so() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/30", "blue"]).expect_ok();
    assert_eq!(connected(&lab, "red", &[]), ["10.90.0.2/30"]);
    let green = lab.container("green");
    let before = lab.snapshot();
    let refused = lab.weft(["network", "connect", "blue", "green"]);
    refused.expect_failure(1, &["blue", "no IP addresses available in range set: 10.90.0.1-10.90.0.2"]);
    assert!(!green.has_link("eth0"));
    lab.assert_restored(&before);
}

#[test]
fn a_mac_can_be_asked_for() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.weft(["network", "create", "blue"]).expect_ok();
    lab.weft(["network", "connect", "--mac", "02:11:22:33:44:55", "blue", "red"]).expect_ok();
    assert_eq!(red.link("eth0")["address"], "02:11:22:33:44:55");
}

#[test]
fn networks_are_small_after_the_first_pools() {
    let lab = Lab::new();
    for number in 0..40 {
        lab.weft(["network", "create", &format!("n{number}")]).expect_ok();
    }
    let inspected = lab.weft(["network", "inspect", "n39"]).expect_json();
    let subnet = inspected[0]["IPAM"]["Config"][0]["Subnet"].as_str().unwrap();
    assert!(subnet.ends_with("/24"), "{subnet}");
}
