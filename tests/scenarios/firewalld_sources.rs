//! Sources that the `firewall` plugins, upstream's and ours, give firewalld: CHECK looks there, and GC takes them.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall, skipped};

use crate::others::Firewalld;

/// The reference plugins.
const DEBIAN: &str = "/usr/lib/cni";

/// A host with a bridge of ours and upstream's `firewall`, which keeps no record of what it did.
struct Host {
    lab: Lab,
}

impl Host {
    fn new() -> Option<Self> {
        if !Path::new(DEBIAN).join("firewall").exists() {
            skipped("Debian's package containernetworking-plugins");
            return None;
        }
        Some(Self { lab: Lab::new() })
    }

    fn bridge(&self) -> PluginCall<'_> {
        self.lab.plugin("bridge").json(&json!({
            "cniVersion": "1.1.0", "name": "n1", "type": "bridge", "bridge": "br0", "isGateway": true,
            "ipam": {"type": "host-local", "dataDir": self.lab.path("leases"),
                "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd00:90::/64"}]]},
        }))
    }

    fn connect(&self, name: &str) -> (Container, Value) {
        let container = self.lab.container(name);
        let mut result = self.bridge().add(&container).expect_json();
        result["cniVersion"] = "1.0.0".into();
        (container, result)
    }

    fn conf(keys: &Value) -> Value {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "firewall"});
        for (key, value) in keys.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        conf
    }

    /// A call of upstream's plugin.
    fn theirs(&self, firewalld: &Firewalld, keys: &Value) -> PluginCall<'_> {
        let call = self.lab.plugin_in(Path::new(DEBIAN), "firewall").json(&Self::conf(keys));
        call.env("DBUS_SYSTEM_BUS_ADDRESS", &firewalld.address)
            .env("PATH", std::env::var("PATH").unwrap_or_default())
    }

    fn ours(&self, firewalld: &Firewalld, keys: &Value) -> PluginCall<'_> {
        let call = self.lab.plugin("firewall").json(&Self::conf(keys));
        call.env("DBUS_SYSTEM_BUS_ADDRESS", &firewalld.address)
            .env("PATH", std::env::var("PATH").unwrap_or_default())
    }
}

fn sources(firewalld: &Firewalld, zone: &str) -> Vec<String> {
    let listed = firewalld.command(&format!("--zone={zone} --list-sources"));
    let mut sources: Vec<_> = listed.expect_ok().split_whitespace().map(str::to_owned).collect();
    sources.sort();
    sources
}

#[test]
fn gc_takes_the_sources_of_who_is_gone() {
    let Some(host) = Host::new() else { return };
    // An administrator's word counts.
    let zone = r#"<zone target="ACCEPT"><source address="10.90.0.4/32"/></zone>"#;
    host.lab.write("etc/firewalld/zones/trusted.xml", zone);
    let Some(firewalld) = Firewalld::start(&host.lab) else { return };
    let work = json!({"firewalldZone": "work"});
    let mut containers = Vec::new();
    for (name, keys) in [
        ("red", json!({})),
        ("blue", json!({})),
        ("green", json!({"backend": "firewalld"})),
        ("pink", work),
        ("grey", json!({})),
    ] {
        let (container, result) = host.connect(name);
        let call = match name {
            "grey" => host.ours(&firewalld, &keys),
            _ => host.theirs(&firewalld, &keys),
        };
        call.prev_result(&result).add(&container).expect_ok();
        containers.push(container);
    }
    // What nobody of the network has had is somebody else's.
    firewalld.command("--zone=trusted --add-source=10.90.0.77/32").expect_ok();
    assert_eq!(sources(&firewalld, "work"), ["10.90.0.5/32", "fd00:90::5/128"]);
    assert_eq!(sources(&firewalld, "trusted").len(), 9);
    containers.iter().for_each(Container::vanish);

    let gc = |call: PluginCall<'_>, valid: &[(&str, &str)]| {
        let call = call.env("DBUS_SYSTEM_BUS_ADDRESS", &firewalld.address);
        call.gc(valid).expect_ok();
    };
    let newest = |valid: &[(&str, &str)]| {
        gc(host.bridge(), valid);
        gc(host.ours(&firewalld, &json!({"cniVersion": "1.1.0"})), valid);
    };
    newest(&[("blue", "eth0")]);

    assert_eq!(sources(&firewalld, "work"), [""; 0]);
    assert_eq!(
        sources(&firewalld, "trusted"),
        ["10.90.0.3/32", "10.90.0.4/32", "10.90.0.77/32", "fd00:90::3/128"]
    );
    newest(&[]);
    assert_eq!(sources(&firewalld, "trusted"), ["10.90.0.4/32", "10.90.0.77/32"]);
}

