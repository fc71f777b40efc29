//! Published ports in the reference plugin's layouts: iptables, with either of its programs, and nftables.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Output, PluginCall, Xtables, on_each, skip_unless};

/// The host, as the outside knows it.
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:ffff::1"];
const CHAIN: &str = "CNI-DN-";

/// Which rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

impl Layout {
    const IPTABLES: [Self; 2] = [Self::IptablesNft, Self::IptablesLegacy];
    const ALL: [Self; 3] = [Self::IptablesNft, Self::IptablesLegacy, Self::Nftables];

    fn backend(self) -> &'static str {
        if self == Self::Nftables { "nftables" } else { "iptables" }
    }

    /// The program behind the names, for whoever chose this layout with `update-alternatives`.
    fn program(self) -> &'static str {
        if self == Self::IptablesLegacy { "xtables-legacy-multi" } else { "xtables-nft-multi" }
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A host with a bridge of both families, and the programs of one layout.
struct Host {
    lab: Lab,
    outside: Container,
    layout: Layout,
    programs: Xtables,
}

impl Host {
    fn new(layout: Layout) -> Self {
        let lab = Lab::new();
        let outside = lab.uplink();
        assert!((0..5).any(|_| outside.ping(HOST[1])), "the uplink is not up");
        let programs = Xtables::choose(&lab, layout.program());
        Self { lab, outside, layout, programs }
    }

    fn iptables(&self, program: &str, words: &str) -> Output {
        self.programs.run(program, words)
    }

    /// The `nat` rules of both families that contain these words.
    fn rules(&self, words: &str) -> Vec<String> {
        let both = ["iptables", "ip6tables"].map(|program| self.iptables(program, "-t nat -S"));
        let lines = both.iter().flat_map(|output| output.expect_ok().lines());
        let mut all: Vec<_> = lines.filter(|line| line.contains(words)).map(String::from).collect();
        if self.layout == Layout::Nftables {
            let ruleset = self.lab.ruleset();
            all.extend(ruleset.lines().filter(|line| line.contains("dnat to")).map(String::from));
        }
        all
    }

    fn call(&self, kind: &str) -> PluginCall<'_> {
        self.lab.plugin(kind).env("PATH", self.programs.path())
    }

    /// Connects a container to the bridge and returns the result.
    fn connect(&self, name: &str, last: u8) -> (Container, Value) {
        let container = self.lab.container(name);
        // KERNEL: where bridge-nf-call-iptables is on, what is translated on a bridge's port and leads back
        // there stays on the bridge, which sends nothing back by itself (br_nf_pre_routing_finish).
        let conf = json!({
            "cniVersion": "1.1.0", "name": "blue", "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
            "hairpinMode": true,
            "ipam": {"type": "static", "addresses": [
                {"address": format!("10.90.0.{last}/24"), "gateway": "10.90.0.1"},
                {"address": format!("fd00:90::{last}/64"), "gateway": "fd00:90::1"},
            ]},
        });
        let result = self.call("bridge").json(&conf).add(&container).expect_json();
        (container, result)
    }

    /// A call of portmap for a container that has this result.
    fn portmap(&self, result: &Value, ports: Value, more: Value) -> PluginCall<'_> {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "blue", "type": "portmap", "backend": self.layout.backend(),
            "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": ports},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        self.call("portmap").json(&conf).prev_result(result)
    }
}

fn tcp(host: u16, container: u16) -> Value {
    json!([{"hostPort": host, "containerPort": container, "protocol": "tcp"}])
}

/// Tells a story once with each layout.
fn on_each_host(layouts: &[Layout], story: impl Fn(Host) + Sync) {
    on_each(layouts, |layout| {
        let host = Host::new(layout);
        skip_unless!(host.programs.work(), format!("{} to work here", layout.program()));
        story(host);
    });
}

