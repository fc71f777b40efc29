//! Every plugin that Debian's package has, too: what one made the other checks and takes apart, both ways.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall, skip_unless};

const DEBIAN: &str = "/usr/lib/cni";

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Ours,
    Debian,
}

impl By {
    fn call<'lab>(self, lab: &'lab Lab, conf: &Value) -> PluginCall<'lab> {
        let kind = conf["type"].as_str().unwrap();
        match self {
            Self::Ours => lab.plugin(kind),
            Self::Debian => lab.plugin_in(Path::new(DEBIAN), kind),
        }
        .json(conf)
    }
}

/// A plugin and, if it is chained, the one in front.
struct Case {
    /// In the order of ADD; the last one is the plugin in question.
    confs: Vec<Value>,
    /// What `ip` makes on the host first.
    device: &'static str,
    /// What the kernel has where the plugin works: words for `ip link add`, on the uplink or for itself.
    needs: Option<Needs>,
    /// How links of ours begin that the reference would name otherwise, and so neither checks nor removes.
    unknown: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Needs {
    On(&'static str),
    Kind(&'static str),
}

fn plugin(lab: &Lab, kind: &str, keys: Value) -> Value {
    let mut conf = keys;
    conf["cniVersion"] = "1.0.0".into();
    conf["name"] = "n1".into();
    conf["type"] = kind.into();
    if conf["ipam"] == "host-local" {
        conf["ipam"] = json!({"type": "host-local", "dataDir": lab.path("leases"), "ranges": [
            [{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}],
        ], "routes": [{"dst": "0.0.0.0/0"}]});
    }
    conf
}

fn main(lab: &Lab, kind: &str, keys: Value) -> Case {
    let mut keys = keys;
    keys["ipam"] = "host-local".into();
    Case { confs: vec![plugin(lab, kind, keys)], device: "", needs: None, unknown: None }
}

fn behind_a_pair(lab: &Lab, kind: &str, keys: Value) -> Case {
    let pair = plugin(lab, "ptp", json!({"ipam": "host-local"}));
    Case { confs: vec![pair, plugin(lab, kind, keys)], ..main(lab, kind, json!({})) }
}

/// The files that either implementation keeps for itself.
fn is_kept(line: &str) -> bool {
    ["run/weft", "run/cni", "leases", "var/lib/weft", "forward"].iter().any(|path| line.contains(path))
}

/// One makes an attachment, the other checks it and takes it apart.
#[track_caller]
fn changes_hands(case: fn(&Lab) -> Case, from: By, to: By) {
    let lab = Lab::new();
    skip_unless!(Path::new(DEBIAN).join("bridge").exists(), "Debian's package containernetworking-plugins");
    let _beyond = lab.uplink();
    lab.set_sysctl("ipv4/ip_forward", "1");
    lab.set_sysctl("ipv6/conf/all/forwarding", "1");
    let Case { confs, device, needs, unknown } = case(&lab);
    let unknown = unknown.filter(|_| to == By::Debian);
    if !device.is_empty() {
        lab.ip(device);
    }
    let there = needs.is_none_or(|needs| match needs {
        Needs::On(words) => lab.has_link_type_on("uplink0", words),
        Needs::Kind(words) => lab.has_link_type(words),
    });
    skip_unless!(there, format!("a kernel with what {} makes", confs[0]["type"]));
    let red = lab.container("red");
    let state = || {
        let listing = format!("{:?}", lab.snapshot());
        let host = listing.lines().filter(|line| !is_kept(line)).map(str::to_owned);
        (host.collect::<Vec<_>>(), rules(&red), links(&red), leases(&lab))
    };
    let before = state();

    let mut result: Option<Value> = None;
    for conf in &confs {
        let last = (state(), tuned(&red));
        let call = from.call(&lab, conf);
        let call = result.iter().fold(call, PluginCall::prev_result);
        result = Some(call.add(&red).expect_json());
        assert_ne!((state(), tuned(&red)), last, "ADD did nothing, so DEL proves nothing");
    }
    let result = result.unwrap();
    // What is in front has been changed by what is behind it.
    if unknown.is_none() {
        to.call(&lab, confs.last().unwrap()).prev_result(&result).check(&red).expect_ok();
    }
    for conf in confs.iter().rev() {
        to.call(&lab, conf).prev_result(&result).del(&red).expect_ok();
    }
    let mut after = state();
    if let Some(unknown) = unknown {
        let all = after.0.len();
        after.0.retain(|line| !line.contains(unknown));
        assert!(after.0.len() < all, "nothing of {unknown} was left");
    }
    assert_eq!(after, before, "{from:?} made it, {to:?} took it apart");
    // What only its maker knows is forgotten with the next of its calls, which is no error.
    for conf in confs.iter().rev() {
        from.call(&lab, conf).prev_result(&result).del(&red);
        By::Ours.call(&lab, conf).prev_result(&result).del(&red).expect_ok();
    }
    assert_eq!(state(), before);
    assert_eq!(lab.snapshot().lines_with("run/weft/attachments"), Vec::<&str>::new());
}

/// What a plugin has asked for. The kernel has a rule of its own from the first domain of a namespace on
/// (Documentation/networking/vrf.rst).
fn rules(container: &Container) -> Vec<String> {
    let listing = ["rule show", "-6 rule show"].map(|words| container.ip(words)).concat();
    listing.lines().filter(|line| !line.ends_with("[l3mdev-table]")).map(str::to_owned).collect()
}

/// The links and whether they are up.
fn links(container: &Container) -> Vec<String> {
    let listing = container.ip_json("link show");
    let links = listing.as_array().unwrap().iter();
    let up = |link: &Value| link["flags"].as_array().unwrap().contains(&json!("UP"));
    links.map(|link| format!("{} {}", link["ifname"].as_str().unwrap(), up(link))).collect()
}

/// What `tuning` changes.
fn tuned(container: &Container) -> Vec<Value> {
    let listing = container.ip_json("link show");
    let keys = ["mtu", "address", "promiscuity", "txqlen"];
    let links = listing.as_array().unwrap().iter();
    links.flat_map(|link| keys.map(|key| link[key].clone())).collect()
}

fn leases(lab: &Lab) -> usize {
    let entries = std::fs::read_dir(lab.path("leases/n1")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().parse::<std::net::IpAddr>().is_ok()).count()
}

/// Makes both tests of a case.
macro_rules! cases {
    ($($name:ident: $case:expr;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn from_the_reference_to_ours() {
                changes_hands($case, By::Debian, By::Ours);
            }

            #[test]
            fn from_ours_to_the_reference() {
                changes_hands($case, By::Ours, By::Debian);
            }
        })*
    };
}

cases! {
    loopback: |lab| Case {
        confs: vec![plugin(lab, "loopback", json!({}))],
        ..main(lab, "loopback", json!({}))
    };
    static_ipam: |lab| Case {
        confs: vec![plugin(lab, "ptp", json!({"ipam": {"type": "static", "addresses": [
            {"address": "10.1.2.9/24", "gateway": "10.1.2.1"}, {"address": "fd00:1::9/64", "gateway": "fd00:1::1"},
        ]}}))],
        ..main(lab, "ptp", json!({}))
    };
    ptp: |lab| main(lab, "ptp", json!({"mtu": 1400}));
    macvlan: |lab| Case { needs: Some(Needs::On("macvlan mode bridge")), ..main(lab, "macvlan", json!({"master": "uplink0"})) };
    ipvlan: |lab| Case { needs: Some(Needs::On("ipvlan mode l2")), ..main(lab, "ipvlan", json!({"master": "uplink0"})) };
    vlan: |lab| Case { needs: Some(Needs::On("vlan id 9")), ..main(lab, "vlan", json!({"master": "uplink0", "vlanId": 7})) };
    host_device: |lab| Case {
        device: "link add dev0 type veth peer name dev1",
        ..main(lab, "host-device", json!({"device": "dev0"}))
    };
    tuning: |lab| behind_a_pair(lab, "tuning", json!({"mtu": 1400, "mac": "02:00:00:00:00:07", "promisc": true}));
    bandwidth: |lab| Case { unknown: Some("bwp"), ..behind_a_pair(lab, "bandwidth", json!({
        "ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000,
    })) };
    sbr: |lab| behind_a_pair(lab, "sbr", json!({}));
    vrf: |lab| Case { needs: Some(Needs::Kind("vrf table 7")), ..behind_a_pair(lab, "vrf", json!({"vrfname": "blue"})) };
}
