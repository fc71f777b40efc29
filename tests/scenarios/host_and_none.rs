//! The two networks that are none.

use weft_testkit::Lab;

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
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("host network"), "{refused}");
    assert!(refused.stderr.contains("hint: "), "{refused}");
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

    let refused = lab.plugin("host").conf(conf).add(&red);
    assert_ne!(refused.code, 0, "a namespace of its own is not the host's: {refused}");
}
