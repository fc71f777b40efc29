//! The chained `tuning` plugin: what it changes comes back, whatever happens in between.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall, skip_unless};

/// The reference plugin.
const DEBIAN: &str = "/usr/lib/cni";

fn tuning<'lab>(lab: &'lab Lab, keys: &Value) -> PluginCall<'lab> {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "tuning"});
    for (key, value) in keys.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    lab.plugin("tuning").json(&conf)
}

/// A container that bridge has connected, and the result.
fn connected(lab: &Lab, name: &str) -> (Container, Value) {
    connected_to(lab, name, "net")
}

fn connected_to(lab: &Lab, name: &str, network: &str) -> (Container, Value) {
    let container = lab.container(name);
    let subnet = if network == "net" { "10.90.0.0/24" } else { "10.90.1.0/24" };
    let conf = json!({
        "cniVersion": "1.1.0", "name": network, "type": "bridge", "bridge": network, "isGateway": true,
        "ipam": {"type": "host-local", "subnet": subnet},
    });
    let result = lab.plugin("bridge").json(&conf).add(&container).expect_json();
    (container, result)
}

fn mtu(container: &Container) -> u64 {
    container.link("eth0")["mtu"].as_u64().unwrap_or_default()
}

#[test]
fn the_host_is_as_before() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    let before = lab.snapshot();
    let keys = json!({"mtu": 1300, "sysctl": {"net.core.somaxconn": "500"}});
    let call = tuning(&lab, &keys).prev_result(&result);
    let told = call.add(&red).expect_json();
    assert_eq!(told["interfaces"][2]["mtu"], 1300, "the result tells the MTU as it is now");
    assert_ne!(lab.snapshot(), before, "ADD did nothing, so DEL proves nothing");
    call.add(&red).expect_ok();
    tuning(&lab, &keys).prev_result(&told).check(&red).expect_ok();
    tuning(&lab, &keys).del(&red).expect_ok();
    assert_eq!((mtu(&red), red.sysctl("core/somaxconn").as_str()), (1500, "4096"));
    lab.assert_restored(&before);
}

#[test]
fn a_second_add_keeps_what_was_before_the_first() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    tuning(&lab, &json!({"mtu": 1300})).prev_result(&result).add(&red).expect_ok();
    tuning(&lab, &json!({"mtu": 1200})).prev_result(&result).add(&red).expect_ok();
    assert_eq!(mtu(&red), 1200);
    // One that fails leaves what the first has made.
    tuning(&lab, &json!({"sysctl": {"net.no.such": "1"}})).prev_result(&result).add(&red).expect_error(999);
    assert_eq!(mtu(&red), 1200);
    tuning(&lab, &json!({})).del(&red).expect_ok();
    assert_eq!(mtu(&red), 1500);
}

