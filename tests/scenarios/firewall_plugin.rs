//! The chained `firewall` plugin: containers pass filters that drop, and their bridges are apart.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{
    Container, Lab, Output, PluginCall, Xtables, does_not_reach, on_each, reaches, skip_unless,
    stops_reaching,
};

use crate::others::Firewalld;

/// The outside, as the host knows it.
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

/// A host whose iptables is this program, with an outside that knows the way to the containers.
struct Host {
    lab: Lab,
    outside: Container,
    programs: Xtables,
}

impl Host {
    fn new(program: &str) -> Self {
        let lab = Lab::new();
        let outside = lab.uplink();
        for (subnet, gateway) in [("10.90.0.0/16", "192.0.2.1"), ("fd00:90::/32", "2001:db8:ffff::1")] {
            outside.ip(&format!("route add {subnet} via {gateway}"));
        }
        let programs = Xtables::choose(&lab, program);
        Self { lab, outside, programs }
    }

    fn iptables(&self, program: &str, words: &str) -> Output {
        self.programs.run(program, words)
    }

    /// Runs iptables for both families.
    fn both(&self, words: &str) -> String {
        ["iptables", "ip6tables"]
            .map(|program| self.iptables(program, words).expect_ok().to_string())
            .concat()
    }

    fn call(&self, kind: &str) -> PluginCall<'_> {
        self.lab.plugin(kind).env("PATH", self.programs.path())
    }

    /// Connects a container to a bridge and returns the result.
    fn connect(&self, bridge: &str, net: u8, name: &str, last: u8) -> (Container, Value) {
        let container = self.lab.container(name);
        let conf = json!({
            "cniVersion": "1.1.0", "name": bridge, "type": "bridge", "bridge": bridge, "isDefaultGateway": true,
            "ipam": {"type": "static", "addresses": [
                {"address": format!("10.90.{net}.{last}/24"), "gateway": format!("10.90.{net}.1")},
                {"address": format!("fd00:90:{net}::{last}/64"), "gateway": format!("fd00:90:{net}::1")},
            ]},
        });
        let result = self.call("bridge").json(&conf).add(&container).expect_json();
        (container, result)
    }

    /// A call of firewall for a container that has this result.
    fn firewall(&self, result: &Value, keys: Value) -> PluginCall<'_> {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "firewall"});
        for (key, value) in keys.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        self.call("firewall").json(&conf).prev_result(result)
    }
}

/// Tells a story once with each of iptables' programs.
fn on_each_host(story: impl Fn(Host) + Sync) {
    on_each(&Xtables::PROGRAMS, |program| {
        let host = Host::new(program);
        skip_unless!(host.programs.work(), format!("{program} to work here"));
        story(host);
    });
}

/// The addresses of the container `last` on bridge `net`.
fn at(net: u8, last: u8) -> [String; 2] {
    [format!("10.90.{net}.{last}"), format!("fd00:90:{net}::{last}")]
}

#[test]
fn a_container_passes_a_filter_that_drops() {
    for backend in ["iptables", "nftables"] {
        on_each_host(|host| {
            let (red, result) = host.connect("br0", 0, "red", 2);
            reaches(&red, OUTSIDE);
            host.both("-P FORWARD DROP");
            does_not_reach(&red, OUTSIDE);
            let before = host.lab.snapshot();

            let call = host.firewall(&result, json!({"backend": backend}));
            assert_eq!(call.add(&red).expect_json(), result, "the result is passed on");

            reaches(&red, OUTSIDE);
            does_not_reach(&host.outside, at(0, 2));
            call.check(&red).expect_ok();
            call.add(&red).expect_ok();
            reaches(&red, OUTSIDE);

            call.del(&red).expect_ok();
            does_not_reach(&red, OUTSIDE);
            call.del(&red).expect_ok();
            if backend == "nftables" {
                host.lab.assert_restored(&before);
            }
        });
    }
}

#[test]
fn a_filter_without_a_policy_drops_too() {
    on_each_host(|host| {
        let (red, result) = host.connect("br0", 0, "red", 2);
        host.both("-A FORWARD -j REJECT");
        does_not_reach(&red, OUTSIDE);
        let call = host.firewall(&result, json!({"backend": "nftables"}));
        call.add(&red).expect_ok();
        reaches(&red, OUTSIDE);
        assert_eq!(host.both("-S FORWARD").matches("weft").count(), 2, "one rule for each family");
        let (blue, second) = host.connect("br0", 0, "blue", 3);
        let other = host.firewall(&second, json!({"backend": "nftables"}));
        other.add(&blue).expect_ok();
        assert_eq!(host.both("-S FORWARD").matches("weft").count(), 2, "one rule for all");
        call.del(&red).expect_ok();
        reaches(&blue, OUTSIDE);
        other.del(&blue).expect_ok();
        assert_eq!(host.both("-S FORWARD").matches("weft").count(), 0, "gone with the last");
    });
}