#[test]
fn ports_are_reached_from_everywhere() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let (blue, _) = host.connect("blue", 3);
        let _services = (red.serve_tcp(80), red.serve_udp(53));
        assert!(host.outside.ask_tcp(addr(HOST[0]), 8080).is_err(), "nothing is published yet");
        let ports = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
        ]);
        let told = host.portmap(&result, ports.clone(), Value::Null).add(&red).expect_json();
        assert_eq!(told["ips"], result["ips"], "the result is passed on");

        for (address, caller) in HOST.map(addr).into_iter().zip(["192.0.2.2", "2001:db8:ffff::2"]) {
            let answer = host.outside.ask_tcp(address, 8080).unwrap();
            assert_eq!((answer.by.as_str(), answer.caller), ("red", addr(caller)), "the source is kept");
            assert_eq!(host.outside.ask_udp(address, 5353).unwrap().by, "red");
            assert_eq!(blue.ask_tcp(address, 8080).unwrap().by, "red", "a neighbour");
            assert_eq!(red.ask_tcp(address, 8080).unwrap().by, "red", "the container itself");
            assert_eq!(host.lab.ask_tcp(address, 8080).unwrap().by, "red", "the host");
        }
        assert_eq!(host.lab.ask_tcp(addr("127.0.0.1"), 8080).unwrap().by, "red", "the host's own loopback");
        host.portmap(&result, ports, Value::Null).check(&red).expect_ok();
        assert!(!host.rules("DNAT").is_empty());
    });
}

#[test]
fn chains_are_upstreams_and_go_with_the_container() {
    on_each_host(&Layout::IPTABLES, |host| {
        let (red, result) = host.connect("red", 2);
        let call = host.portmap(&result, tcp(8080, 80), Value::Null);
        call.add(&red).expect_ok();
        // CNI: the name is a hash of the network's name and the container's id (sha512("bluered")).
        let chains = host.rules("-N CNI-DN-");
        assert_eq!(chains.len(), 2, "{chains:?}");
        let entry = host.rules("-A CNI-HOSTPORT-DNAT");
        let comment = r#"--comment "dnat name: \"blue\" id: \"red\"" -m multiport --dports 8080"#;
        assert!(entry.iter().all(|rule| rule.contains(comment)), "{entry:?}");
        let again = host.lab.snapshot();
        call.add(&red).expect_ok();
        host.lab.assert_restored(&again);

        call.del(&red).expect_ok();
        call.del(&red).expect_ok();

        assert_eq!(host.rules(CHAIN), Vec::<String>::new());
        assert!(!host.rules("-N CNI-HOSTPORT-DNAT").is_empty(), "what all share stays, as upstream has it");
    });
}

#[test]
fn del_needs_neither_the_result_nor_the_ports() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let _service = red.serve_tcp(80);
        host.portmap(&result, tcp(8080, 80), Value::Null).add(&red).expect_ok();
        assert_eq!(host.outside.ask_tcp(addr(HOST[0]), 8080).unwrap().by, "red");
        let before = host.rules("DNAT --to-destination").len() + host.rules("dnat to").len();
        assert!(before > 0);

        let conf = json!({"cniVersion": "1.1.0", "name": "blue", "type": "portmap"});
        host.call("portmap").json(&conf).netns("").del(&red).expect_ok();

        assert!(host.outside.ask_tcp(addr(HOST[0]), 8080).is_err());
        assert_eq!(host.rules("DNAT --to-destination"), Vec::<String>::new());
    });
}

#[test]
fn another_list_replaces_the_first() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let _service = red.serve_tcp(80);
        host.portmap(&result, tcp(8080, 80), Value::Null).add(&red).expect_ok();
        assert_eq!(host.outside.ask_tcp(addr(HOST[0]), 8080).unwrap().by, "red");
        host.portmap(&result, tcp(8081, 80), Value::Null).add(&red).expect_ok();
        for address in HOST.map(addr) {
            assert_eq!(host.outside.ask_tcp(address, 8081).unwrap().by, "red");
            assert!(host.outside.ask_tcp(address, 8080).is_err(), "{:?}", host.rules("8080"));
        }
    });
}

#[test]
fn ranges_keep_their_order() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let ports = json!([
            {"hostPort": 9000, "containerPort": 100, "range": 100},
            {"hostPort": 7000, "containerPort": 7000, "range": 10},
        ]);
        host.portmap(&result, ports, Value::Null).add(&red).expect_ok();
        for (published, inside) in [(9000, 100), (9057, 157), (9099, 199), (7003, 7003)] {
            let _service = red.serve_tcp(inside);
            for address in HOST.map(addr) {
                assert_eq!(host.outside.ask_tcp(address, published).unwrap().port, inside, "{published}");
            }
        }
        let _service = red.serve_tcp(200);
        assert!(host.outside.ask_tcp(addr(HOST[0]), 9100).is_err());
    });
}

