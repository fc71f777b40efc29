//! Options by docker's names: `-o com.docker.network.…` does what docker's does.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_testkit::{Cluster, Container, Lab, Output, skip_unless};

use crate::overlay_agent::connected;

/// Every name of docker's that a driver knows, with a value that makes a difference.
const VALUES: [(&str, &str, &str); 11] = [
    ("bridge", "com.docker.network.bridge.name", "mybr"),
    ("bridge", "com.docker.network.driver.mtu", "1400"),
    ("bridge", "com.docker.network.bridge.enable_ip_masquerade", "false"),
    ("bridge", "com.docker.network.bridge.enable_icc", "false"),
    ("bridge", "com.docker.network.bridge.gateway_mode_ipv4", "routed"),
    ("bridge", "com.docker.network.bridge.gateway_mode_ipv6", "routed"),
    ("bridge", "com.docker.network.host_ipv4", "192.0.2.77"),
    ("bridge", "com.docker.network.host_ipv6", "2001:db8:ffff::77"),
    ("bridge", "com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
    ("macvlan", "com.docker.network.driver.mtu", "1400"),
    ("ipvlan", "com.docker.network.driver.mtu", "1400"),
];

/// Those of the driver whose networks need a cluster.
const OF_OVERLAY: [(&str, &str); 2] =
    [("com.docker.network.driver.mtu", "1300"), ("com.docker.network.driver.overlay.vxlanid_list", "4711")];

/// Returns docker's names in a driver's description, each with the driver's own.
fn aliases(described: &Output) -> BTreeMap<String, String> {
    let (_, table) = described.expect_ok().split_once("ALSO KNOWN AS\n").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.map(|row| {
        let [own, others] = row[..] else { panic!("{row:?}") };
        (own.to_string(), others.to_string())
    });
    rows.flat_map(|(own, others)| {
        others.split(',').map(|other| (other.to_string(), own.clone())).collect::<Vec<_>>()
    })
    .filter(|(other, _)| other.starts_with("com.docker."))
    .collect()
}

/// Creates a network with an option, and returns its plugins and its options; then it is removed.
fn created(lab: &Lab, driver: &str, option: Option<&str>) -> (Value, Value) {
    let subnets = ["--ipv6", "--subnet", "10.90.0.0/24", "--subnet", "fd00:90::/64"];
    let words = ["network", "create", "-d", driver].into_iter().chain(subnets);
    let parent = (driver != "bridge").then_some("parent=up0");
    // The bridge is called after the network's id, which is another each time.
    let names_it =
        option.is_some_and(|option| option.starts_with("bridge=") || option.contains(".bridge.name="));
    let named = (driver == "bridge" && !names_it).then_some("bridge=br-blue");
    let options = parent.into_iter().chain(named).chain(option).flat_map(|option| ["-o", option]);
    lab.weft(words.chain(options).chain(["blue"])).expect_ok();
    let mut list: Value = serde_json::from_str(&lab.read("etc/weft/networks.d/blue.conflist")).unwrap();
    lab.weft(["network", "rm", "blue"]).expect_ok();
    (list["plugins"].take(), list["weft"]["options"].take())
}

#[test]
fn each_makes_the_network_that_our_own_name_makes() {
    let lab = Lab::new();
    lab.uplink();
    lab.ip("address add 192.0.2.77/24 dev uplink0");
    lab.ip("address add 2001:db8:ffff::77/64 dev uplink0 nodad");
    lab.ip("link add up0 type veth peer name up1");
    lab.ip("link set up0 up");
    for driver in ["bridge", "macvlan", "ipvlan"] {
        let aliases = aliases(&lab.weft(["plugin", "describe", driver]));
        let (plain, _) = created(&lab, driver, None);
        let listed: Vec<&str> =
            VALUES.iter().filter(|(of, _, _)| *of == driver).map(|(_, name, _)| *name).collect();
        assert!(aliases.keys().all(|name| listed.contains(&name.as_str())), "{aliases:?} and {listed:?}");
        for (_, name, value) in VALUES.iter().filter(|(of, _, _)| *of == driver) {
            let (ours, _) = created(&lab, driver, Some(&format!("{}={value}", aliases[*name])));
            let (dockers, options) = created(&lab, driver, Some(&format!("{name}={value}")));
            assert_eq!(dockers, ours, "{driver}: {name}");
            assert_ne!(dockers, plain, "{driver}: {name} makes no difference");
            assert_eq!(options[*name], json!(value), "what was typed is shown");
        }
    }
}

fn joined(lab: &Lab, name: &str) -> Container {
    let container = lab.container(name);
    lab.weft(["network", "connect", "blue", name]).expect_ok();
    container
}

#[test]
fn enable_icc_false_keeps_neighbours_apart() {
    let lab = Lab::new();
    for (value, reach) in [("true", true), ("false", false)] {
        let option = format!("com.docker.network.bridge.enable_icc={value}");
        lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "-o", &option, "blue"]).expect_ok();
        let (red, green) = (joined(&lab, "red"), joined(&lab, "green"));
        assert!(red.ping("10.90.0.1"), "the gateway is no neighbour");
        let address = green.addresses("eth0")[0].replace("/24", "");
        assert_eq!(red.ping(&address), reach, "{option}");
        for container in [red, green] {
            lab.weft(["network", "disconnect", "blue", container.name()]).expect_ok();
            container.vanish();
        }
        lab.weft(["network", "rm", "blue"]).expect_ok();
    }
}