#[test]
fn the_chains_of_iptables_are_upstreams() {
    on_each_host(|host| {
        let (red, result) = host.connect("br0", 0, "red", 2);
        let keys = json!({"backend": "iptables", "iptablesAdminChainName": "MY-ADMIN"});
        host.firewall(&result, keys.clone()).add(&red).expect_ok();
        let rules = host.both("-S");
        for rule in [
            r#"-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD"#,
            r#"-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j MY-ADMIN"#,
            "-A CNI-FORWARD -d 10.90.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A CNI-FORWARD -s 10.90.0.2/32 -j ACCEPT",
            "-A CNI-FORWARD -d fd00:90::2/128 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A CNI-FORWARD -s fd00:90::2/128 -j ACCEPT",
        ] {
            assert!(rules.lines().any(|line| line == rule), "{rule}\n{rules}");
        }
        // The administrator's chain is asked first.
        reaches(&red, OUTSIDE);
        host.both("-A MY-ADMIN -j DROP");
        does_not_reach(&red, OUTSIDE);

        let call =
            host.call("firewall").json(&json!({"cniVersion": "1.1.0", "name": "net", "type": "firewall"}));
        call.netns("").del(&red).expect_ok();

        let rules = host.both("-S");
        assert!(!rules.contains("10.90.0.2") && !rules.contains("fd00:90::2"), "{rules}");
        assert!(rules.contains("-N CNI-FORWARD") && rules.contains("-A MY-ADMIN -j DROP"), "{rules}");
    });
}

#[test]
fn bridges_with_a_policy_are_apart() {
    for backend in ["iptables", "nftables"] {
        on_each_host(|host| {
            let (red, first) = host.connect("br0", 0, "red", 2);
            let (green, second) = host.connect("br0", 0, "green", 3);
            let (blue, third) = host.connect("br1", 1, "blue", 2);
            reaches(&red, at(1, 2));
            reaches(&red, at(0, 3));
            let keys = json!({"backend": backend, "ingressPolicy": "same-bridge"});
            let calls = [&first, &second, &third].map(|result| host.firewall(result, keys.clone()));
            for (call, container) in calls.iter().zip([&red, &green, &blue]) {
                call.add(container).expect_ok();
                call.check(container).expect_ok();
            }
            reaches(&red, at(0, 3));
            reaches(&red, OUTSIDE);
            does_not_reach(&red, at(1, 2));
            does_not_reach(&blue, at(0, 2));

            // A bridge's policy goes with its last container.
            calls[0].del(&red).expect_ok();
            does_not_reach(&blue, at(0, 3));
            calls[1].del(&green).expect_ok();
            reaches(&blue, at(0, 3));
        });
    }
}

#[test]
fn an_isolated_bridge_keeps_its_containers_apart() {
    for backend in ["iptables", "nftables"] {
        on_each_host(|host| {
            let switch = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
            skip_unless!(switch.exists(), "br_netfilter");
            for switch in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
                host.lab.set_sysctl(switch, "1");
            }
            let (red, first) = host.connect("br0", 0, "red", 2);
            let (green, second) = host.connect("br0", 0, "green", 3);
            reaches(&red, at(0, 3));
            let keys = json!({"backend": backend, "ingressPolicy": "isolated"});
            host.firewall(&first, keys.clone()).add(&red).expect_ok();
            host.firewall(&second, keys).add(&green).expect_ok();
            does_not_reach(&red, at(0, 3));
            does_not_reach(&green, at(0, 2));
            reaches(&red, OUTSIDE);
        });
    }
}

#[test]
fn an_address_that_another_has_meanwhile_stays_open() {
    for backend in ["iptables", "nftables"] {
        on_each_host(|host| {
            let (red, result) = host.connect("br0", 0, "red", 2);
            host.both("-P FORWARD DROP");
            host.firewall(&result, json!({"backend": backend})).add(&red).expect_ok();
            // Red's address goes to another container, whose ADD comes before red's DEL.
            host.lab.ip("link delete br0");
            red.vanish();
            let (heir, result) = host.connect("br0", 0, "heir", 2);
            let call = host.firewall(&result, json!({"backend": backend}));
            call.add(&heir).expect_ok();
            call.netns("").id("red").del(&heir).expect_ok();
            reaches(&heir, OUTSIDE);
        });
    }
}

