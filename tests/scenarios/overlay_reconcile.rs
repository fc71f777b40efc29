//! What an overlay has in a host's kernel comes back, is changed in place, and never takes what is somebody else's.

use weft_testkit::{Host, StaticNetwork, Underlay, reaches};

const BLUE: StaticNetwork = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");

/// What an overlay is in a host's kernel, as text.
fn state(host: &Host) -> Vec<String> {
    let mut lines = Vec::new();
    for command in [
        "ip -4 route show proto 201",
        "ip -6 route show proto 201",
        "ip neigh show dev ov1388 nud permanent",
        "bridge fdb show dev ov1388",
        "ip -details link show dev ov1388 | grep -o 'mtu [0-9]*\\|ether [0-9a-f:]*\\|vxlan id [0-9]*'",
    ] {
        lines.extend(host.sh(command).stdout.lines().map(|line| line.trim().to_string()));
    }
    lines.sort_unstable();
    lines
}

fn apply(host: &Host) {
    host.weft(["overlay", "apply"]).expect_ok();
}

#[test]
fn what_somebody_took_away_comes_back() {
    let net = Underlay::new(3);
    net.statics(&[BLUE], "v4");
    let (one, _) = net.host(1).connected("blue", "c");
    let (_, to_two) = net.host(2).connected("blue", "c");
    reaches(&one, &to_two);
    let host = net.host(1);
    let before = state(host);
    assert_eq!(
        before.iter().filter(|line| line.contains("via")).count(),
        4,
        "two peers, two families: {before:?}"
    );
    for damage in [
        "ip link delete ov1388",
        "ip route delete 10.1.0.128/26",
        "ip -6 route delete fd00:1::80/122",
        "ip neigh delete 10.1.0.128 dev ov1388",
        "bridge fdb delete $(bridge fdb show dev ov1388 | grep 192.0.2.2 | cut -d' ' -f1) dev ov1388",
        "ip link set ov1388 address 02:00:00:00:00:99",
        "ip link set ov1388 mtu 1300",
        "ip route change 10.1.0.128/26 via 10.1.0.192 dev ov1388 onlink proto 201",
        "bridge fdb replace $(bridge fdb show dev ov1388 | grep 192.0.2.2 | cut -d' ' -f1) dev ov1388 dst 192.0.2.9",
        "nft flush ruleset",
        // One that cannot be changed into ours any more: it is made anew, and its peers with it.
        "ip link set ov1388 down && ip link delete ov1388 && ip link add ov1388 type vxlan id 77 dstport 4789 local \
         192.0.2.1 && ip link set ov1388 alias $(cat {root}/alias)",
    ] {
        let alias = host.link("ov1388")["ifalias"].as_str().unwrap().to_string();
        host.write("alias", alias);
        host.sh(&damage.replace("{root}", &host.root().display().to_string())).expect_ok();
        if damage != "nft flush ruleset" {
            assert_ne!(state(host), before, "{damage} changed nothing");
        }
        apply(host);
        assert_eq!(state(host), before, "after {damage}");
        reaches(&one, &to_two);
    }
    // The second time there is nothing to do: nothing is announced, either.
    let announced = || {
        let line = "timeout 1 ip monitor link route neigh dev ov1388 & sleep 0.2; $CNI_PATH/weft overlay apply && echo applied; wait";
        let said = host.sh(line).stdout;
        assert!(said.contains("applied"), "{said}");
        said.contains("10.1.0") || said.contains("ov1388")
    };
    assert!(!announced());
    host.sh("ip route delete 10.1.0.128/26").expect_ok();
    assert!(announced(), "the positive twin");
}

#[test]
fn peers_come_go_and_change_their_attributes() {
    let mut net = Underlay::new(2);
    net.statics(&[BLUE], "v4");
    let (one, _) = net.host(1).connected("blue", "c");
    let lone = state(net.host(1));
    net.add_host(3);
    net.write_statics(&[BLUE], "v4");
    net.host(3).create_static(&BLUE);
    for host in net.hosts() {
        apply(host);
    }
    let (_, to_three) = net.host(3).connected("blue", "c");
    assert!(one.ping(&to_three[0]), "the first packet to a host that is new");
    assert_ne!(state(net.host(1)), lone);
    // The host has another address now: one entry changes, and nothing else.
    let before = state(net.host(1));
    let host3 = net.host(3);
    host3.ip("address add 192.0.2.33/24 dev u0");
    let moved = net.host(1).read("etc/weft/overlay/peers.d/h3.toml").replace("192.0.2.3\"", "192.0.2.33\"");
    for host in net.hosts() {
        host.write("etc/weft/overlay/peers.d/h3.toml", &moved);
    }
    host3.write("etc/weft/overlay/host.toml", &moved);
    for host in net.hosts() {
        apply(host);
    }
    let after = state(net.host(1));
    let changed: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(matches!(changed[..], [line] if line.contains("dst 192.0.2.33")), "{changed:?}");
    reaches(&one, &to_three);
    // And it goes: what is left is what there was.
    for host in [net.host(1), net.host(2)] {
        host.sh(&format!("rm {}/etc/weft/overlay/peers.d/h3.toml", host.root().display())).expect_ok();
        apply(host);
    }
    assert_eq!(state(net.host(1)), lone);
}