#[test]
fn a_host_address_keeps_the_others_free() {
    on_each_host(&Layout::ALL, |host| {
        host.lab.ip("address add 192.0.2.11/24 dev uplink0");
        let (red, result) = host.connect("red", 2);
        let _service = red.serve_tcp(80);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "hostIP": "192.0.2.11"}]);
        host.portmap(&result, ports, Value::Null).add(&red).expect_ok();
        assert_eq!(host.outside.ask_tcp(addr("192.0.2.11"), 8080).unwrap().by, "red");
        assert!(host.outside.ask_tcp(addr(HOST[0]), 8080).is_err());
        assert!(host.outside.ask_tcp(addr(HOST[1]), 8080).is_err(), "nor the other family");
    });
}

#[test]
fn who_is_not_on_the_list_stays_out() {
    on_each_host(&Layout::ALL, |host| {
        host.outside.ip("address add 192.0.2.7/24 dev eth0");
        let (red, result) = host.connect("red", 2);
        let _service = red.serve_tcp(80);
        let listed = |from: &str| json!([{"hostPort": 8080, "containerPort": 80, "from": [from]}]);
        host.portmap(&result, listed("198.51.100.0/24"), Value::Null).add(&red).expect_ok();
        // Something of the host's own that would answer if the packet were only left untranslated.
        let own = host.lab.serve_tcp(8080);
        assert!(host.outside.ask_tcp(addr(HOST[0]), 8080).is_err());
        assert_eq!(host.lab.ask_tcp(addr(HOST[0]), 8080).unwrap().by, "red", "the host is on every list");
        drop(own);

        host.portmap(&result, listed("192.0.2.2/32"), Value::Null).add(&red).expect_ok();
        assert_eq!(host.outside.ask_tcp(addr(HOST[0]), 8080).unwrap().by, "red");
    });
}

#[test]
fn conditions_hold_for_their_own_ports_alone() {
    on_each_host(&Layout::ALL, |host| {
        let (red, first) = host.connect("red", 2);
        let (blue, second) = host.connect("blue", 3);
        let _services = (red.serve_tcp(80), blue.serve_tcp(80));
        let condition = |address: &str| match host.layout {
            Layout::Nftables => json!({"conditionsV4": ["ip", "saddr", address]}),
            _ => json!({"conditionsV4": ["-s", address]}),
        };
        host.portmap(&first, tcp(8080, 80), condition("198.51.100.7")).add(&red).expect_ok();
        host.portmap(&second, tcp(8081, 80), condition("192.0.2.2")).add(&blue).expect_ok();
        assert!(host.outside.ask_tcp(addr(HOST[0]), 8080).is_err());
        assert_eq!(host.outside.ask_tcp(addr(HOST[0]), 8081).unwrap().by, "blue");
        assert_eq!(host.outside.ask_tcp(addr(HOST[1]), 8080).unwrap().by, "red", "no condition for IPv6");
        host.portmap(&first, tcp(8080, 80), condition("198.51.100.7")).check(&red).expect_ok();
    });
}

#[test]
fn everybody_can_be_masqueraded() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let _service = red.serve_tcp(80);
        host.portmap(&result, tcp(8080, 80), json!({"masqAll": true})).add(&red).expect_ok();
        for (address, gateway) in HOST.map(addr).into_iter().zip(["10.90.0.1", "fd00:90::1"]) {
            assert_eq!(host.outside.ask_tcp(address, 8080).unwrap().caller, addr(gateway));
        }
    });
}

#[test]
fn a_chain_of_somebody_elses_may_set_the_mark() {
    on_each_host(&Layout::IPTABLES, |host| {
        for program in ["iptables", "ip6tables"] {
            host.iptables(program, "-t nat -N KUBE-MARK-MASQ").expect_ok();
            host.iptables(program, "-t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000").expect_ok();
        }
        let (red, result) = host.connect("red", 2);
        host.portmap(&result, tcp(8080, 80), json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}))
            .add(&red)
            .expect_ok();
        assert_eq!(host.rules("CNI-HOSTPORT-SETMARK"), Vec::<String>::new());
        assert_eq!(
            host.rules("-A CNI-DN-").iter().filter(|rule| rule.ends_with("KUBE-MARK-MASQ")).count(),
            3
        );
    });
}

#[test]
fn sctp_is_translated() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "sctp"}]);
        host.portmap(&result, ports, Value::Null).add(&red).expect_ok();
        for (address, own) in HOST.map(addr).into_iter().zip(["10.90.0.2", "fd00:90::2"]) {
            let ear = red.ear(addr(own));
            host.outside.send_sctp(address, 8080).unwrap();
            assert_eq!(ear.expect(132, 80).destination, addr(own));
        }
    });
}