#[test]
fn del_minds_no_namespace() {
    for backend in ["iptables", "nftables"] {
        let lose: [fn(&Container); 2] = [Container::vanish, Container::vanish_leaving_a_file];
        for lose in lose {
            let host = Host::new(Xtables::PROGRAMS[0]);
            let (red, result) = host.connect("br0", 0, "red", 2);
            let call = host.firewall(&result, json!({"backend": backend}));
            call.add(&red).expect_ok();
            let there = || host.lab.ruleset() + &host.both("-S");
            assert!(there().contains("10.90.0.2"));
            lose(&red);
            call.del(&red).expect_ok();
            assert!(!there().contains("10.90.0.2"), "{}", there());
            call.del(&red).expect_ok();
        }
    }
}

#[test]
fn ipv4_alone_needs_no_ip6tables() {
    on_each_host(|host| {
        for end in ["", "-save", "-restore"] {
            fs::remove_file(host.lab.path(&format!("programs/ip6tables{end}"))).unwrap();
        }
        // Nothing but the folder's programs, and sh for nobody.
        let path = host.lab.path("programs").display().to_string();
        let red = host.lab.container("red");
        let result = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.90.0.2/24"}], "interfaces": []});
        let call = host.firewall(&result, json!({"backend": "iptables"})).env("PATH", &path);
        call.add(&red).expect_ok();
        call.check(&red).expect_ok();
        assert!(host.iptables("iptables", "-S CNI-FORWARD").expect_ok().contains("10.90.0.2"));
        call.del(&red).expect_ok();
        let result = json!({"cniVersion": "1.1.0", "ips": [{"address": "fd00:90::2/64"}], "interfaces": []});
        let call = host.firewall(&result, json!({"backend": "iptables"})).env("PATH", &path);
        let error = call.add(&red).expect_error(999);
        assert!(error["msg"].as_str().unwrap().contains("ip6tables"), "{error}");
    });
}

#[test]
fn gc_takes_what_is_not_valid() {
    for backend in ["iptables", "nftables"] {
        on_each_host(|host| {
            let (red, first) = host.connect("br0", 0, "red", 2);
            let (blue, second) = host.connect("br0", 0, "blue", 3);
            host.both("-P FORWARD DROP");
            for (container, result) in [(&red, &first), (&blue, &second)] {
                host.firewall(result, json!({"backend": backend})).add(container).expect_ok();
            }
            let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "firewall", "backend": backend});
            host.call("firewall").json(&conf).gc(&[("blue", "eth0")]).expect_ok();
            stops_reaching(&red, OUTSIDE);
            reaches(&blue, OUTSIDE);
            host.call("firewall").json(&conf).gc(&[]).expect_ok();
            stops_reaching(&blue, OUTSIDE);
        });
    }
}

#[test]
fn check_misses_what_somebody_took() {
    on_each_host(|host| {
        let (red, result) = host.connect("br0", 0, "red", 2);
        let call = host.firewall(&result, json!({"backend": "iptables"}));
        call.add(&red).expect_ok();
        call.check(&red).expect_ok();
        host.both("-F CNI-FORWARD");
        let error = call.check(&red).expect_error(999);
        assert!(error["msg"].as_str().unwrap().contains("expected CNI-FORWARD rule ["), "{error}");
    });
    let host = Host::new(Xtables::PROGRAMS[0]);
    let (red, result) = host.connect("br0", 0, "red", 2);
    let call = host.firewall(&result, json!({"backend": "nftables"}));
    call.add(&red).expect_ok();
    call.check(&red).expect_ok();
    host.lab.sh("nft flush set inet weft admitted4").expect_ok();
    let error = call.check(&red).expect_error(999);
    assert!(error["msg"].as_str().unwrap().contains("10.90.0.2"), "{error}");
}

#[test]
fn what_a_flush_took_comes_back() {
    for backend in ["iptables", "nftables"] {
        let host = Host::new(Xtables::PROGRAMS[0]);
        let (red, result) = host.connect("br0", 0, "red", 2);
        host.both("-P FORWARD DROP");
        host.firewall(&result, json!({"backend": backend})).add(&red).expect_ok();
        reaches(&red, OUTSIDE);
        let doctor = || host.lab.sh("echo '{}' | firewall doctor").expect_json()["problems"].clone();
        assert_eq!(doctor(), json!([]));
        // Our table goes with the one, the chains of iptables with the other; the policy stays.
        host.both("-F");
        if backend == "nftables" {
            host.lab.sh("nft delete table inet weft").expect_ok();
        }
        does_not_reach(&red, OUTSIDE);
        assert_ne!(doctor(), json!([]));

        host.lab.sh("echo '{}' | firewall reload").expect_ok();

        reaches(&red, OUTSIDE);
        assert_eq!(doctor(), json!([]));
    }
}

