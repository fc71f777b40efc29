//! Networks are apart: what is routed between them, and in and out of internal ones, is dropped.

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, does_not_reach, reaches};

/// The outside, as the host knows it.
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

/// Creates a network of both families, `10.<number>.0.0/24` and `fd00:<number>::/64`.
fn create(lab: &Lab, number: u8, name: &str, more: &[&str]) {
    let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd00:{number}::/64"));
    let words = ["network", "create", "--ipv6", "--subnet", &v4, "--subnet", &v6];
    lab.weft(words.into_iter().chain(more.iter().copied()).chain([name])).expect_ok();
}

fn connected(lab: &Lab, network: &str, name: &str) -> Container {
    let container = lab.container(name);
    lab.weft(["network", "connect", network, name]).expect_ok();
    container
}

/// The container's address in each family, on one of its interfaces.
fn addresses(container: &Container, ifname: &str) -> [String; 2] {
    let mut all = container.addresses(ifname);
    all.retain(|address| !address.starts_with("fe80"));
    let mut all = all.into_iter().map(|address| address.split('/').next().unwrap().to_string());
    [all.next().unwrap(), all.next().unwrap()]
}

#[test]
fn containers_of_two_networks_do_not_reach_each_other() {
    let lab = Lab::new();
    lab.uplink();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &[]);
    let green = connected(&lab, "blue", "green");
    let olive = connected(&lab, "blue", "olive");
    let brown = connected(&lab, "pink", "brown");

    does_not_reach(&green, addresses(&brown, "eth0"));
    does_not_reach(&brown, addresses(&green, "eth0"));
    reaches(&green, addresses(&olive, "eth0"));
    for container in [&green, &brown] {
        reaches(container, OUTSIDE);
    }

    let red = connected(&lab, "blue", "red");
    lab.weft(["network", "connect", "pink", "red"]).expect_ok();
    reaches(&red, addresses(&green, "eth0"));
    reaches(&red, addresses(&brown, "eth0"));
    reaches(&green, addresses(&red, "eth0"));
    reaches(&brown, addresses(&red, "eth1"));
    does_not_reach(&green, addresses(&brown, "eth0"));
}

#[test]
fn isolation_can_be_given_up() {
    let lab = Lab::new();
    create(&lab, 90, "blue", &[]);
    create(&lab, 91, "pink", &["-o", "isolate=false"]);
    let green = connected(&lab, "blue", "green");
    let brown = connected(&lab, "pink", "brown");
    reaches(&green, addresses(&brown, "eth0"));
    reaches(&brown, addresses(&green, "eth0"));
}

#[test]
fn an_internal_network_is_cut_off() {
    let lab = Lab::new();
    let outside = lab.uplink();
    // Nobody is let in to an ordinary network either, but by its published ports.
    let open = ["-o", "gateway_mode_ipv4=nat-unprotected", "-o", "gateway_mode_ipv6=nat-unprotected"];
    create(&lab, 90, "blue", &open);
    create(&lab, 91, "inner", &["--internal"]);
    let green = connected(&lab, "blue", "green");
    let brown = connected(&lab, "inner", "brown");
    let olive = connected(&lab, "inner", "olive");
    outside.ip("route add 10.0.0.0/8 via 192.0.2.1");
    outside.ip("route add fd00::/16 via 2001:db8:ffff::1");
    assert_eq!(brown.ip("route show default"), "", "the way out is missing to begin with");
    for container in [&brown, &olive] {
        container.ip("route add default via 10.91.0.1");
        container.ip("-6 route add default via fd00:91::1");
    }

    reaches(&outside, addresses(&green, "eth0"));
    does_not_reach(&outside, addresses(&brown, "eth0"));
    reaches(&green, OUTSIDE);
    does_not_reach(&brown, OUTSIDE);
    does_not_reach(&green, addresses(&brown, "eth0"));
    does_not_reach(&brown, addresses(&green, "eth0"));

    reaches(&brown, addresses(&olive, "eth0"));
    reaches(&brown, ["10.91.0.1", "fd00:91::1"]);
    for address in addresses(&brown, "eth0") {
        lab.sh(&format!("ping -n -c 1 -W 2 {address}")).expect_ok();
    }
}

#[test]
fn nothing_of_it_is_left() {
    let lab = Lab::new();
    lab.weft(["network", "ls"]).expect_ok();
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        lab.set_sysctl(key, "1");
    }
    let before = lab.snapshot();
    create(&lab, 90, "blue", &["-o", "bridge=br-blue"]);
    create(&lab, 91, "inner", &["--internal", "-o", "bridge=br-inner"]);
    for (network, name) in [("blue", "green"), ("inner", "brown")] {
        connected(&lab, network, name);
    }
    let ruleset = lab.ruleset();
    for line in [r#""br-blue" . "br-blue""#, r#""br-inner" . "br-inner""#] {
        assert!(ruleset.contains(line), "{ruleset}");
    }
    for (network, name) in [("blue", "green"), ("inner", "brown")] {
        lab.weft(["network", "disconnect", network, name]).expect_ok();
        assert!(lab.ruleset().contains(&format!("br-{network}")), "disconnecting keeps the network apart");
    }
    lab.weft(["network", "rm", "blue"]).expect_ok();
    assert!(!lab.ruleset().contains("br-blue"));
    lab.weft(["network", "rm", "inner"]).expect_ok();
    lab.assert_restored(&before);
}

