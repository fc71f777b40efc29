//! What reaches a network from outside, and the administrator's word in it.

use std::time::{Duration, Instant};

use weft_firewall::{
    Change, Firewall, Fragment, Guard, Isolation, Publish, SourceAddress, diagnose, ensure, observe, reload,
    remove,
};
use weft_model::port::Protocol::Tcp;
use weft_model::{GatewayMode, Gateways};
use weft_netns::isolate;
use weft_nft::{Family, Socket, Table};

use crate::calls::{call, is_silent, reach, serve};
use crate::lab::{
    BLUE, Lab, OWN, RED, SERVER, UPLINK, attachment, claims, endpoint, has, is_documented, loads, ruleset,
    run, seen_source, sh,
};
use crate::ownership::root;
use crate::publishing::{fragment, guard, publish, publish_on};

const TABLE: Table = Table::new(Family::Inet, "weft");
const NOTHING: [String; 0] = [];

fn isolation(network: &str, bridge: &str, internal: bool) -> Fragment {
    Fragment::Isolation(Isolation {
        network: network.parse().unwrap(),
        bridge: bridge.parse().unwrap(),
        links: Vec::new(),
        internal,
        backend: weft_firewall::Backend::Weft,
        claims: claims(),
    })
}

fn open_eighty(container: &str) -> Fragment {
    fragment(publish(container, &["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp [::]:8080 -> [fd00:1::2]:80"]))
}

/// Whether one of a few echo requests is answered: the first ones may wait for a neighbour.
fn answers_ping(from: &str, address: &str) -> bool {
    run(&format!("ip netns exec {from} ping -c 1 -w 5 -i 0.2 -q {address}")).status.success()
}

#[test]
fn unpublished_ports_are_not_reached_from_outside() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80, 81]);
    let _server = serve(&lab.server, Tcp, &[90]);
    for family in [0, 1] {
        reach(&lab.server, Tcp, RED[family], 81);
    }
    let guards =
        [guard("n1", "wire-red", GatewayMode::Nat), guard("n2", "wire-blue", GatewayMode::NatUnprotected)];
    for one in &guards {
        assert!(!observe(one).unwrap().is_empty());
        assert_eq!(ensure(one).unwrap(), Change::Made);
        assert_eq!(ensure(one).unwrap(), Change::AlreadyThere);
        assert_eq!(observe(one).unwrap(), NOTHING);
    }
    ensure(&open_eighty("red")).unwrap();
    for family in [0, 1] {
        assert_eq!(call(&lab.server, Tcp, RED[family], 81), None, "from outside");
        assert_eq!(
            call(&lab.server, Tcp, RED[family], 80),
            None,
            "not even what is published, but as published:"
        );
        assert_eq!(reach(&lab.server, Tcp, UPLINK[family], 8080), format!("{} at 80", SERVER[family]));
        assert_eq!(reach(&lab.blue, Tcp, RED[family], 81), format!("{} at 81", BLUE[family]), "from inside");
        assert_eq!(
            reach(&lab.red, Tcp, SERVER[family], 90),
            format!("{} at 90", RED[family]),
            "answers pass"
        );
        reach(&lab.host, Tcp, RED[family], 81);
    }
    assert_eq!(seen_source((&lab.server, SERVER[0]), (&lab.blue, BLUE[0]), |_| {}).to_string(), SERVER[0]);

    remove(&guards[0]).unwrap();
    remove(&guards[0]).unwrap();
    for family in [0, 1] {
        reach(&lab.server, Tcp, RED[family], 81);
    }
}

#[test]
fn a_routed_network_is_entered_at_its_published_ports() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80, 81, 85, 95]);
    let routed = GatewayMode::Routed;
    let gateways = Gateways { ipv4: routed, ipv6: routed };
    ensure(&guard("n1", "wire-red", routed)).unwrap();
    for family in [0, 1] {
        assert_eq!(call(&lab.server, Tcp, RED[family], 80), None);
        if has("ping") {
            assert!(answers_ping("server", RED[family]), "ICMP is let in");
        }
    }
    let ports = Publish {
        gateways,
        ..publish(
            "red",
            &[
                "tcp 0.0.0.0:8080 -> 10.1.0.2:80",
                "tcp [::]:8080 -> [fd00:1::2]:80 from 2001:db8::/64",
                "tcp 0.0.0.0:9080-9089 -> 10.1.0.2:80-89",
                "tcp [::]:9090-9099 -> [fd00:1::2]:90-99 from 2001:db8:1::/48",
            ],
        )
    };
    let ports = fragment(ports);

    assert_eq!(ensure(&ports).unwrap(), Change::Made);

    assert_eq!(observe(&ports).unwrap(), NOTHING);
    for family in [0, 1] {
        assert_eq!(reach(&lab.server, Tcp, RED[family], 80), format!("{} at 80", SERVER[family]));
        assert_eq!(call(&lab.server, Tcp, UPLINK[family], 8080), None, "nothing is translated");
        assert_eq!(call(&lab.server, Tcp, RED[family], 95), None);
    }
    assert_eq!(reach(&lab.server, Tcp, RED[0], 85), format!("{} at 85", SERVER[0]));
    assert_eq!(call(&lab.server, Tcp, RED[1], 81), None);
    remove(&ports).unwrap();
    for family in [0, 1] {
        is_silent(&lab.server, Tcp, RED[family], 80);
    }
}

