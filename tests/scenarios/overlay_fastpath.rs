//! Networks whose packets pass by the firewall: faster, and otherwise as any other.

use std::net::IpAddr;
use std::path::Path;

use weft_testkit::{
    Cluster, Host, Lab, StaticNetwork, Underlay, does_not_reach, falls_silent, reaches, skip_unless,
};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_attacks::taken_from_known_hosts_alone;
use crate::overlay_mtu::{copy, each_way_has_its_limit};

const SLOW: StaticNetwork = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");
const FAST: StaticNetwork = StaticNetwork { more: "fastpath = true", ..SLOW };

/// What the kernel needs to have, for those that it may lack.
pub(crate) const NEEDS: &str =
    "a kernel with CONFIG_BPF_SYSCALL, CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF";

/// Whether the kernel lets a program decide about what a link receives, as others find out.
pub(crate) fn is_capable(lab: &Lab) -> bool {
    let attached = "tc qdisc add dev lo ingress && tc filter add dev lo ingress bpf bytecode '1,6 0 0 0'";
    Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists()
        && lab.sh(&format!("unshare -n sh -c \"{attached}\"")).code == 0
}

/// The administrator lets nothing pass any more.
fn shut(host: &Host) {
    host.sh("nft add rule inet weft user counter drop").expect_ok();
}

/// Whether what a link receives takes a shortcut.
fn has_shortcut(host: &Host, link: &str) -> bool {
    host.sh(&format!("tc filter show dev {link} ingress")).stdout.contains("weft shortcut")
}

/// The one port of a network's bridge.
fn port_of(host: &Host, bridge: &str) -> String {
    let ports = host.ip_json(&format!("link show master {bridge}"));
    ports[0]["ifname"].as_str().unwrap().to_owned()
}

#[test]
fn the_fast_path_passes_by_the_firewall_and_the_slow_one_does_not() {
    for (network, fast) in [(FAST, true), (SLOW, false)] {
        let net = Underlay::new(2);
        skip_unless!(!fast || is_capable(net.lab()), NEEDS);
        net.statics(&[network], "v4");
        let (one, to_one) = net.host(1).connected("blue", "c");
        let (two, to_two) = net.host(2).connected("blue", "c");
        // Whose Ethernet address nobody knows yet is asked for on the slow path.
        reaches(&one, &to_two);
        reaches(&two, &to_one);
        reaches(&one, Underlay::WORLD);
        net.hosts().iter().for_each(shut);
        does_not_reach(&one, Underlay::WORLD);
        if !fast {
            does_not_reach(&one, &to_two);
            continue;
        }
        reaches(&one, &to_two);
        reaches(&two, &to_one);
        // Small and large ones, one by one and merged, there and back.
        for (server, client, to) in [(&two, &one, &to_two), (&one, &two, &to_one)] {
            for address in to {
                assert_eq!(copy(server, client, address), 20 << 20, "{address}");
                let limit = if address.contains(':') { 1450 - 48 } else { 1450 - 28 };
                let largest = client.run("ping", &format!("-n -c 1 -W 2 -M do -s {limit} {address}"));
                assert_eq!(largest.code, 0, "{largest}");
            }
        }
    }
}

/// Of connections whose checksums nobody offloads the host has summed the packets itself (CHECKSUM_COMPLETE).
#[test]
fn the_fast_path_keeps_checksums_right() {
    let net = Underlay::new(2);
    skip_unless!(is_capable(net.lab()), NEEDS);
    net.statics(&[FAST], "v4");
    let (one, to_one) = net.host(1).connected("blue", "c");
    let (two, to_two) = net.host(2).connected("blue", "c");
    for (host, container) in [(net.host(1), &one), (net.host(2), &two)] {
        host.sh("ethtool -K u0 tx off rx off").expect_ok();
        container.run("ethtool", "-K eth0 tx off rx off").expect_ok();
    }
    reaches(&one, &to_two);
    reaches(&two, &to_one);
    net.hosts().iter().for_each(shut);
    for (server, client, to) in [(&two, &one, &to_two), (&one, &two, &to_one)] {
        for address in to {
            assert_eq!(copy(server, client, address), 20 << 20, "{address}");
        }
    }
}

#[test]
fn a_lifetime_that_ends_on_the_fast_path_is_answered() {
    let net = Underlay::new(2);
    skip_unless!(is_capable(net.lab()), NEEDS);
    net.statics(&[FAST], "v4");
    let (one, _) = net.host(1).connected("blue", "c");
    let (_two, to_two) = net.host(2).connected("blue", "c");
    reaches(&one, &to_two);
    for (address, hosts) in to_two.iter().zip([["10.1.0.65", "10.1.0.129"], ["fd00:1", "fd00:1"]]) {
        let living = |hops: usize| one.run("ping", &format!("-n -c 1 -W 2 -t {hops} {address}"));
        for (at, host) in hosts.iter().enumerate() {
            let told = living(at + 1);
            let text = format!("{}{}", told.stdout, told.stderr);
            assert!(told.code != 0 && text.contains(&format!("From {host}")), "{at}: {text}");
            assert!(text.contains("exceeded"), "{text}");
        }
        // A host each.
        assert_eq!(living(3).code, 0, "{address}");
    }
}

