//! The way outside of networks that have a namespace of their own, and the end of the guard that all networks share.

use weft_testkit::{Container, StaticNetwork, Underlay, does_not_reach, reaches};

const EGRESS: &str = "isolated = true\negress = \"nat\"";

const fn tenant(name: &'static str, vni: u32, more: &'static str) -> StaticNetwork {
    StaticNetwork { name, vni, v4: "10.5", v6: Some("fd00:5"), more }
}

#[test]
fn isolated_networks_of_one_subnet_reach_the_outside_and_nobody_else() {
    let tenants = [
        tenant("ten-a", 7001, EGRESS),
        tenant("ten-b", 7002, EGRESS),
        tenant("ten-c", 7003, "isolated = true"),
        StaticNetwork::new("blue", 5000, "10.1", "fd00:1"),
    ];
    let net = Underlay::new(2);
    net.statics(&tenants, "v4");
    let host = net.host(1);
    let [a, b, c, blue] = tenants.map(|network| host.connected(network.name, network.name));
    let there = net.host(2).connected("ten-a", "ten-a");
    // Two tenants, and their containers have the same addresses.
    assert_eq!(a.1, b.1);
    for container in [&a.0, &b.0, &there.0] {
        reaches(container, Underlay::WORLD);
    }
    reaches(&a.0, &there.1);
    does_not_reach(&b.0, &there.1);
    // Without being asked for there is no way, and with it there is none into other networks or from them.
    does_not_reach(&c.0, Underlay::WORLD);
    reaches(host, &blue.1);
    for container in [&a.0, &c.0] {
        does_not_reach(container, &blue.1);
    }
    does_not_reach(&blue.0, &a.1);
    // Nobody gets in by it, not even who knows the way: what leads there drops all but answers.
    let uplink = uplink_of(host);
    reaches(host, [&uplink]);
    let other = net.host(2);
    other.ip(&format!("route add {uplink} via {}", host.ipv4()));
    does_not_reach(other, [&uplink]);
    // It is put back when somebody takes it, and goes with the network.
    host.ip("link delete ovu1b59");
    does_not_reach(&a.0, Underlay::WORLD);
    host.weft(["overlay", "apply"]).expect_ok();
    reaches(&a.0, Underlay::WORLD);
    // And is left alone when nothing is wrong with it.
    let index = host.link("ovu1b59")["ifindex"].clone();
    host.weft(["overlay", "apply"]).expect_ok();
    assert_eq!(host.link("ovu1b59")["ifindex"], index);
    assert!(host.ruleset().contains("weft_tunnels"));
    for network in ["ten-a", "ten-b", "ten-c", "blue"] {
        host.weft(["network", "disconnect", network, &format!("h1-{network}")]).expect_ok();
        host.weft(["network", "rm", network]).expect_ok();
    }
    assert!(!host.has_link("ovu1b59") && !host.ruleset().contains("weft_tunnels"));
}

#[test]
fn the_guard_goes_with_the_last_network() {
    let blue = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");
    let net = Underlay::new(2);
    net.statics(std::slice::from_ref(&blue), "v4");
    let host = net.host(1);
    host.weft(["overlay", "apply"]).expect_ok();
    assert!(host.ruleset().contains("table inet weft_tunnels") && host.has_link("ov1388"));
    net.host(2).weft(["overlay", "apply"]).expect_ok();
    host.weft(["network", "rm", "blue"]).expect_ok();
    assert!(!host.has_link("ov1388"));
    assert!(!host.ruleset().contains("weft_tunnels"), "{}", host.ruleset());
    // It is there again before the next device is.
    host.create_static(&blue);
    let (_, addresses) = host.connected("blue", "red");
    reaches(net.host(2), &addresses);
    assert!(host.ruleset().contains("table inet weft_tunnels"));
}

/// The address of the first tenant's own end of its uplink (VNI 7001 is 1b59).
fn uplink_of(host: &Container) -> String {
    let addresses = host.addresses("ovu1b59");
    let own = addresses.iter().find_map(|address| address.strip_suffix("/31")).unwrap();
    let own: std::net::Ipv4Addr = own.parse().unwrap();
    std::net::Ipv4Addr::from_bits(own.to_bits() + 1).to_string()
}
