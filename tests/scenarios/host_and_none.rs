//! The two networks that are none, and the interface that needs none.

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall};

#[test]
fn none_raises_loopback_and_nothing_else() {
    let lab = Lab::new();
    let red = lab.container("red");
    assert!(!red.ping("127.0.0.1"), "loopback is up already");
    lab.weft(["network", "connect", "none", "red"]).expect_ok();
    assert!(red.ping("127.0.0.1"));
    assert_eq!(red.ip_json("link show").as_array().unwrap().len(), 1);
    lab.weft(["network", "disconnect", "none", "red"]).expect_ok();
}

#[test]
fn connect_to_host_is_refused_with_a_reason_and_a_hint() {
    let lab = Lab::new();
    lab.container("red");
    let before = lab.snapshot();
    let refused = lab.weft(["network", "connect", "host", "red"]);
    // DOCKER: its sentence.
    let sentence =
        "cannot connect container to host network - container must be created in host network mode";
    refused.expect_failure(1, &[sentence, "hint: "]);
    lab.assert_restored(&before);
}

#[test]
fn the_host_plugin_reports_the_hosts_own_interfaces() {
    let lab = Lab::new();
    lab.uplink();
    let red = lab.container("red");
    let conf = r#"{"cniVersion": "1.1.0", "name": "host", "type": "host"}"#;
    let call = lab.plugin("host").conf(conf).netns("/proc/self/ns/net");
    let result = call.add(&red).expect_json();
    let text = result.to_string();
    assert!(text.contains("uplink0") && text.contains("192.0.2.1/24"), "{result}");
    call.del(&red).expect_ok();
    assert!(lab.has_link("uplink0"));

    // A namespace of its own is not the host's.
    lab.plugin("host").conf(conf).add(&red).expect_error(8);
}

const HOST: &str = "/proc/self/ns/net";

fn conf(kind: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "n1", "type": kind})
}

/// Prepares calls of a plugin about the namespace it is for.
fn call<'lab>(lab: &'lab Lab, kind: &str) -> PluginCall<'lab> {
    let call = lab.plugin(kind).json(&conf(kind));
    if kind == "host" { call.netns(HOST) } else { call }
}

#[test]
fn the_host_plugin_changes_nothing_but_its_record() {
    let lab = Lab::new();
    lab.uplink_that_answers();
    let red = lab.container("red");
    let before = lab.snapshot();
    call(&lab, "host").add(&red).expect_ok();
    let change = before.difference(&lab.snapshot());
    let changes: Vec<&str> = change.lines().collect();
    assert!(
        changes.len() == 1 && changes[0].starts_with("+ file run/weft/attachments/red/eth0.json"),
        "{change}"
    );
    call(&lab, "host").check(&red).expect_ok();
    lab.plugin("host").json(&conf("host")).check(&red).expect_error(8);
    call(&lab, "host").del(&red).expect_ok();
    lab.assert_restored(&before);
    assert!(!red.is_up("lo"), "it went into the container");
}

#[test]
fn the_host_plugin_refuses_what_the_host_does_not_give() {
    let lab = Lab::new();
    let red = lab.container("red");
    let before = lab.snapshot();
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    for (key, value, word) in [
        ("runtimeConfig", json!({"portMappings": ports}), "publishes no ports"),
        ("ipam", json!({"type": "host-local", "subnet": "10.1.2.0/24"}), "host-local"),
    ] {
        let mut conf = conf("host");
        conf[key] = value;
        let asked = lab.plugin("host").json(&conf).netns(HOST);
        for refused in [asked.add(&red), asked.check(&red), asked.status()] {
            let told = refused.expect_error(7);
            assert!(told["msg"].as_str().unwrap().contains(word), "{refused}");
        }
        lab.assert_restored(&before);
    }
    let mut none = conf("host");
    none["runtimeConfig"] = json!({"portMappings": []});
    lab.plugin("host").json(&none).netns(HOST).add(&red).expect_ok();
}

#[test]
fn the_host_plugin_refuses_a_container_that_is_on_another_network() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut bridge = conf("bridge");
    bridge["ipam"] = json!({"type": "host-local", "subnet": "10.1.2.0/24"});
    lab.plugin("bridge").json(&bridge).add(&red).expect_ok();
    let before = lab.snapshot();
    let mut host = conf("host");
    host["name"] = json!("n2");
    let asked = lab.plugin("host").json(&host).netns(HOST).ifname("eth1");
    let told = asked.add(&red).expect_error(7);
    let text = "container sharing network namespace with another container or host cannot be connected to any \
        other network: red is on n1";
    assert_eq!(told["msg"], text);
    lab.assert_restored(&before);
    lab.plugin("bridge").json(&bridge).del(&red).expect_ok();
    asked.add(&red).expect_ok();
}

/// DEL in every situation a runtime gets into leaves the host as it was, and so does a second one.
fn del_restores(kind: &str) {
    let losses: [Option<fn(&Container)>; 3] =
        [None, Some(Container::vanish), Some(Container::vanish_leaving_a_file)];
    let cases = losses.into_iter().flat_map(|lose| [(lose, None), (lose, Some(""))]);
    for (nth, (lose, netns)) in cases.enumerate() {
        let lab = Lab::new();
        let red = lab.container("red");
        let before = lab.snapshot();
        call(&lab, kind).add(&red).expect_ok();
        assert_eq!(red.is_up("lo"), kind != "host", "{kind} {nth}");
        assert_eq!(lab.snapshot() != before, kind != "loopback", "{kind} {nth}: the record is all there is");

        if let Some(lose) = lose {
            lose(&red);
        }

        // What a runtime gives is the container's path, which may have become a plain file's.
        let path = netns.map_or_else(|| red.netns(), Into::into);
        let del = || lab.plugin(kind).json(&conf(kind)).netns(path.to_str().unwrap()).del(&red);
        del().expect_ok();
        lab.assert_restored(&before);
        del().expect_ok();
        lab.assert_restored(&before);
        if lose.is_none() {
            // Without a path, loopback knows of no namespace: it keeps no record.
            let down = kind != "loopback" || netns.is_none();
            assert_eq!(!red.is_up("lo"), down, "{kind} {nth}");
            assert_eq!(red.ip_json("link show").as_array().unwrap().len(), 1, "{kind} {nth}");
        }
    }
}

#[test]
fn del_of_host_leaves_nothing() {
    del_restores("host");
}

#[test]
fn del_of_none_leaves_nothing() {
    del_restores("none");
}

#[test]
fn del_of_loopback_leaves_nothing() {
    del_restores("loopback");
}