#[test]
fn enable_ip_masquerade_false_keeps_the_containers_address() {
    let lab = Lab::new();
    let outside = lab.uplink_that_answers();
    outside.ip("route add 10.90.0.0/24 via 192.0.2.1");
    let service = outside.serve_tcp(0);
    for (value, caller) in [("true", "192.0.2.1"), ("false", "10.90.0.2")] {
        let option = format!("com.docker.network.bridge.enable_ip_masquerade={value}");
        lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "-o", &option, "blue"]).expect_ok();
        let red = joined(&lab, "red");
        let seen = red.call_tcp("192.0.2.2".parse().unwrap(), service.port()).unwrap();
        assert_eq!(seen.to_string(), caller, "{option}");
        lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
        red.vanish();
        lab.weft(["network", "rm", "blue"]).expect_ok();
    }
}

#[test]
fn the_mtu_of_a_network_on_a_link_of_the_host() {
    let lab = Lab::new();
    let _far = lab.wire();
    for driver in ["macvlan", "ipvlan"] {
        skip_unless!(lab.has_link_type_on("up0", driver), "a kernel with links of type macvlan and ipvlan");
        let options = ["-o", "parent=up0", "-o", "com.docker.network.driver.mtu=1400"];
        let words = ["network", "create", "-d", driver, "--subnet", "10.1.2.0/24"];
        lab.weft(words.into_iter().chain(options).chain(["blue"])).expect_ok();
        let red = joined(&lab, "red");
        assert_eq!(red.link("eth0")["mtu"], 1400, "{driver}");
        lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
        red.vanish();
        lab.weft(["network", "rm", "blue"]).expect_ok();
    }
}

#[test]
fn the_mtu_and_the_number_of_an_overlay() {
    let cluster = Cluster::new(1);
    let host = cluster.host(1);
    let known = aliases(&host.weft(["plugin", "describe", "overlay"]));
    assert!(known.keys().all(|name| OF_OVERLAY.iter().any(|(listed, _)| listed == name)), "{known:?}");
    let options = OF_OVERLAY.map(|(name, value)| format!("{name}={value}"));
    let words: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).chain(["blue"]).collect();
    cluster.network(1, &words);
    let red = connected(&cluster, 1, "red");
    assert_eq!(red.link("eth0")["mtu"], 1300);
    let links = host.sh("ip -details link show type vxlan");
    assert!(links.expect_ok().contains("vxlan id 4711 "), "{links}");
}