#[test]
fn del_succeeds_in_every_bad_case() {
    let lab = Lab::new();
    let keys = json!({"mtu": 1300});
    let none = lab.snapshot();
    tuning(&lab, &keys).netns("").id("never").del(&lab.container("unseen")).expect_ok();
    lab.assert_restored(&none);
    type Case = fn(&Lab, &Container, PluginCall<'_>);
    let cases: [(&str, Case); 6] = [
        ("gone", |_, red, call| {
            red.vanish();
            call.del(red).expect_ok();
        }),
        ("empty", |_, red, call| {
            call.netns("").del(red).expect_ok();
        }),
        ("file", |_, red, call| {
            red.vanish_leaving_a_file();
            call.del(red).expect_ok();
            std::fs::remove_file(red.netns()).unwrap();
        }),
        ("nolink", |_, red, call| {
            red.ip("link delete eth0");
            call.del(red).expect_ok();
        }),
        ("broken", |lab, red, _| {
            let conf = r#"{"cniVersion": "1.1.0", "name": "net", "type": "tuning", "mtu": [], "prevResult": {"x": 5}}"#;
            lab.plugin("tuning").conf(conf).del(red).expect_ok();
        }),
        ("damaged", |lab, red, call| {
            lab.write("run/cni/tuning/damaged_eth0.json", "{");
            call.del(red).expect_ok();
        }),
    ];
    for (name, case) in cases {
        let (red, result) = connected(&lab, name);
        tuning(&lab, &keys).prev_result(&result).add(&red).expect_ok();
        let kept = lab.path(&format!("run/cni/tuning/{name}_eth0.json"));
        assert!(kept.is_file(), "{name}");
        case(&lab, &red, tuning(&lab, &keys));
        assert!(!kept.exists(), "{name}: the file stayed");
        assert!(!lab.path("run/weft/chained/tuning").join(name).exists(), "{name}: the record stayed");
    }
}

#[test]
fn what_a_killed_add_did_is_undone() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    tuning(&lab, &json!({"mtu": 1300})).prev_result(&result).add(&red).expect_ok();
    // As it is on disk between the intent and the result.
    let path = "run/weft/chained/tuning/red/eth0.json";
    let record = lab.read(path).replace(r#""state":"done""#, r#""state":"intent""#);
    lab.write(path, record);
    tuning(&lab, &json!({"txQLen": 77})).prev_result(&result).add(&red).expect_ok();
    assert_eq!((mtu(&red), red.link("eth0")["txqlen"].as_u64()), (1500, Some(77)));
    tuning(&lab, &json!({})).del(&red).expect_ok();
    assert_ne!(red.link("eth0")["txqlen"].as_u64(), Some(77));
}

#[test]
fn gc_undoes_what_nobody_lists() {
    let lab = Lab::new();
    let (red, first) = connected(&lab, "red");
    let (blue, second) = connected(&lab, "blue");
    let keys = json!({"mtu": 1300});
    tuning(&lab, &keys).prev_result(&first).add(&red).expect_ok();
    tuning(&lab, &keys).prev_result(&second).add(&blue).expect_ok();
    tuning(&lab, &keys).gc(&[("blue", "eth0")]).expect_ok();
    assert_eq!((mtu(&red), mtu(&blue)), (1500, 1300));
    tuning(&lab, &keys).gc(&[]).expect_ok();
    assert_eq!(mtu(&blue), 1500);
}

/// A file does not tell the network: it goes when a lease says that the interface was this network's, and nobody else has one
/// of that name.
#[test]
fn gc_takes_what_the_reference_left_in_a_directory_of_its_own() {
    skip_unless!(Path::new(DEBIAN).join("tuning").exists(), "Debian's package containernetworking-plugins");
    let lab = Lab::new();
    let add = |name: &str, network: &str| {
        let (container, mut result) = connected_to(&lab, name, network);
        result["cniVersion"] = "1.0.0".into();
        let conf = json!({
            "cniVersion": "1.0.0", "name": network, "type": "tuning", "mtu": 1300,
            "dataDir": lab.path("tuning"), "prevResult": result,
        });
        lab.plugin_in(Path::new(DEBIAN), "tuning").json(&conf).add(&container).expect_ok();
        container
    };
    let red = add("red", "net");
    let _others = [add("blue", "net"), add("green", "other")];
    // Left a network's interface for another's of the same name: here the runtime has it, there host-local.
    for name in ["pink", "grey"] {
        add(name, "net").vanish();
    }
    let told = json!({
        "kind": "cniCacheV1", "containerId": "pink", "ifName": "eth0", "networkName": "other", "config": "",
        "result": {},
    });
    lab.write("var/lib/cni/results/other-pink-eth0", told.to_string());
    lab.write("var/lib/cni/networks/third/10.90.3.2", "grey\r\neth0");
    // Another network's container of which nobody has written anything down, and files that are something else.
    lab.write("tuning/unknown_eth0.json", r#"{"mtu": 1500}"#);
    lab.write("tuning/daemon_conf.json", r#"{"mtu": 1500, "debug": true}"#);
    lab.write("tuning/a_list.json", "[]");
    let list = json!({"cniVersion": "1.1.0", "name": "net", "plugins": [
        {"type": "bridge"}, {"type": "tuning", "dataDir": lab.path("tuning")},
    ]});
    lab.write("etc/cni/net.d/10-net.conflist", list.to_string());
    let files = || {
        let entries = std::fs::read_dir(lab.path("tuning")).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let all = files();
    assert!(all.len() == 8 && all.contains(&"red_eth0.json".to_string()), "{all:?}");
    red.vanish();

    let bridge = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "net",
        "ipam": {"type": "host-local", "subnet": "10.90.0.0/24"},
    });
    lab.plugin("bridge").json(&bridge).gc(&[("blue", "eth0")]).expect_ok();
    tuning(&lab, &json!({"dataDir": lab.path("tuning")})).gc(&[("blue", "eth0")]).expect_ok();

    assert_eq!(files(), all.into_iter().filter(|name| name != "red_eth0.json").collect::<Vec<_>>());
    tuning(&lab, &json!({"dataDir": lab.path("no-such")})).gc(&[]).expect_ok();
}

#[test]
fn the_administrators_list_decides() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    lab.write("etc/cni/tuning/allowlist.conf", "^net\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*$\n\nsomaxconn\n");
    let allowed = json!({"sysctl": {"net.core.somaxconn": "500", "net.ipv4.conf.IFNAME.arp_filter": "1"}});
    let call = tuning(&lab, &allowed).prev_result(&result);
    call.add(&red).expect_ok();
    assert_eq!(red.sysctl("ipv4/conf/eth0/arp_filter"), "1");
    call.del(&red).expect_ok();
    let other = json!({"sysctl": {"net.ipv4.ip_forward": "1"}});
    let refused = tuning(&lab, &other).prev_result(&result).add(&red);
    let words = "Sysctl net.ipv4.ip_forward is not allowed. Only the following sysctls are allowed: [";
    refused.expect_error(7);
    assert!(refused.stdout.contains(words), "{refused}");
    lab.write("etc/cni/tuning/allowlist.conf", "(");
    tuning(&lab, &other).prev_result(&result).add(&red).expect_error(7);
}

#[test]
fn del_of_either_undoes_the_add_of_the_other() {
    skip_unless!(Path::new(DEBIAN).join("tuning").exists(), "Debian's package containernetworking-plugins");
    let lab = Lab::new();
    let (red, mut result) = connected(&lab, "red");
    result["cniVersion"] = "1.0.0".into();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "tuning", "mtu": 1300, "promisc": true,
        "mac": "c2:11:22:33:44:55", "dataDir": lab.path("tuning"), "prevResult": result,
    });
    let before = red.link("eth0");
    let (ours, theirs) =
        (lab.plugin("tuning").json(&conf), lab.plugin_in(Path::new(DEBIAN), "tuning").json(&conf));
    for (one, other) in [(&ours, &theirs), (&theirs, &ours)] {
        one.add(&red).expect_ok();
        assert_eq!(red.link("eth0")["address"], "c2:11:22:33:44:55");
        other.check(&red).expect_ok();
        other.del(&red).expect_ok();
        let after = red.link("eth0");
        for key in ["address", "mtu", "flags"] {
            assert_eq!(after[key], before[key], "{key}");
        }
        assert!(!lab.path("tuning/red_eth0.json").exists());
    }
}