/// A lease shows that an address was the network's; whoever has the same one now keeps it, whether or not it is written down.
#[test]
fn gc_spares_the_address_that_another_network_has() {
    let Some(host) = Host::new() else { return };
    let Some(firewalld) = Firewalld::start(&host.lab) else { return };
    for name in ["red", "cached", "leased", "inside", "routed"] {
        let (container, result) = host.connect(name);
        host.theirs(&firewalld, &json!({})).prev_result(&result).add(&container).expect_ok();
        container.vanish();
    }
    let before = sources(&firewalld, "trusted");
    assert_eq!(before.len(), 10, "{before:?}");
    // A runtime's cache, and a directory of host-local's that only a network's configuration names.
    let told = json!({
        "kind": "cniCacheV1", "containerId": "c2", "ifName": "eth0", "networkName": "n2", "config": "",
        "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.90.0.3/24"}, {"address": "fd00:90::3/64"}]},
    });
    host.lab.write("var/lib/cni/results/n2-c2-eth0", told.to_string());
    let list = json!({"cniVersion": "1.0.0", "name": "n3", "plugins": [
        {"type": "bridge", "ipam": {"type": "host-local", "dataDir": host.lab.path("others")}},
    ]});
    host.lab.write("etc/cni/net.d/10-n3.conflist", list.to_string());
    host.lab.write("others/n3/10.90.0.4", "c3\r\neth0");
    host.lab.write("others/n3/fd00:90::4", "c3\r\neth0");
    // Of these nobody has written anything down.
    let inside = host.lab.container("c4");
    host.lab.ip(&format!("link add far0 type veth peer name eth0 netns {}", inside.netns().display()));
    inside.ip("address add 10.90.0.5/24 dev eth0");
    inside.ip("address add fd00:90::5/64 dev eth0 nodad");
    let routed = host.lab.container("c5");
    host.lab.ip(&format!("link add far1 type veth peer name eth0 netns {}", routed.netns().display()));
    host.lab.ip("link set far1 up");
    routed.ip("link set eth0 up");
    host.lab.ip("route add 10.90.0.6/32 dev far1");
    host.lab.ip("route add fd00:90::6/128 dev far1");

    let gc = host.bridge().env("DBUS_SYSTEM_BUS_ADDRESS", &firewalld.address);
    gc.gc(&[]).expect_ok();
    let gone = |source: &&String| !["10.90.0.2/32", "fd00:90::2/128"].contains(&source.as_str());
    let rest: Vec<_> = before.iter().filter(gone).cloned().collect();
    assert_eq!(sources(&firewalld, "trusted"), rest);
}

#[test]
fn check_looks_where_upstreams_plugin_put_it() {
    let Some(host) = Host::new() else { return };
    let Some(firewalld) = Firewalld::start(&host.lab) else { return };
    let check = |container: &Container, keys: &Value, result: &Value| {
        host.ours(&firewalld, keys).prev_result(result).check(container)
    };
    // The configuration named the backend then, and does not any more.
    let (early, first) = host.connect("early");
    let iptables = json!({"backend": "iptables"});
    host.theirs(&firewalld, &iptables).prev_result(&first).add(&early).expect_ok();
    let rules = host.lab.sh("iptables -S CNI-FORWARD").expect_ok().to_string();
    assert!(rules.contains("10.90.0.2/32"), "{rules}");
    check(&early, &json!({}), &first).expect_ok();
    // Without a name it takes firewalld, also where it has a policy in iptables.
    let (late, second) = host.connect("late");
    for keys in [json!({}), json!({"ingressPolicy": "same-bridge"})] {
        host.theirs(&firewalld, &keys).prev_result(&second).add(&late).expect_ok();
        assert_eq!(sources(&firewalld, "trusted"), ["10.90.0.3/32", "fd00:90::3/128"]);
        check(&late, &keys, &second).expect_ok();

        firewalld.command("--zone=trusted --remove-source=10.90.0.3/32").expect_ok();
        let failed = check(&late, &keys, &second).expect_error(999);
        let words = "source 10.90.0.3 of firewalld's zone trusted";
        assert!(failed["msg"].as_str().unwrap().contains(words), "{failed}");
        assert!(!failed["msg"].as_str().unwrap().contains("fd00:90::3"), "{failed}");
    }
    check(&early, &json!({}), &first).expect_ok();
}