#[test]
fn a_list_of_one_container_is_no_list_of_anothers() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[8443, 9443]);
    let _blue = serve(&lab.blue, Tcp, &[443]);
    let routed = GatewayMode::Routed;
    ensure(&guard("n1", "wire-red", routed)).unwrap();
    let everybody = [
        "tcp 0.0.0.0:8443 -> 10.1.0.2:8443",
        "tcp [::]:8443 -> [fd00:1::2]:8443",
        "tcp 0.0.0.0:9440-9449 -> 10.1.0.2:9440-9449",
    ];
    let gateways = Gateways { ipv4: routed, ipv6: routed };
    ensure(&fragment(Publish { gateways, ..publish("red", &everybody) })).unwrap();
    let listed = [
        "tcp 0.0.0.0:8443 -> 10.1.0.3:443 from 198.51.100.0/24",
        "tcp [::]:8443 -> [fd00:1::3]:443 from 2001:db8:7::/48",
        "tcp 0.0.0.0:9440-9449 -> 10.1.0.3:440-449 from 198.51.100.0/24",
    ];
    let blue = endpoint("n2", "blue", "eth0");

    ensure(&fragment(publish_on(&blue, &listed))).unwrap();

    for family in [0, 1] {
        assert_eq!(reach(&lab.server, Tcp, RED[family], 8443), format!("{} at 8443", SERVER[family]));
        assert_eq!(call(&lab.server, Tcp, UPLINK[family], 8443), None, "the list is blue's");
    }
    assert_eq!(reach(&lab.server, Tcp, RED[0], 9443), format!("{} at 9443", SERVER[0]));
    assert_eq!(call(&lab.server, Tcp, UPLINK[0], 9443), None);
    let to_all = ["tcp 0.0.0.0:8443 -> 10.1.0.3:443", "tcp [::]:8443 -> [fd00:1::3]:443"];
    ensure(&fragment(publish_on(&blue, &to_all))).unwrap();
    for family in [0, 1] {
        assert_eq!(reach(&lab.server, Tcp, UPLINK[family], 8443), format!("{} at 443", SERVER[family]));
    }
}

#[test]
fn each_family_has_its_mode() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let gateways = Gateways { ipv4: GatewayMode::Nat, ipv6: GatewayMode::Routed };
    let Fragment::Guard(one) = guard("n1", "wire-red", GatewayMode::Nat) else { unreachable!() };
    ensure(&Fragment::Guard(Guard { gateways, ..one })).unwrap();
    ensure(&fragment(Publish {
        gateways,
        ..publish("red", &["tcp 0.0.0.0:8080 -> 10.1.0.2:80", "tcp [::]:8080 -> [fd00:1::2]:80"])
    }))
    .unwrap();
    assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 80", SERVER[0]));
    assert_eq!(reach(&lab.server, Tcp, RED[1], 80), format!("{} at 80", SERVER[1]));
    assert_eq!(call(&lab.server, Tcp, RED[0], 80), None);
    assert_eq!(call(&lab.server, Tcp, UPLINK[1], 8080), None);
}

#[test]
fn a_published_port_is_for_isolated_networks_too_and_an_internal_one_has_none() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    ensure(&open_eighty("red")).unwrap();
    for (network, wire) in [("n1", "wire-red"), ("n2", "wire-blue")] {
        ensure(&isolation(network, wire, false)).unwrap();
        ensure(&guard(network, wire, GatewayMode::Nat)).unwrap();
    }
    for family in [0, 1] {
        assert_eq!(call(&lab.blue, Tcp, RED[family], 80), None, "isolated");
        assert!(reach(&lab.blue, Tcp, UPLINK[family], 8080).ends_with(" at 80"), "but published");
    }
    ensure(&isolation("n3", "wire-blue", true)).unwrap();
    for family in [0, 1] {
        assert_eq!(call(&lab.blue, Tcp, UPLINK[family], 8080), None, "an internal network reaches nothing");
        reach(&lab.server, Tcp, UPLINK[family], 8080);
    }
    remove(&isolation("n3", "wire-blue", true)).unwrap();
    ensure(&isolation("n3", "wire-red", true)).unwrap();
    is_silent(&lab.server, Tcp, UPLINK[0], 8080);
}

