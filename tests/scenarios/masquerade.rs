//! Masquerading by our own table: static rules, one element per subnet, nothing per container.

use serde_json::{Value, json};
use weft_testkit::Lab;

fn conf(name: &str, subnet: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br-{name}"),
        "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]},
    })
}

#[test]
fn the_table_does_not_grow_with_containers() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).add(&red).expect_ok();
    let one = lab.ruleset();
    assert!(one.contains("table inet weft") && one.contains("10.1.2.0"), "{one}");
    for name in ["a", "b", "c"] {
        lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).add(&lab.container(name)).expect_ok();
    }
    assert_eq!(lab.ruleset(), one);
}

#[test]
fn networks_share_the_rules() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let rules = || lab.ruleset().lines().filter(|line| line.contains("masquerade")).count();
    lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).add(&red).expect_ok();
    let of_one = rules();
    assert!(of_one > 0);
    lab.plugin("bridge").json(&conf("n2", "10.1.3.0/24")).add(&green).expect_ok();
    let service = outside.serve_udp(0);
    for container in [&red, &green] {
        let seen = container.call_udp("192.0.2.2".parse().unwrap(), service.port()).unwrap();
        assert_eq!(seen.to_string(), "192.0.2.1");
    }
    assert_eq!(rules(), of_one, "as many rules for two networks as for one: {}", lab.ruleset());
}

#[test]
fn a_flushed_ruleset_comes_back_with_the_next_add() {
    let lab = Lab::new();
    lab.uplink();
    let (red, green) = (lab.container("red"), lab.container("green"));
    lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).add(&red).expect_ok();
    assert!(red.ping("192.0.2.2"));
    lab.sh("nft flush ruleset").expect_ok();
    assert!(!red.ping("192.0.2.2"), "flushing the ruleset changed nothing, so this proves nothing");
    lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).add(&green).expect_ok();
    assert!(green.ping("192.0.2.2"));
    assert!(red.ping("192.0.2.2"));
}

#[test]
fn foreign_tables_are_not_touched() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.sh("nft 'add table inet theirs; add chain inet theirs c { type filter hook forward priority 0; policy accept; }'").expect_ok();
    let theirs = || lab.sh("nft list table inet theirs").expect_ok().to_string();
    let before = theirs();
    lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).add(&red).expect_ok();
    lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).del(&red).expect_ok();
    lab.plugin("bridge").json(&conf("n1", "10.1.2.0/24")).gc(&[]).expect_ok();
    assert_eq!(theirs(), before);
}
