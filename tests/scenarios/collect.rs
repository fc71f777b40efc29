//! CHECK, GC and STATUS of the drivers: what they may touch, what they may say.

use serde_json::{Value, json};
use weft_testkit::Lab;

fn conf(name: &str, bridge: &str, subnet: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": bridge, "isDefaultGateway": true,
        "ipam": {"type": "host-local", "subnet": subnet},
    })
}

fn one() -> Value {
    conf("n1", "br1", "10.1.1.0/24")
}

#[test]
fn gc_does_not_enter_a_namespace_that_has_taken_the_path_of_another() {
    let lab = Lab::new();
    let none = || lab.plugin("none").json(&json!({"cniVersion": "1.1.0", "name": "n0", "type": "none"}));
    let red = lab.container("red");
    none().add(&red).expect_ok();
    assert!(red.ip("link show lo").contains("LOOPBACK,UP"));
    none().gc(&[]).expect_ok();
    assert!(!red.ip("link show lo").contains("LOOPBACK,UP"), "GC takes its own namespace's lo down");

    none().add(&red).expect_ok();
    red.vanish();
    let other = lab.container("red");
    other.ip("link set lo up");
    none().gc(&[]).expect_ok();
    assert!(other.ip("link show lo").contains("LOOPBACK,UP"), "GC went into somebody else's namespace");
    assert!(!lab.path("run/weft/attachments/red").exists(), "the record goes all the same");
}

#[test]
fn gc_collects_what_has_a_truncated_record() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let two = conf("n2", "br2", "10.1.2.0/24");
    lab.plugin("bridge").json(&one()).add(&red).expect_ok();
    lab.plugin("bridge").json(&two).add(&green).expect_ok();
    for container in ["red", "green"] {
        std::fs::File::create(lab.path(&format!("run/weft/attachments/{container}/eth0.json"))).unwrap();
    }

    lab.plugin("bridge").json(&one()).gc(&[("red", "eth0")]).expect_ok();
    assert!(red.has_link("eth0") && green.has_link("eth0"), "red is valid, green another network's");
    lab.plugin("bridge").json(&one()).gc(&[]).expect_ok();

    assert!(!red.has_link("eth0") && !lab.has_link("br1"));
    assert!(!lab.path("run/weft/attachments/red").exists());
    assert!(green.ping("10.1.2.1"), "GC took another network's attachment");
    assert!(lab.path("run/weft/attachments/green").exists());
}

#[test]
fn either_spelling_of_the_list_counts() {
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let lab = Lab::new();
        let (red, green) = (lab.container("red"), lab.container("green"));
        for container in [&red, &green] {
            lab.plugin("bridge").json(&one()).add(container).expect_ok();
        }
        let mut listing = one();
        listing[key] = json!([{"containerID": "green", "ifname": "eth0"}]);
        lab.plugin("bridge")
            .json(&listing)
            .env("CNI_COMMAND", "GC")
            .env("CNI_PATH", binaries())
            .bare()
            .expect_ok();
        assert!(!red.has_link("eth0"), "{key}: red is not listed");
        assert!(green.ping("10.1.1.1"), "{key}: green is");
    }
}