#[test]
fn the_administrator_is_asked_first_and_stays() {
    if !has("nft") {
        return;
    }
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80, 81]);
    ensure(&guard("n1", "wire-red", GatewayMode::Nat)).unwrap();
    ensure(&open_eighty("red")).unwrap();
    assert_eq!(call(&lab.server, Tcp, RED[0], 81), None);
    sh("nft add set inet weft friends { type ipv4_addr ; elements = { 192.0.2.2 } ; }");
    sh("nft add rule inet weft user ip saddr @friends tcp dport 81 accept");
    sh("nft add rule inet weft user ip6 saddr 2001:db8::2 tcp dport 80 drop");
    let holds = || {
        assert_eq!(reach(&lab.server, Tcp, RED[0], 81), format!("{} at 81", SERVER[0]), "accept");
        assert_eq!(reach(&lab.server, Tcp, UPLINK[0], 8080), format!("{} at 80", SERVER[0]), "the twin");
        assert_eq!(call(&lab.server, Tcp, UPLINK[1], 8080), None, "drop");
    };
    holds();
    Firewall::new().rebuild(&claims()).unwrap();
    holds();
    let whole = ruleset();
    Firewall::new().rebuild(&claims()).unwrap();
    assert_eq!(sorted(&ruleset()), sorted(&whole));

    // The last network leaves, and another comes.
    remove(&open_eighty("red")).unwrap();
    for gone in [guard("n1", "wire-red", GatewayMode::Nat), crate::publishing::hairpin("n1")] {
        remove(&gone).unwrap();
    }
    let kept = ruleset();
    assert!(kept.contains("chain user") && kept.contains("@friends") && !kept.contains("hook"), "{kept}");
    ensure(&guard("n1", "wire-red", GatewayMode::Nat)).unwrap();
    ensure(&open_eighty("red")).unwrap();
    holds();
    sh("nft flush chain inet weft user");
    sh("nft flush chain inet weft forward");
    Firewall::new().rebuild(&claims()).unwrap();
    assert!(!ruleset().contains("friends"), "a table without rules of the administrator's is ours alone");
}

/// Returns how many transactions there have been.
fn generation() -> u32 {
    Socket::open().unwrap().generation().unwrap()
}

#[test]
fn what_is_as_it_should_be_is_not_written_and_what_somebody_replaced_is() {
    if !has("nft") {
        return;
    }
    let _lab = Lab::new();
    ensure(&guard("n1", "wire-red", GatewayMode::Nat)).unwrap();
    ensure(&open_eighty("red")).unwrap();
    Firewall::new().rebuild(&claims()).unwrap();
    let (whole, written) = (ruleset(), generation());
    Firewall::new().rebuild(&claims()).unwrap();
    assert_eq!(generation(), written, "nothing is missing");
    let replaced = [
        "flush chain inet weft hairpin; add rule inet weft hairpin accept; add rule inet weft hairpin return",
        "add element inet weft publish4 { 192.0.2.9 . tcp . 99 : 10.1.0.2 . 99 }",
        "delete element inet weft inside { \"wire-red\" }; add element inet weft inside { \"wire-blue\" }",
        "add rule inet weft guard counter",
        "flush chain inet weft postrouting",
    ];
    for words in replaced {
        let before = generation();
        #[expect(clippy::disallowed_methods, reason = "a scratch file")]
        std::fs::write("/run/replaced", words.replace("; ", "\n")).unwrap();
        sh("nft -f /run/replaced");
        assert_ne!(sorted(&ruleset()), sorted(&whole), "{words}");
        assert_eq!(generation(), before + 1);
        Firewall::new().rebuild(&claims()).unwrap();
        assert_eq!(sorted(&ruleset()), sorted(&whole), "{words}");
        assert_eq!(generation(), before + 2, "{words}");
    }
}