#[test]
fn status_says_whether_the_backend_is_there() {
    let host = Host::new(Xtables::PROGRAMS[0]);
    let conf =
        |backend: &str| json!({"cniVersion": "1.1.0", "name": "net", "type": "firewall", "backend": backend});
    for backend in ["iptables", "nftables"] {
        host.call("firewall").json(&conf(backend)).status().expect_ok();
    }
    let bus = host.lab.path("no-such-bus").display().to_string();
    let call = host.call("firewall").json(&conf("firewalld"));
    let error = call.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={bus}")).status().expect_error(50);
    assert!(error["msg"].as_str().unwrap().contains("firewalld is not running"), "{error}");
}

#[test]
fn firewalld_lets_its_sources_through() {
    let host = Host::new(Xtables::PROGRAMS[0]);
    let (red, result) = host.connect("br0", 0, "red", 2);
    reaches(&red, OUTSIDE);
    let Some(firewalld) = Firewalld::start(&host.lab) else { return };
    does_not_reach(&red, OUTSIDE);

    // Named or chosen, since it is running.
    for keys in [json!({"backend": "firewalld"}), json!({}), json!({"firewalldZone": "internal"})] {
        let zone = keys["firewalldZone"].as_str().unwrap_or("trusted").to_string();
        let call = host.firewall(&result, keys).env("DBUS_SYSTEM_BUS_ADDRESS", &firewalld.address);
        assert_eq!(call.add(&red).expect_json(), result);
        let sources = firewalld.command(&format!("--zone={zone} --list-sources"));
        assert!(
            sources.stdout.contains("10.90.0.2/32") && sources.stdout.contains("fd00:90::2/128"),
            "{sources}"
        );
        if zone == "trusted" {
            reaches(&red, OUTSIDE);
        }
        call.check(&red).expect_ok();
        call.add(&red).expect_ok();
        firewalld.command(&format!("--zone={zone} --remove-source=10.90.0.2/32")).expect_ok();
        let error = call.check(&red).expect_error(999);
        assert!(error["msg"].as_str().unwrap().contains("10.90.0.2"), "{error}");

        call.del(&red).expect_ok();
        call.del(&red).expect_ok();
        let sources = firewalld.command(&format!("--zone={zone} --list-sources"));
        assert_eq!(sources.stdout.trim(), "", "{sources}");
        does_not_reach(&red, OUTSIDE);
    }
    let before = host.lab.snapshot();
    let call = host.firewall(&result, json!({"firewalldZone": "nowhere"}));
    let error = call.env("DBUS_SYSTEM_BUS_ADDRESS", &firewalld.address).add(&red).expect_error(999);
    assert!(error["msg"].as_str().unwrap().contains("INVALID_ZONE"), "{error}");
    host.lab.assert_restored(&before);
}

/// Upstream's plugin takes firewalld by itself where it is running, and keeps no record of that.
#[test]
fn sources_that_another_implementation_gave_firewalld_go() {
    let host = Host::new(Xtables::PROGRAMS[0]);
    let (red, result) = host.connect("br0", 0, "red", 2);
    let Some(firewalld) = Firewalld::start(&host.lab) else { return };
    let sources = || firewalld.command("--zone=trusted --list-sources").stdout;
    let call = |keys: Value| host.firewall(&result, keys).env("DBUS_SYSTEM_BUS_ADDRESS", &firewalld.address);
    for keys in [json!({}), json!({"backend": "firewalld"})] {
        for source in ["10.90.0.2/32", "fd00:90::2/128", "10.90.0.9/32"] {
            firewalld.command(&format!("--zone=trusted --add-source={source}"));
        }
        assert!(sources().contains("10.90.0.2/32") && sources().contains("fd00:90::2/128"), "{}", sources());

        call(keys).del(&red).expect_ok();
        assert_eq!(sources().trim(), "10.90.0.9/32", "another container's stays");
    }

    // What one of ours has by its record is not taken by a DEL for somebody who had the address before.
    call(json!({})).add(&red).expect_ok();
    call(json!({})).id("former").netns("").del(&red).expect_ok();
    assert!(sources().contains("10.90.0.2/32"), "{}", sources());
    call(json!({})).check(&red).expect_ok();
}