/// What every plugin is called with, at least.
fn every_plugin() -> Vec<Value> {
    let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
    let of = |kind: &str, keys: Value| {
        let mut conf = keys;
        conf["cniVersion"] = "1.1.0".into();
        conf["name"] = "n1".into();
        conf["type"] = kind.into();
        conf
    };
    let mut all: Vec<Value> =
        ["bridge", "ptp", "dummy", "tap", "host-local"].map(|kind| of(kind, json!({"ipam": ipam}))).into();
    all.extend(["macvlan", "ipvlan"].map(|kind| of(kind, json!({"master": "uplink0", "ipam": ipam}))));
    all.extend(
        ["loopback", "host", "none", "portmap", "firewall", "bandwidth", "tuning", "sbr"]
            .map(|kind| of(kind, json!({}))),
    );
    all.push(of("vlan", json!({"master": "uplink0", "vlanId": 5, "ipam": ipam})));
    all.push(of("vrf", json!({"vrfname": "blue"})));
    all.push(of("host-device", json!({"device": "dev0", "ipam": ipam})));
    all.push(of("static", json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.2.9/24"}]}})));
    all.push(of("dhcp", json!({"ipam": {"type": "dhcp"}})));
    all.push(of("overlay", json!({"ipam": ipam})));
    all
}

#[test]
fn every_plugin_collects_by_a_list_and_says_whether_it_is_ready() {
    let lab = Lab::new();
    let _beyond = lab.uplink();
    let mut kinds = Vec::from([("dummy", "dummy"), ("vrf", "vrf table 9")]);
    kinds.retain(|(_, words)| lab.has_link_type(words));
    let mut on_another = Vec::from([("ipvlan", "ipvlan"), ("vlan", "vlan id 9")]);
    on_another.retain(|(_, words)| lab.has_link_type_on("uplink0", words));
    let kinds: Vec<&str> = kinds.into_iter().chain(on_another).map(|(kind, _)| kind).collect();
    for conf in every_plugin() {
        let kind = conf["type"].as_str().unwrap();
        let before = lab.snapshot();
        let call = lab.plugin(kind).json(&conf).env("CNI_PATH", binaries());
        let refused = call.env("CNI_COMMAND", "GC").bare();
        refused.expect_error(7);
        assert!(refused.stdout.contains("cni.dev/valid-attachments is missing"), "{kind}: {refused}");
        lab.assert_restored(&before);
        lab.plugin(kind).json(&conf).gc(&[]).expect_ok();

        let status = lab.plugin(kind).json(&conf).status();
        match kind {
            // CNI: an ADD could not work. Nobody who could be asked for a lease is there, nor is the device, nor a cluster.
            "dhcp" | "host-device" | "overlay" => drop(status.expect_error(50)),
            "dummy" | "ipvlan" | "vlan" | "vrf" if !kinds.contains(&kind) => {
                let reason = format!("this kernel has no links of type {kind}: ");
                let told = status.expect_error(50);
                assert!(told["msg"].as_str().unwrap().starts_with(&reason), "{told}");
            }
            _ => drop(status.expect_ok()),
        }
    }
}

fn binaries() -> String {
    weft_testkit::staged_folder().to_string_lossy().into_owned()
}

#[test]
fn gc_keeps_the_address_of_what_it_cannot_remove() {
    let lab = Lab::new();
    let red = lab.container("red");
    let result = lab.plugin("bridge").json(&one()).add(&red).expect_json();
    let host_end = result["interfaces"][1]["name"].as_str().unwrap();
    lab.ip(&format!("link delete {host_end}"));
    lab.ip(&format!("link add {host_end} type bridge"));

    lab.plugin("bridge").json(&one()).gc(&[]).expect_error(999);

    let lease = lab.path("var/lib/cni/networks/n1/10.1.1.2");
    let record = lab.path("run/weft/attachments/red/eth0.json");
    assert!(lease.exists() && record.exists() && lab.has_link("br1"));
    lab.ip(&format!("link delete {host_end}"));
    lab.plugin("bridge").json(&one()).gc(&[]).expect_ok();
    assert!(!lease.exists() && !record.exists() && !lab.has_link("br1"));
}

#[test]
fn check_goes_by_the_mtu_of_the_result() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut result = lab.plugin("bridge").json(&one()).add(&red).expect_json();
    red.ip("link set eth0 mtu 1300");
    let told = lab.plugin("bridge").json(&one()).prev_result(&result).check(&red).expect_error(999);
    assert_eq!(told["msg"], "container interface eth0 has MTU 1300, not 1500");
    result["interfaces"][2]["mtu"] = json!(1300);
    lab.plugin("bridge").json(&one()).prev_result(&result).check(&red).expect_ok();
}

#[test]
fn check_names_a_route_that_is_missing_as_the_result_does() {
    let lab = Lab::new();
    let red = lab.container("red");
    let result = lab.plugin("bridge").json(&one()).add(&red).expect_json();
    red.ip("route delete default");
    let told = lab.plugin("bridge").json(&one()).prev_result(&result).check(&red).expect_error(999);
    assert_eq!(told["msg"], "container route default via 10.1.1.1 dev eth0 does not exist");
}

#[test]
fn a_bridge_made_by_somebody_else_passes_check_at_once() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.ip("link add br1 type bridge");
    let mut conf = one();
    conf["isDefaultGateway"] = json!(false);
    let result = lab.plugin("bridge").json(&conf).add(&red).expect_json();
    assert_eq!(result["interfaces"][0]["mac"], lab.ip_json("link show br1")[0]["address"]);
    lab.plugin("bridge").json(&conf).prev_result(&result).check(&red).expect_ok();
}

#[test]
fn status_says_what_an_add_would_lack() {
    let lab = Lab::new();
    lab.plugin("bridge").json(&one()).status().expect_ok();
    let mut conf = one();
    conf["ipam"]["type"] = json!("no-such-plugin");
    let told = lab.plugin("bridge").json(&conf).status().expect_error(50);
    assert!(told["msg"].as_str().unwrap().contains("\"no-such-plugin\""), "{told}");
    lab.ip("link add br1 type veth peer name other");
    let told = lab.plugin("bridge").json(&one()).status().expect_error(7);
    assert_eq!(told["msg"], "\"br1\" already exists but is not a bridge");
}

#[test]
fn a_missing_namespace_is_named_with_the_reason() {
    let lab = Lab::new();
    let red = lab.container("red");
    let told = lab.plugin("bridge").json(&one()).netns("/run/netns/gone").add(&red).expect_error(999);
    let text = "failed to open netns \"/run/netns/gone\": failed to Statfs \"/run/netns/gone\": no such file or directory";
    assert_eq!(told["msg"], text);
}
