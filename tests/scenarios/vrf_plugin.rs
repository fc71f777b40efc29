//! The chained `vrf` plugin: what DEL leaves in every bad case, and a kernel without what it makes.
//! `tests/conformance/vrf.rs` has the rest.

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall, skip_unless};

fn vrf<'lab>(lab: &'lab Lab, keys: &Value) -> PluginCall<'lab> {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "n1", "type": "vrf", "vrfname": "blue"});
    for (key, value) in keys.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    lab.plugin("vrf").json(&conf)
}

/// A container whose interface ptp made, and the result.
fn connected(lab: &Lab, name: &str) -> (Container, Value) {
    let container = lab.container(name);
    let pair = json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"},
    });
    let result = lab.plugin("ptp").json(&pair).add(&container).expect_json();
    (container, result)
}

#[test]
fn del_succeeds_in_every_bad_case() {
    let lab = Lab::new();
    let none = lab.snapshot();
    vrf(&lab, &json!({})).netns("").id("never").del(&lab.container("unseen")).expect_ok();
    lab.assert_restored(&none);
    skip_unless!(lab.has_link_type("vrf table 7"), "links of type vrf (CONFIG_NET_VRF)");
    let is_out = |red: &Container| {
        assert!(!red.has_link("blue"), "{}: the domain stayed", red.name());
        assert!(!red.has_link("eth0") || red.link("eth0")["master"].is_null(), "{}", red.name());
    };
    type Case = fn(&Container, PluginCall<'_>);
    let cases: [(&str, bool, Case); 6] = [
        ("empty", true, |red, call| {
            call.netns("").del(red).expect_ok();
        }),
        ("gone", false, |red, call| {
            red.vanish();
            call.del(red).expect_ok();
            assert!(!red.netns().exists(), "a file was made in the place of the namespace");
        }),
        ("file", false, |red, call| {
            red.vanish_leaving_a_file();
            call.del(red).expect_ok();
            std::fs::remove_file(red.netns()).unwrap();
        }),
        ("noresult", true, |red, call| {
            call.del(red).expect_ok();
        }),
        ("nolink", true, |red, call| {
            red.ip("link delete eth0");
            call.del(red).expect_ok();
        }),
        ("noresultnorlink", true, |red, call| {
            red.ip("link set eth0 nomaster");
            red.ip("link delete eth0");
            call.netns("").del(red).expect_ok();
        }),
    ];
    for (name, stays, case) in cases {
        let (red, result) = connected(&lab, name);
        vrf(&lab, &json!({})).prev_result(&result).add(&red).expect_ok();
        assert_eq!(red.link("eth0")["master"], "blue", "{name}");
        case(&red, vrf(&lab, &json!({})));
        if stays {
            is_out(&red);
        }
        assert!(!lab.path("run/weft/chained/vrf").join(name).exists(), "{name}: the record stayed");
        vrf(&lab, &json!({})).del(&red).expect_ok();
    }
    let (red, result) = connected(&lab, "broken");
    vrf(&lab, &json!({})).prev_result(&result).add(&red).expect_ok();
    vrf(&lab, &json!({"table": [], "prevResult": 5})).del(&red).expect_ok();
    is_out(&red);
}

#[test]
fn a_kernel_without_such_links_is_told_apart() {
    let lab = Lab::new();
    skip_unless!(
        !lab.has_link_type("vrf table 7"),
        "a kernel without CONFIG_NET_VRF, which this test is about"
    );
    let red = lab.container("red");
    let pair = json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"},
    });
    let result = lab.plugin("ptp").json(&pair).add(&red).expect_json();
    let before = lab.snapshot();
    let conf = json!({"cniVersion": "1.1.0", "name": "n1", "type": "vrf", "vrfname": "blue"});
    let refused = lab.plugin("vrf").json(&conf).prev_result(&result).add(&red).expect_error(7);
    let reason =
        "this kernel has no links of type vrf: it was built without CONFIG_NET_VRF, or the module is missing";
    assert!(refused["msg"].as_str().unwrap().ends_with(reason), "{refused}");
    lab.assert_restored(&before);
}