fn plain(name: &str, number: u8, more: &Value) -> Value {
    let mut conf = json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br-{name}"),
        "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.{number}.0.0/24")}]]},
    });
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    conf
}

#[test]
fn a_plain_configuration_isolates_only_when_it_says_so() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let [n1, n2] = [("n1", 1), ("n2", 2)].map(|(name, number)| plain(name, number, &json!({})));
    let first = lab.plugin("bridge").json(&n1).add(&red).expect_json();
    lab.plugin("bridge").json(&n2).add(&green).expect_ok();
    assert!(red.ping("10.2.0.2"));
    assert!(!lab.ruleset().contains("table inet weft"), "{}", lab.ruleset());

    let isolated = json!({"isolate": true});
    for (name, number, at) in [("n1", 1, "blue"), ("n2", 2, "pink")] {
        lab.plugin("bridge").json(&plain(name, number, &isolated)).add(&lab.container(at)).expect_ok();
    }
    does_not_reach(&red, ["10.2.0.2"]);

    let check = || lab.plugin("bridge").json(&plain("n1", 1, &isolated)).prev_result(&first).check(&red);
    check().expect_ok();
    lab.sh("nft flush chain inet weft forward").expect_ok();
    assert!(check().expect_error(999)["msg"].as_str().unwrap().contains("rules of chain inet weft forward"));

    // A configuration that has forgotten about it takes it away all the same.
    lab.sh("nft flush ruleset").expect_ok();
    lab.plugin("bridge").json(&plain("n1", 1, &isolated)).add(&lab.container("grey")).expect_ok();
    assert!(lab.ruleset().contains("br-n1"));
    for (name, number) in [("n1", 1), ("n2", 2)] {
        lab.plugin("bridge").json(&plain(name, number, &json!({}))).gc(&[]).expect_ok();
    }
    assert!(!lab.ruleset().contains("table inet weft"), "{}", lab.ruleset());
}

#[test]
fn two_networks_on_one_bridge_are_one() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let shared = |name: &str, number: u8| {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": format!("fd00:{number}::/64")}]]});
        plain(name, number, &json!({"isolate": true, "bridge": "shared0", "ipam": ipam}))
    };
    lab.plugin("bridge").json(&shared("n1", 1)).add(&red).expect_ok();
    lab.plugin("bridge").json(&shared("n2", 2)).add(&green).expect_ok();
    reaches(&red, ["fd00:2::2"]);

    lab.plugin("bridge").json(&shared("n1", 1)).gc(&[]).expect_ok();
    assert!(lab.ruleset().contains(r#""shared0" . "shared0""#), "n2 wants it still: {}", lab.ruleset());
}

#[test]
fn what_cannot_work_is_refused_when_the_network_is_made() {
    let lab = Lab::new();
    let refused = |options: &[&str], words: &[&str]| {
        let create = ["network", "create", "--subnet", "10.90.0.0/24"];
        let output = lab.weft(create.into_iter().chain(options.iter().copied()).chain(["blue"]));
        assert_ne!(output.code, 0, "{output}");
        for word in words {
            assert!(output.to_string().contains(word), "{word}: {output}");
        }
    };
    refused(&["-o", "vlan=100"], &["vlan=100", "too long", "-o bridge=NAME", "11 bytes"]);
    refused(&["-o", "masquerade-backend=pf"], &["pf", "weft, nftables and iptables"]);
    refused(&["-o", "isolate=perhaps"], &["isolate=perhaps"]);
    refused(&["--subnet", "fd00:90::/64", "--ipv6", "-o", "mtu=1279"], &["mtu=1279", "1280"]);
    for options in
        [&["-o", "vlan=100", "-o", "bridge=br-blue"], &["-o", "mtu=1279", "-o", "masquerade-backend=weft"]]
    {
        let create = ["network", "create", "--subnet", "10.90.0.0/24"];
        lab.weft(create.into_iter().chain(options.iter().copied()).chain(["blue"])).expect_ok();
        lab.weft(["network", "rm", "blue"]).expect_ok();
    }
}

#[test]
fn a_network_that_no_container_could_join_can_be_removed() {
    let lab = Lab::new();
    let conf = plain("n1", 1, &json!({"bridge": "br0123456789abc", "vlan": 100}));
    let red = lab.container("red");
    lab.plugin("bridge").json(&conf).add(&red).expect_error(7);
    lab.plugin("bridge").json(&conf).del(&red).expect_ok();
    lab.plugin("bridge").json(&conf).gc(&[]).expect_ok();
}