#[test]
fn what_the_host_forwards_for_others_is_left_alone() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let (blue, _) = host.connect("blue", 3);
        let _services = (red.serve_tcp(80), host.outside.serve_tcp(8080));
        host.outside.ip("route add 10.90.0.0/24 via 192.0.2.1");
        host.outside.ip("route add fd00:90::/64 via 2001:db8:ffff::1");
        host.portmap(&result, tcp(8080, 80), Value::Null).add(&red).expect_ok();
        for (own, far) in HOST.into_iter().zip(["192.0.2.2", "2001:db8:ffff::2"]) {
            assert_eq!(blue.ask_tcp(addr(own), 8080).unwrap().by, "red");
            assert_eq!(blue.ask_tcp(addr(far), 8080).unwrap().by, "outside");
            assert_eq!(host.lab.ask_tcp(addr(far), 8080).unwrap().by, "outside");
        }
    });
}

/// A neighbour may know that the host has a port for itself alone, and can send what the host would never send.
#[test]
fn a_port_of_127_0_0_1_is_not_reached_by_forged_packets() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        let _service = red.serve_udp(53);
        let ports =
            json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}]);
        host.portmap(&result, ports, Value::Null).add(&red).expect_ok();
        assert_eq!(host.lab.ask_udp(addr("127.0.0.1"), 5353).unwrap().by, "red");

        // Without a loopback interface that is up, 127.0.0.1 is an address like others.
        let (blue, _) = host.connect("blue", 3);
        host.outside.ip("route add 127.0.0.1/32 via 192.0.2.1 dev eth0");
        blue.ip("route add 127.0.0.1/32 via 10.90.0.1 dev eth0");
        for forger in [&host.outside, &blue] {
            forger.run("sysctl", "-q -w net.ipv4.conf.eth0.route_localnet=1").expect_ok();
        }
        // The host's own switch would keep the outside out as well; what is asked here is whether the firewall does.
        host.lab.set_sysctl("ipv4/conf/uplink0/route_localnet", "1");
        let answered = |forger: &Container| {
            let client = forger.udp_client(addr("127.0.0.1"), 5353);
            client.ask_within(Duration::from_millis(200)).is_ok()
        };
        for forger in [&host.outside, &blue] {
            assert!(!answered(forger), "a packet of {} for 127.0.0.1 reached the container", forger.name());
        }

        // Without the rule it does: the forged packets are good ones.
        match host.layout {
            Layout::Nftables => host
                .lab
                .sh("nft flush chain ip cni_hostport localhost_only; nft flush chain inet weft local_only"),
            _ => host.iptables("iptables", "-t raw -F PREROUTING"),
        }
        .expect_ok();
        for forger in [&host.outside, &blue] {
            assert!(answered(forger), "the forged packets of {} are no good", forger.name());
        }
    });
}

#[test]
fn the_former_owner_of_an_address_takes_nothing_along() {
    on_each_host(&Layout::ALL, |host| {
        let (red, result) = host.connect("red", 2);
        host.portmap(&result, tcp(8080, 80), Value::Null).add(&red).expect_ok();
        // Red's address goes to another container, whose ADD comes before red's DEL.
        host.lab.ip("link delete br0");
        red.vanish();
        let (heir, result) = host.connect("heir", 2);
        let _service = heir.serve_tcp(80);
        host.portmap(&result, tcp(8081, 80), Value::Null).add(&heir).expect_ok();
        let conf = json!({"cniVersion": "1.1.0", "name": "blue", "type": "portmap"});
        host.call("portmap").json(&conf).id("red").netns("").del(&heir).expect_ok();
        for address in HOST.map(addr) {
            assert_eq!(host.outside.ask_tcp(address, 8081).unwrap().by, "heir");
            assert!(host.outside.ask_tcp(address, 8080).is_err());
        }
    });
}

