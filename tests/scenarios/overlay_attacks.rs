//! What strangers send is not taken, and what is taken by others is said.

use weft_testkit::{StaticNetwork, Underlay, does_not_reach, reaches};

const BLUE: StaticNetwork = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");

#[test]
fn plain_vxlan_is_taken_from_known_hosts_alone() {
    taken_from_known_hosts_alone(BLUE);
}

/// What a stranger sends with the identifier of ours is dropped and counted.
pub(crate) fn taken_from_known_hosts_alone(blue: StaticNetwork) {
    let net = Underlay::new(2);
    net.statics(&[blue], "v4");
    let (one, to_one) = net.host(1).connected("blue", "c");
    let (two, _) = net.host(2).connected("blue", "c");
    let ear = one.ear(to_one[0].parse().unwrap());
    // A device as host 2 has it, on a host that nobody knows.
    let stranger = net.stranger(66);
    let mac = net.host(1).link("ov1388")["address"].as_str().unwrap().to_string();
    for words in [
        "link add vx type vxlan id 5000 dstport 4789 local 192.0.2.66 nolearning".to_string(),
        "link set vx up".into(),
        "address add 10.1.200.1/32 dev vx".into(),
        format!("neigh add 10.1.0.64 lladdr {mac} dev vx nud permanent"),
        format!("route add {} via 10.1.0.64 dev vx onlink", to_one[0]),
    ] {
        stranger.ip(&words);
    }
    stranger.run("bridge", &format!("fdb append {mac} dev vx dst 192.0.2.1")).expect_ok();
    let inject = || {
        stranger.inside(|| {
            let socket = std::net::UdpSocket::bind("10.1.200.1:0").unwrap();
            socket.send_to(b"canary", (to_one[0].as_str(), 777)).unwrap();
        })
    };
    inject();
    let counted = || net.host(1).sh("nft list chain inet weft_tunnels stranger").expect_ok().to_string();
    assert!(!counted().contains("packets 0"), "{}", counted());
    assert!(ear.so_far(&one).iter().all(|heard| heard.port != 777), "it was injected");
    // The positive twin: without the guard it arrives.
    net.host(1).sh("nft delete table inet weft_tunnels").expect_ok();
    inject();
    assert_eq!(ear.expect(17, 777).source.to_string(), "10.1.200.1");
    net.host(1).weft(["overlay", "apply"]).expect_ok();
    assert!(counted().contains("packets 0"));
    inject();
    assert!(ear.so_far(&one).iter().all(|heard| heard.port != 777));
    reaches(&two, &to_one);
}

#[test]
fn outer_packets_are_neither_tracked_nor_translated() {
    let net = Underlay::new(2);
    net.statics(&[BLUE], "v4");
    let (one, _) = net.host(1).connected("blue", "c");
    let (_, to_two) = net.host(2).connected("blue", "c");
    // A rule that translates whatever leaves, as hosts may have it.
    net.host(1)
        .sh("nft 'add table ip t; add chain ip t p { type nat hook postrouting priority 100; }; \
             add rule ip t p oifname u0 snat to 192.0.2.77'")
        .expect_ok();
    let senders = |expected: &str| {
        let capture = net.capture();
        one.ping(&to_two[0]);
        // An IPv4 header behind the Ethernet header, and UDP to 4789 behind that.
        let outer =
            |frame: &&Vec<u8>| frame.get(12..14) == Some(&[8, 0]) && frame.get(36..38) == Some(&[0x12, 0xb5]);
        let frames = capture.stop();
        let sources = frames
            .iter()
            .filter(outer)
            .filter_map(|frame| frame.get(26..30))
            .map(|octets| octets.iter().map(ToString::to_string).collect::<Vec<_>>().join("."));
        let sources: std::collections::BTreeSet<String> = sources.collect();
        assert!(sources.contains(expected), "{sources:?}");
        sources
    };
    assert!(!senders("192.0.2.1").contains("192.0.2.77"));
    // The positive twin: without our table, that is what would happen.
    net.host(1).sh("nft delete table inet weft_tunnels").expect_ok();
    assert!(!senders("192.0.2.77").contains("192.0.2.1"));
}