#[test]
fn a_packet_too_large_for_the_fast_path_is_answered() {
    skip_unless!(is_capable(&Lab::new()), NEEDS);
    each_way_has_its_limit(FAST, "v4", 50);
}

#[test]
fn the_fast_path_of_a_network_leads_into_no_other() {
    let red = StaticNetwork { more: "fastpath = true", ..StaticNetwork::new("red", 5001, "10.2", "fd00:2") };
    let net = Underlay::new(2);
    skip_unless!(is_capable(net.lab()), NEEDS);
    net.statics(&[FAST, red], "v4");
    let (blue1, _) = net.host(1).connected("blue", "b");
    let (_blue2, to_blue2) = net.host(2).connected("blue", "b");
    let (red1, _) = net.host(1).connected("red", "r");
    let (_red2, to_red2) = net.host(2).connected("red", "r");
    reaches(&blue1, &to_blue2);
    reaches(&red1, &to_red2);
    does_not_reach(&red1, &to_blue2);
    does_not_reach(&blue1, &to_red2);
    // Nothing but the firewall's isolation keeps them apart.
    for host in net.hosts() {
        host.sh("nft flush chain inet weft forward").expect_ok();
    }
    reaches(&red1, &to_blue2);
}

/// What a container answers goes past what would give the answer the port's address.
#[test]
fn a_published_port_is_called_from_the_other_end_of_the_fast_path() {
    let net = Underlay::new(2);
    skip_unless!(is_capable(net.lab()), NEEDS);
    net.statics(&[FAST], "v4");
    let (caller, to_caller) = net.host(1).connected("blue", "caller");
    let (server, to_server) = net.host(2).connected("blue", "server");
    let host = net.host(2);
    let _http = server.serve_tcp(80);
    let _dns = server.serve_udp(53);
    reaches(&caller, &to_server);
    let gateways = ["10.1.0.129", "fd00:1::81"].map(|text| text.parse::<IpAddr>().unwrap());
    let of = |address: &IpAddr| usize::from(address.is_ipv6());
    for gateway in gateways {
        assert!(caller.call_tcp(gateway, 8080).is_err(), "nothing is published yet");
    }
    // On a container that runs.
    host.weft(["port", "publish", server.name(), "8080:80", "5300:53/udp"]).expect_ok();
    for gateway in gateways {
        let direct = to_server[of(&gateway)].parse().unwrap();
        assert_eq!(caller.call_tcp(direct, 80).unwrap().to_string(), to_caller[of(&gateway)]);
        assert_eq!(caller.call_tcp(gateway, 8080).unwrap(), gateway, "the caller is seen as the gateway");
        assert_eq!(caller.ask_udp(gateway, 5300).unwrap().caller, gateway);
    }
    // The positive twin: it is this that leads answers to the host.
    host.sh("nft flush chain inet weft hairpin").expect_ok();
    assert!(gateways.iter().all(|gateway| caller.call_tcp(*gateway, 8080).is_err()));
    host.weft(["overlay", "apply"]).expect_ok();
    assert!(gateways.iter().all(|gateway| caller.call_tcp(*gateway, 8080).is_ok()));
    host.weft(["port", "unpublish", server.name(), "8080:80"]).expect_ok();
    assert!(gateways.iter().all(|gateway| falls_silent(&caller, &gateway.to_string(), 8080)));
}

/// The program is taken, and nothing asks it. `cargo xtask test --kernel debian` has such a kernel.
#[test]
fn a_kernel_without_a_classifier_refuses_the_fast_path() {
    let cluster = Cluster::new(1);
    let capable = is_capable(cluster.underlay.lab());
    skip_unless!(!capable, "a kernel without CONFIG_NET_CLS_BPF, which this test is about");
    let words = ["network", "create", "-d", "overlay", "-o", "fastpath", "fast"];
    let why = ["option fastpath", "CONFIG_NET_CLS_BPF", "hint: leave it out"];
    cluster.host(1).weft(words).expect_failure(1, &why);
    cluster.network(1, &["slow"]);
    // A network that another host has made.
    let net = Underlay::new(2);
    net.statics(&[FAST], "v4");
    let (one, _) = net.host(1).connected("blue", "c");
    let (_two, to_two) = net.host(2).connected("blue", "c");
    reaches(&one, &to_two);
    net.host(1).weft(["overlay", "apply"]).expect_ok();
    let told = net.host(1).weft(["doctor"]);
    assert!(
        told.stdout.contains("packets go the slow way") && told.stdout.contains("CONFIG_NET_CLS_BPF"),
        "{told}"
    );
    assert_eq!(net.host(1).sh("tc qdisc show dev ov1388").expect_ok().matches("ingress").count(), 0);
}

