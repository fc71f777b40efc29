//! CHECK of the plugin that made an interface, where plugins behind it have changed that: what they changed is theirs.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Output, PluginCall, skip_unless, skipped};

use crate::dummy_plugin::DUMMY;
use crate::host_device_plugin::HOST_DEVICE;
use crate::ipvlan_plugin::IPVLAN;
use crate::macvlan_plugin::MACVLAN;
use crate::main_plugins::Subject;
use crate::ptp_plugin::PTP;
use crate::tap_plugin::TAP;
use crate::vlan_plugin::VLAN;

/// The reference plugins.
const DEBIAN: &str = "/usr/lib/cni";
const MADE_WITH: &str = "c2:11:22:33:44:01";
const CHANGED_TO: &str = "c2:11:22:33:44:02";

const BRIDGE: Subject = Subject {
    plugin: "bridge",
    there: |_| Ok(()),
    prepare: |_| (),
    conf: || {
        json!({
            "name": "n1", "type": "bridge", "bridge": "br0", "isGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
        })
    },
};

/// A container with an interface that was made with an address and an MTU, as far as its plugin gives them.
struct Connected<'a> {
    subject: &'a Subject,
    lab: Lab,
    red: Container,
    version: &'static str,
    result: Value,
}

impl<'a> Connected<'a> {
    fn new(subject: &'a Subject, version: &'static str) -> Option<Self> {
        let lab = Lab::new();
        let red = lab.container("red");
        (subject.prepare)(&lab);
        (subject.there)(&lab).map_err(skipped).ok()?;
        let mut connected = Self { subject, lab, red, version, result: Value::Null };
        connected.result = connected.main().add(&connected.red).expect_json();
        connected.check(&connected.result).expect_ok();
        Some(connected)
    }

    /// The same, as a runtime that speaks another version calls: the attachment is as it is.
    fn called_in(mut self, version: &'static str) -> Self {
        self.version = version;
        self.result["cniVersion"] = version.into();
        for interface in self.result["interfaces"].as_array_mut().unwrap() {
            interface.as_object_mut().unwrap().remove("mtu");
        }
        self
    }