#[test]
fn an_identifier_that_somebody_has_is_named() {
    let net = Underlay::new(2);
    net.statics(&[BLUE], "v4");
    let host = net.host(1);
    host.ip("link add theirs type vxlan id 5000 dstport 4789 local 192.0.2.1");
    let red = host.container("c");
    let told = host.weft(["network", "connect", "blue", red.name()]);
    told.expect_failure(
        1,
        &["VNI 5000 on UDP port 4789 is taken by VXLAN device theirs", "ip link delete theirs"],
    );
    assert!(!host.has_link("ov1388") && !red.has_link("eth0"));
    assert!(host.has_link("theirs"));
    host.ip("link delete theirs");
    // A device of many networks has the whole port.
    host.ip("link add theirs type vxlan external dstport 4789");
    host.ip("link set theirs up");
    let told = host.weft(["network", "connect", "blue", red.name()]);
    told.expect_failure(1, &["UDP port 4789, which ov1388 needs, is taken", "hint: "]);
    assert!(!red.has_link("eth0"));
    host.ip("link delete theirs");
    host.weft(["network", "connect", "blue", red.name()]).expect_ok();
}

#[test]
fn a_subnet_that_the_host_reaches_elsewhere_is_refused() {
    let net = Underlay::new(2);
    net.write_statics(&[BLUE], "v4");
    let host = net.host(1);
    host.ip("route add 10.1.7.0/24 via 192.0.2.2");
    let told = host.weft(["network", "create", "-d", "overlay", "--subnet", "10.1.0.0/16", "blue"]);
    assert_ne!(told.code, 0);
    assert!(told.stderr.contains("10.1"), "{told}");
    // The route comes later: the device is not made over it.
    host.ip("route delete 10.1.7.0/24");
    host.create_static(&BLUE);
    host.ip("route add 10.1.7.0/24 via 192.0.2.2");
    let red = host.container("c");
    let told = host.weft(["network", "connect", "blue", red.name()]);
    told.expect_failure(1, &["subnet 10.1.0.0/16 overlaps 10.1.7.0/24 of this host, by u0"]);
    host.ip("route delete 10.1.7.0/24");
    host.weft(["network", "connect", "blue", red.name()]).expect_ok();
    // The underlay itself.
    let over = StaticNetwork { name: "over", vni: 6000, v4: "192.0", v6: None, more: "" };
    net.write_statics(&[BLUE, over], "v4");
    let told = host.weft(["network", "create", "-d", "overlay", "--subnet", "192.0.0.0/16", "over"]);
    assert_ne!(told.code, 0);
    assert!(told.stderr.contains("192.0"), "{told}");
}

#[test]
fn networks_of_their_own_namespace_may_have_the_same_subnet() {
    let isolated =
        |name, vni| StaticNetwork { name, vni, v4: "10.5", v6: Some("fd00:5"), more: "isolated = true" };
    let (a, b) = (isolated("ten-a", 7001), isolated("ten-b", 7002));
    let net = Underlay::new(2);
    net.statics(&[a, b], "v4");
    let (a1, to_a1) = net.host(1).connected("ten-a", "a");
    let (b1, to_b1) = net.host(1).connected("ten-b", "b");
    let (a2, to_a2) = net.host(2).connected("ten-a", "a");
    assert_eq!(to_a1, to_b1, "the same address twice on one host");
    for address in &to_a2 {
        assert!(a1.ping(address), "{address}");
    }
    // Nobody in the other network has the address yet: what would answer is the first tenant's.
    does_not_reach(&b1, &to_a2);
    let (b2, to_b2) = net.host(2).connected("ten-b", "b");
    assert_eq!(to_a2, to_b2);
    reaches(&b1, &to_b2);
    let (on_a, on_b) = (a2.serve_tcp(80), b2.serve_tcp(80));
    let to = to_a2[0].parse().unwrap();
    assert_eq!(a1.ask_tcp(to, on_a.port()).unwrap().by, a2.name());
    assert_eq!(b1.ask_tcp(to, on_b.port()).unwrap().by, b2.name());
    // The host is not in either.
    assert!(!net.host(1).ping(&to_a1[0]));
    for (container, network) in [(&a1, "ten-a"), (&b1, "ten-b")] {
        net.host(1).weft(["network", "disconnect", network, container.name()]).expect_ok();
        net.host(1).weft(["network", "rm", network]).expect_ok();
    }
    assert!(!net.host(1).path("run/weft/overlay/netns/ten-a").exists());
    reaches(&a2, [&to_a2[0]]);
}