#[test]
fn the_fast_path_does_not_let_strangers_in() {
    skip_unless!(is_capable(&Lab::new()), NEEDS);
    taken_from_known_hosts_alone(FAST);
}

#[test]
fn the_fast_path_of_an_isolated_network_is_in_its_namespace() {
    let isolated = "isolated = true\nfastpath = true";
    let [a, b] = [("ten-a", 7001), ("ten-b", 7002)].map(|(name, vni)| StaticNetwork {
        more: isolated,
        ..StaticNetwork::new(name, vni, "10.5", "fd00:5")
    });
    let net = Underlay::new(2);
    skip_unless!(is_capable(net.lab()), NEEDS);
    net.statics(&[a, b], "v4");
    let (a1, _) = net.host(1).connected("ten-a", "a");
    let (_a2, to_a2) = net.host(2).connected("ten-a", "a");
    let (b1, _) = net.host(1).connected("ten-b", "b");
    reaches(&a1, &to_a2);
    does_not_reach(&b1, &to_a2);
    let root = net.host(1).path("run/weft/overlay/netns/ten-a");
    let shown =
        net.host(1).sh(&format!("nsenter --net={} tc filter show dev ov1b59 ingress", root.display()));
    assert!(shown.expect_ok().contains("weft shortcut"), "{}", shown.stdout);
}

#[test]
fn a_fast_path_that_somebody_took_away_comes_back() {
    let net = Underlay::new(2);
    skip_unless!(is_capable(net.lab()), NEEDS);
    net.statics(&[FAST], "v4");
    let host = net.host(1);
    let (one, _) = host.connected("blue", "c");
    let (_two, to_two) = net.host(2).connected("blue", "c");
    let port = port_of(host, "ovb1388");
    for link in ["ov1388", &port] {
        assert!(has_shortcut(host, link), "{link}");
        // What else doctor may have to say on a busy machine is not what this is about.
        assert!(!host.weft(["doctor"]).stdout.contains("has no shortcut"), "{link}");
        host.sh(&format!("tc qdisc del dev {link} ingress")).expect_ok();
        assert!(!has_shortcut(host, link), "{link}");
        // Nothing is lost without.
        reaches(&one, &to_two);
        let told = host.weft(["doctor"]);
        assert!(told.code != 0 && told.stdout.contains(&format!("{link} has no shortcut")), "{told}");
        host.weft(["overlay", "apply"]).expect_ok();
        assert!(has_shortcut(host, link), "{link}");
    }
    host.weft(["network", "disconnect", "blue", one.name()]).expect_ok();
    host.weft(["network", "rm", "blue"]).expect_ok();
    assert!(!host.has_link("ov1388") && !host.has_link(&port));
}

#[test]
fn the_agent_puts_the_fast_path_back() {
    let cluster = Cluster::new(2);
    skip_unless!(is_capable(cluster.underlay.lab()), NEEDS);
    let host = cluster.host(1);
    let both = ["network", "create", "-d", "overlay", "-o", "encrypted", "-o", "fastpath", "both"];
    host.weft(both).expect_failure(2, &["option fastpath", "it is encrypted"]);
    let gated = ["network", "create", "-d", "overlay", "-o", "encrypted", "-o", "fastpath=auto", "both"];
    host.weft(gated).expect_failure(2, &["option fastpath", "it is encrypted"]);
    host.weft(["network", "create", "-d", "overlay", "-o", "fastpath=maybe", "bad"])
        .expect_failure(2, &["option fastpath", "auto, true or false"]);
    cluster.network(1, &["--ipv6", "-o", "fastpath", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    reaches(&red, addresses(&green));
    let vxlan = host.sh("ip -o link show type vxlan | cut -d: -f2 | tr -d ' '").expect_ok().trim().to_owned();
    cluster.eventually("the shortcut is there", || has_shortcut(host, &vxlan));
    let shown = host.weft(["overlay", "status"]);
    assert!(shown.expect_ok().contains("plain, fastpath") && !shown.stdout.contains("slow"), "{shown}");
    host.sh(&format!("tc qdisc del dev {vxlan} ingress")).expect_ok();
    cluster.eventually("the shortcut is there again", || has_shortcut(host, &vxlan));
    cluster.eventually("all is well", || host.weft(["overlay", "peers", "--verify"]).code == 0);
    reaches(&red, addresses(&green));
}