    fn main(&self) -> PluginCall<'_> {
        let mut conf = (self.subject.conf)();
        conf["cniVersion"] = self.version.into();
        conf["mtu"] = 1400.into();
        conf["runtimeConfig"] = json!({"mac": MADE_WITH});
        conf["ipam"]["routes"] =
            json!([{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24"}, {"dst": "::/0", "gw": "2001:db8:1::1"}]);
        self.lab.plugin(self.subject.plugin).json(&conf)
    }

    fn chained(&self, kind: &str, keys: &Value, result: &Value) -> Value {
        let mut conf = json!({"cniVersion": self.version, "name": "n1", "type": kind, "prevResult": result});
        for (key, value) in keys.as_object().into_iter().flatten() {
            conf[key] = value.clone();
        }
        conf
    }

    /// Has a plugin of ours follow, and returns the result of both.
    #[track_caller]
    fn followed_by(&self, kind: &str, keys: &Value) -> Value {
        let call = self.lab.plugin(kind).json(&self.chained(kind, keys, &self.result));
        let result = call.add(&self.red).expect_json();
        self.lab.plugin(kind).json(&self.chained(kind, keys, &result)).check(&self.red).expect_ok();
        result
    }

    fn check(&self, result: &Value) -> Output {
        self.main().prev_result(result).check(&self.red)
    }

    #[track_caller]
    fn check_misses(&self, result: &Value, words: &str) {
        let failed = self.check(result);
        assert!(failed.code != 0 && failed.stdout.contains(words), "{words}: {failed}");
    }

    /// What is tuned: an interface of an ipvlan has its master's address.
    fn keys(&self) -> Value {
        let mut keys = json!({
            "mtu": 1300, "promisc": true,
            "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "0", "net.ipv6.conf.IFNAME.keep_addr_on_down": "0"},
        });
        if self.subject.plugin != "ipvlan" {
            keys["mac"] = CHANGED_TO.into();
        }
        keys
    }
}

fn before_tuning(subject: &Subject) {
    let Some(connected) = Connected::new(subject, "1.1.0") else { return };
    let red = &connected.red;
    let result = connected.followed_by("tuning", &connected.keys());
    assert_eq!(red.link("eth0")["mtu"], 1300);
    connected.check(&result).expect_ok();
    // What the result says counts, and nothing else.
    red.ip("link set eth0 mtu 1290");
    connected.check_misses(&result, "MTU 1290, not 1300");
    red.ip("link set eth0 mtu 1300");
    connected.check(&result).expect_ok();

    // Before this version a result says nothing of the MTU.
    let older = connected.called_in("1.0.0");
    let result = older.followed_by("tuning", &older.keys());
    assert!(result["interfaces"].as_array().unwrap().iter().all(|one| one.get("mtu").is_none()), "{result}");
    older.check(&result).expect_ok();
    if subject.plugin != "ipvlan" {
        older.red.ip("link set eth0 address c2:11:22:33:44:03");
        older.check_misses(&result, "c2:11:22:33:44:03");
    }
}

/// What the reference plugin changes it tells of the address alone; and it keeps no record of sysctls.
fn before_upstreams_tuning(subject: &Subject) {
    let theirs = Path::new(DEBIAN);
    skip_unless!(theirs.join("tuning").exists(), "Debian's package containernetworking-plugins");
    let Some(connected) = Connected::new(subject, "1.0.0") else { return };
    let mut keys = connected.keys();
    keys.as_object_mut().unwrap().remove("sysctl");
    keys["dataDir"] = connected.lab.path("run/cni/tuning").display().to_string().into();
    let conf = connected.chained("tuning", &keys, &connected.result);
    let mut result = connected.lab.plugin_in(theirs, "tuning").json(&conf).add(&connected.red).expect_json();
    assert_eq!(connected.red.link("eth0")["mtu"], 1300);
    connected.check(&result).expect_ok();

    // Later releases pass on what the result says of the MTU, as it was.
    let newer = Connected { version: "1.1.0", ..connected };
    result["cniVersion"] = "1.1.0".into();
    for interface in result["interfaces"].as_array_mut().unwrap() {
        if interface["name"] == "eth0" {
            interface["mtu"] = 1400.into();
        }
    }
    newer.check(&result).expect_ok();
    newer.red.ip("link set eth0 down");
    newer.check_misses(&result, "down");
}

fn before_sbr(subject: &Subject) {
    let Some(connected) = Connected::new(subject, "1.0.0") else { return };
    let result = connected.followed_by("sbr", &json!({}));
    assert!(!connected.red.ip("route show table main").contains("eth0"), "sbr moved nothing");
    connected.check(&result).expect_ok();

    let rule = connected.red.ip("rule show from 10.1.2.2");
    let table = rule.split("lookup ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    connected.red.ip(&format!("route delete 198.51.100.0/24 table {table}"));
    connected.check_misses(&result, "198.51.100.0/24");
}

fn before_a_vrf(subject: &Subject) {
    let Some(connected) = Connected::new(subject, "1.0.0") else { return };
    skip_unless!(connected.lab.has_link_type("vrf table 7"), "links of type vrf (CONFIG_NET_VRF)");
    let result = connected.followed_by("vrf", &json!({"vrfname": "blue"}));
    assert!(!connected.red.ip("route show table main").contains("eth0"), "vrf moved nothing");
    connected.check(&result).expect_ok();

    connected.red.ip("route delete 198.51.100.0/24 vrf blue");
    connected.check_misses(&result, "198.51.100.0/24");
}

/// The stories for one plugin, in a module that has its name. Debian's kernel, which may be emulated, is for those that need
/// it: it takes tests by parts of their names (xtask/src/kernel.rs), and of macvlan only the one of a VRF.
macro_rules! stories {
    ($($plugin:ident $subject:ident)+) => {$(
        mod $plugin {
            #[test]
            fn before_tuning() {
                super::before_tuning(&super::$subject);
            }

            #[test]
            fn before_upstreams_tuning() {
                super::before_upstreams_tuning(&super::$subject);
            }

            #[test]
            fn before_sbr() {
                super::before_sbr(&super::$subject);
            }

            #[test]
            fn before_a_vrf() {
                super::before_a_vrf(&super::$subject);
            }
        }
    )+};
}

stories! {
    bridge BRIDGE
    ptp PTP
    macv MACVLAN
    ipvlan IPVLAN
    vlan VLAN
    host_device HOST_DEVICE
    dummy DUMMY
    tap TAP
}