/// What a host has lost it does not give out, also when nothing else of the network can be done. The twin: what it has stays.
#[test]
fn a_block_that_is_lost_is_given_up_whatever_else_fails() {
    let net = Underlay::new(2);
    net.statics(&[BLUE], "v4");
    let host = net.host(1);
    let (first, _) = host.connected("blue", "c");
    // Somebody has a device of another kind in the place of the network's.
    host.ip("link delete ov1388");
    host.ip("link add ov1388 type bridge");
    let fails = || {
        host.weft(["overlay", "apply"]).expect_failure(1, &["ov1388"]);
    };
    let known = || host.read("run/weft/overlay/blue.json");
    fails();
    assert!(known().contains("10.1.0.64/26"), "{}", known());
    let file = "etc/weft/overlay/host.toml";
    host.write(file, host.read(file).replace("10.1.0.64/26", "10.1.1.0/26"));
    fails();
    assert!(!known().contains("10.1.0.64/26"), "{}", known());
    assert!(known().contains("fd00:1::40/122"), "{}", known());
    let late = host.container("late");
    let none = host.weft(["network", "connect", "blue", late.name()]);
    assert!(none.code != 0 && !late.has_link("eth0"), "{none}: {:?}", late.addresses("eth0"));
    // Once it can be done the host has what it has now.
    host.ip("link delete ov1388");
    host.weft(["network", "disconnect", "blue", first.name()]).expect_ok();
    apply(host);
    assert!(known().contains("10.1.1.0/26"), "{}", known());
}

#[test]
fn what_others_made_is_left_alone() {
    let net = Underlay::new(2);
    net.statics(&[BLUE], "v4");
    let host = net.host(1);
    let (one, _) = host.connected("blue", "c");
    let (_, to_two) = net.host(2).connected("blue", "c");
    for theirs in [
        "link add ov99 type vxlan id 99 dstport 4789 local 192.0.2.1",
        "link set ov99 up",
        "route add 10.77.0.0/16 via 192.0.2.2",
        "neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev u0 nud permanent",
    ] {
        host.ip(theirs);
    }
    host.sh("bridge fdb append 02:00:00:00:00:98 dev ov99 dst 192.0.2.2").expect_ok();
    apply(host);
    assert!(host.has_link("ov99"));
    assert!(host.ip("route show 10.77.0.0/16").contains("192.0.2.2"));
    assert!(host.ip("neigh show dev u0").contains("192.0.2.77"));
    assert!(host.sh("bridge fdb show dev ov99").expect_ok().contains("02:00:00:00:00:98"));
    // A route that is somebody else's is not taken over, and is named.
    host.ip("route delete 10.1.0.128/26");
    host.ip("route add 10.1.0.128/26 via 192.0.2.2");
    let told = host.weft(["overlay", "apply"]);
    assert_ne!(told.code, 0);
    assert!(told.stderr.contains("10.1.0.128/26"), "{told}");
    host.ip("route delete 10.1.0.128/26");
    apply(host);
    reaches(&one, &to_two);
}

#[test]
fn after_a_reboot_everything_is_as_it_was() {
    let net = Underlay::new(2);
    net.statics(&[BLUE], "v4");
    let host = net.host(1);
    host.connected("blue", "c");
    let (_, to_two) = net.host(2).connected("blue", "c");
    let before = state(host);
    // What a reboot takes: devices, rules, and /run.
    host.sh("ip netns delete h1-c; ip link delete ov1388; ip link delete ovb1388; nft flush ruleset")
        .expect_ok();
    host.sh("ip route flush proto 201; ip -6 route flush proto 201; rm -r $WEFT_ROOT/run/*").expect_ok();
    // The next container brings it all back, before its first packet.
    let (again, _) = host.connected("blue", "d");
    assert_eq!(state(host), before);
    assert!(again.ping(&to_two[0]));
}