fn sorted(listing: &str) -> Vec<&str> {
    let mut lines: Vec<_> = listing.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn containers_apart_do_not_reach_each_other_through_the_host() {
    let lab = Lab::new();
    let _red = serve(&lab.red, Tcp, &[80]);
    let Fragment::Guard(one) = guard("n1", "wire-red", GatewayMode::Nat) else { unreachable!() };
    let apart = Fragment::Guard(Guard { icc: false, ..one });
    assert_eq!(apart.to_string(), "guard wire-red of n1: nat, containers apart");
    ensure(&apart).unwrap();
    assert_eq!(observe(&apart).unwrap(), NOTHING);
    if has("nft") {
        assert!(sh("nft list set inet weft no_icc").contains("\"wire-red\" . \"wire-red\""));
    }
    reach(&lab.host, Tcp, RED[0], 80);
}

#[test]
fn what_keeps_ports_apart_reads_as_documented_and_goes_with_the_last_network() {
    isolate().unwrap();
    let apart = |network: &str, bridge: &str| {
        let Fragment::Guard(one) = guard(network, bridge, GatewayMode::Nat) else { unreachable!() };
        Fragment::Guard(Guard { icc: false, ..one })
    };
    let (one, other) = (apart("n1", "br-one"), apart("n2", "br-two"));
    for fragment in [&one, &other] {
        ensure(fragment).unwrap();
    }
    assert!(Firewall::new().keeps_ports_apart().unwrap());
    let page = include_str!("../../../../docs/firewall.md");
    if has("nft") {
        for listing in [
            sh("nft list table bridge weft"),
            crate::ports::inner(&sh("nft list chain inet weft let_through")),
        ] {
            assert!(page.contains(&format!("```text\n{listing}```\n")), "docs/firewall.md:\n{listing}");
        }
        let switch = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        let is_asked = std::fs::read_to_string(switch).is_ok_and(|switch| switch.trim() == "1");
        for harm in ["nft flush chain bridge weft forward", "nft delete table bridge weft"] {
            sh(harm);
            let problems = diagnose(&root()).unwrap();
            let told = problems.iter().filter(|one| one.why.contains("rules of chain bridge weft forward"));
            assert_eq!(told.count(), if is_asked { 2 } else { 0 }, "{problems:?}");
            reload(&root()).unwrap();
            assert_eq!(diagnose(&root()).unwrap(), []);
            assert!(sh("nft list chain bridge weft forward").contains("drop"));
        }
    }
    remove(&one).unwrap();
    assert!(Firewall::new().keeps_ports_apart().unwrap(), "the other network's");
    remove(&other).unwrap();
    assert!(!Firewall::new().keeps_ports_apart().unwrap());
}

#[test]
fn a_subnet_may_have_a_source_address_of_its_own() {
    let lab = Lab::new();
    let masquerade = attachment(
        weft_firewall::Backend::Weft,
        &endpoint("n1", "red", "eth0"),
        &["10.1.0.2/24", "fd00:1::2/64"],
    );
    ensure(&masquerade).unwrap();
    let seen = |family: usize| {
        seen_source((&lab.red, RED[family]), (&lab.server, SERVER[family]), |_| {}).to_string()
    };
    assert_eq!([seen(0), seen(1)], UPLINK);
    let source = Fragment::SourceAddress(SourceAddress {
        network: "n1".parse().unwrap(),
        subnets: vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        addresses: OWN.iter().map(|address| address.parse().unwrap()).collect(),
        backend: weft_firewall::Backend::Weft,
        claims: claims(),
    });
    assert_eq!(ensure(&source).unwrap(), Change::Made);
    assert_eq!(observe(&source).unwrap(), NOTHING);
    // The server finds its way to these addresses by the host.
    assert_eq!([seen(0), seen(1)], OWN);
    let red_to_blue = seen_source((&lab.red, RED[0]), (&lab.blue, BLUE[0]), |_| {}).to_string();
    assert_eq!(red_to_blue, RED[0], "not within the subnet");

    remove(&source).unwrap();
    let limit = Instant::now() + Duration::from_secs(5);
    while [seen(0), seen(1)] != UPLINK {
        assert!(Instant::now() < limit, "masqueraded again");
    }
}

#[test]
fn one_question_for_each_thing_that_is_there() {
    isolate().unwrap();
    let one = guard("n1", "br1", GatewayMode::Routed);
    ensure(&one).unwrap();
    let mut socket = Socket::open().unwrap();
    let generation = socket.generation().unwrap();
    assert_eq!(ensure(&one).unwrap(), Change::AlreadyThere);
    assert_eq!(socket.generation().unwrap(), generation, "not one transaction");
    remove(&one).unwrap();
    assert_eq!(socket.table(TABLE).unwrap(), None, "the table goes with the last claim");
}

#[test]
fn the_table_reads_as_documented() {
    isolate().unwrap();
    let Fragment::Guard(blue) = guard("blue", "br-blue", GatewayMode::Nat) else { unreachable!() };
    let gateways = Gateways { ipv4: GatewayMode::Nat, ipv6: GatewayMode::Routed };
    ensure(&isolation("blue", "br-blue", false)).unwrap();
    ensure(&isolation("inner", "br-inner", true)).unwrap();
    ensure(&Fragment::Guard(Guard { gateways, ..blue })).unwrap();
    ensure(&fragment(Publish {
        gateways: Gateways { ipv4: GatewayMode::Isolated, ipv6: GatewayMode::Routed },
        ..publish("red", &["tcp [::]:80 -> [fd00:1::2]:80"])
    }))
    .unwrap();
    loads();
    is_documented("table inet weft with isolation and guard");
}