/// In upstream's nftables a rule names the container alone, whatever the network.
#[test]
fn another_network_of_the_container_keeps_its_ports() {
    let host = Host::new(Layout::Nftables);
    let (red, result) = host.connect("red", 2);
    let _service = red.serve_tcp(80);
    host.portmap(&result, tcp(8080, 80), Value::Null).add(&red).expect_ok();
    // What upstream wrote for it on a network of which the books know nothing, and on a third.
    for (port, target) in [(8081, "10.91.0.2"), (8082, "10.92.0.2")] {
        let rule = format!("hostports tcp dport {port} dnat to {target}:80 comment '\"red\"'");
        host.lab.sh(&format!("nft add rule ip cni_hostport {rule}")).expect_ok();
    }
    let has = |target: &str| host.rules("dnat to").iter().any(|rule| rule.contains(target));
    let conf = json!({"cniVersion": "1.1.0", "name": "green", "type": "portmap", "backend": "nftables"});
    let previous = json!({
        "cniVersion": "1.1.0", "interfaces": [{"name": "eth1", "sandbox": "/run/netns/red"}],
        "ips": [{"address": "10.91.0.2/24", "interface": 0}],
    });

    host.call("portmap").json(&conf).prev_result(&previous).ifname("eth1").del(&red).expect_ok();
    assert!(!has("10.91.0.2:80"), "{:?}", host.rules(""));
    assert!(has("10.92.0.2:80"), "the third network's: {:?}", host.rules(""));
    // Without the addresses everything is meant but what is on record.
    host.call("portmap").json(&conf).ifname("eth1").netns("").del(&red).expect_ok();
    assert!(!has("10.92.0.2:80"), "{:?}", host.rules(""));

    for address in HOST.map(addr) {
        assert_eq!(host.outside.ask_tcp(address, 8080).unwrap().by, "red");
    }
    assert_eq!(host.lab.ask_tcp(addr("127.0.0.1"), 8080).unwrap().by, "red");
    host.portmap(&result, tcp(8080, 80), Value::Null).check(&red).expect_ok();
}

#[test]
fn what_another_implementation_wrote_is_taken_back() {
    let reference = std::path::Path::new("/usr/lib/cni");
    skip_unless!(reference.join("portmap").exists(), "Debian's package containernetworking-plugins");
    on_each_host(&Layout::IPTABLES, |host| {
        let (red, result) = host.connect("red", 2);
        let _service = red.serve_tcp(80);
        let conf = json!({
            "cniVersion": "1.0.0", "name": "blue", "type": "portmap", "snat": true,
            "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": tcp(8080, 80)},
        });
        let mut previous = result;
        previous["cniVersion"] = "1.0.0".into();
        let call = host.lab.plugin_in(reference, "portmap").env("PATH", host.programs.path());
        call.json(&conf).prev_result(&previous).add(&red).expect_ok();
        assert_eq!(host.outside.ask_tcp(addr(HOST[0]), 8080).unwrap().by, "red");
        assert!(!host.rules(CHAIN).is_empty());

        // Nothing in the configuration speaks of iptables, and no record of ours does.
        let ours = || host.call("portmap").json(&conf);
        ours().prev_result(&previous).check(&red).expect_ok();
        ours().netns("").del(&red).expect_ok();

        assert!(host.outside.ask_tcp(addr(HOST[0]), 8080).is_err());
        assert_eq!(host.rules(CHAIN), Vec::<String>::new());
        assert_ne!(ours().prev_result(&previous).check(&red).code, 0);
    });
}

#[test]
fn many_at_once_write_what_they_share_once() {
    on_each_host(&Layout::ALL, |host| {
        let all: Vec<_> = (0..6_u8).map(|i| (i, host.connect(&format!("c{i}"), 10 + i))).collect();
        let _services: Vec<_> = all.iter().map(|(_, (container, _))| container.serve_tcp(80)).collect();
        // Threads are where the one that makes them is: on the lab's host.
        let published = |(i, (container, result)): &(u8, (Container, Value))| {
            let call = host.portmap(result, tcp(8000 + u16::from(*i), 80), Value::Null);
            call.add(container).expect_ok();
        };
        std::thread::scope(|scope| all.iter().for_each(|one| drop(scope.spawn(|| published(one)))));
        for (i, (container, _)) in &all {
            for address in HOST.map(addr) {
                let answer = host.outside.ask_tcp(address, 8000 + u16::from(*i)).unwrap();
                assert_eq!(answer.by, container.name());
            }
        }
        if host.layout == Layout::Nftables {
            assert_eq!(host.lab.ruleset().matches("fib daddr type local jump hostports_all").count(), 4);
        } else {
            assert_eq!(host.rules("-j CNI-HOSTPORT-DNAT").len(), 4, "two hooks of two families");
            assert_eq!(host.rules("-A POSTROUTING -m comment").len(), 2);
        }
    });
}
