//! The chained `sbr` plugin: answers go back the way the calls came.

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall, until};

fn sbr<'lab>(lab: &'lab Lab, keys: &Value) -> PluginCall<'lab> {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "second", "type": "sbr"});
    for (key, value) in keys.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    lab.plugin("sbr").json(&conf).ifname("net1")
}

/// A container on two bridges: eth0 has the default route, net1 has not. Beyond net1's bridge there is an outside.
fn connected(lab: &Lab, name: &str) -> (Container, Value) {
    let container = lab.container(name);
    let bridge = |network: &str, net: u8, ifname: &str| {
        let conf = json!({
            "cniVersion": "1.1.0", "name": network, "type": "bridge", "bridge": network, "isDefaultGateway": net == 1,
            "isGateway": true, "ipam": {"type": "host-local", "ranges": [
                [{"subnet": format!("10.90.{net}.0/24")}], [{"subnet": format!("fd00:90:{net}::/64")}],
            ]},
        });
        lab.plugin("bridge").json(&conf).ifname(ifname).add(&container).expect_json()
    };
    bridge("first", 1, "eth0");
    let result = bridge("second", 2, "net1");
    (container, result)
}

fn rules(container: &Container) -> String {
    container.ip("rule show") + &container.ip("-6 rule show")
}

/// Which link packets from net1's address to somebody far away leave by.
fn way(container: &Container) -> [String; 2] {
    let v4 = container.ip("route get 198.51.100.7 from 10.90.2.2");
    let v6 = container.ip("-6 route get 2001:db8:77::7 from fd00:90:2::2");
    [v4, v6].map(|text| {
        text.split("dev ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default().into()
    })
}

#[test]
fn packets_leave_by_the_interface_whose_address_they_have() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    assert_eq!(way(&red), ["eth0", "eth0"]);
    let before = (lab.snapshot(), rules(&red));
    let call = sbr(&lab, &json!({})).prev_result(&result);
    assert_eq!(call.add(&red).expect_json(), result);
    assert_eq!(way(&red), ["net1", "net1"]);
    // Real packets: the host answers to net1's address by net1's bridge, and gets there.
    assert!(red.ping("10.90.1.1"));
    assert_eq!(red.run("ping", "-n -c 1 -W 2 -I 10.90.2.2 10.90.2.1").code, 0);
    call.check(&red).expect_ok();
    call.add(&red).expect_ok();
    assert_eq!(rules(&red).matches("10.90.2.2").count(), 1, "a second ADD makes no second rule");
    sbr(&lab, &json!({})).del(&red).expect_ok();
    assert_eq!(way(&red), ["eth0", "eth0"]);
    assert_eq!(rules(&red), before.1);
    lab.assert_restored(&before.0);
}

/// The main table, without what the kernel numbers or words anew.
fn main_table(container: &Container) -> Vec<String> {
    let text = container.ip("route show table main") + &container.ip("-6 route show table main");
    let mut routes: Vec<_> = text.lines().map(|line| line.trim().to_string()).collect();
    routes.sort();
    routes
}

#[test]
fn del_puts_the_routes_back_and_another_add_moves_them_again() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    until("both links have their addresses", || {
        red.ip("-6 route show table local").matches("fe80:").count() >= 2
    });
    // Of net1, which has no default route, and of eth0, which has both families'.
    let first = json!({
        "cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": red.netns()}], "ips": [
            {"address": "10.90.1.2/24", "gateway": "10.90.1.1", "interface": 0},
            {"address": "fd00:90:1::2/64", "gateway": "fd00:90:1::1", "interface": 0},
        ],
    });
    red.ip("route add 198.51.100.0/24 via 10.90.2.1 dev net1");
    let before = (main_table(&red), rules(&red));
    for (ifname, result) in [("net1", &result), ("eth0", &first)] {
        let call = sbr(&lab, &json!({})).ifname(ifname).prev_result(result);
        for _ in 0..2 {
            call.add(&red).expect_ok();
            call.add(&red).expect_ok();
            call.check(&red).expect_ok();
            assert!(
                !main_table(&red).iter().any(|route| route.contains(ifname) && !route.starts_with("fe80"))
            );
            if ifname == "net1" {
                assert_eq!(way(&red), ["net1", "net1"]);
                assert_eq!(red.run("ping", "-n -c 1 -W 2 -I 10.90.2.2 10.90.2.1").code, 0);
            }
            call.del(&red).expect_ok();
            assert_eq!((main_table(&red), rules(&red)), before, "{ifname}");
        }
    }
}

/// Whoever signed it, and whoever has another default route of another metric.
#[test]
fn del_puts_back_a_default_route_as_it_was() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    until("both links have their addresses", || {
        red.ip("-6 route show table local").matches("fe80:").count() >= 2
    });
    for keys in ["proto static metric 77", "metric 77", "proto static metric 4096", "proto dhcp metric 4096"]
    {
        red.ip(&format!("route add default via 10.90.2.1 dev net1 {keys}"));
        red.ip(&format!("-6 route add default via fd00:90:2::1 dev net1 {keys}"));
        let before = (main_table(&red), rules(&red));
        assert_eq!(before.0.iter().filter(|route| route.starts_with("default")).count(), 4, "{before:?}");
        let call = sbr(&lab, &json!({})).prev_result(&result);
        for _ in 0..2 {
            call.add(&red).expect_ok();
            let there = main_table(&red);
            assert_eq!(there.iter().filter(|route| route.starts_with("default")).count(), 2, "{there:?}");
            call.del(&red).expect_ok();
            assert_eq!((main_table(&red), rules(&red)), before, "{keys}");
        }
        red.ip("route del default dev net1");
        red.ip("-6 route del default dev net1");
    }
    // A default route that the main table did not have does not come to it.
    red.ip("route del default");
    red.ip("-6 route del default");
    let before = main_table(&red);
    let call = sbr(&lab, &json!({})).prev_result(&result);
    call.add(&red).expect_ok();
    assert_eq!(way(&red), ["net1", "net1"]);
    call.del(&red).expect_ok();
    assert_eq!(main_table(&red), before);
}

/// Of a version that signed no rules, and default routes that the main table did not have like static ones.
#[test]
fn del_brings_the_main_table_no_default_route_of_an_earlier_version() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    until("both links have their addresses", || {
        red.ip("-6 route show table local").matches("fe80:").count() >= 2
    });
    red.ip("route del default");
    red.ip("-6 route del default");
    let before = main_table(&red);
    let call = sbr(&lab, &json!({})).prev_result(&result);
    call.add(&red).expect_ok();
    for (family, from, gateway) in [("-4", "10.90.2.2", "10.90.2.1"), ("-6", "fd00:90:2::2", "fd00:90:2::1")]
    {
        let rule = red.ip(&format!("{family} rule show from {from}"));
        let table = rule.split("lookup ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        for words in [
            format!("rule del from {from} lookup {table}"),
            format!("rule add from {from} lookup {table}"),
            format!("route del default dev net1 table {table}"),
            format!("route add default via {gateway} dev net1 proto static table {table}"),
        ] {
            red.ip(&format!("{family} {words}"));
        }
    }
    assert!(!rules(&red).contains("proto"), "{}", rules(&red));
    call.del(&red).expect_ok();
    assert_eq!(main_table(&red), before);
    assert!(!rules(&red).contains("10.90.2.2"));
}

#[test]
fn a_failed_add_puts_the_routes_back() {
    let lab = Lab::new();
    let (red, result) = connected(&lab, "red");
    let routes = |red: &Container| red.ip("route show table all") + &red.ip("-6 route show table main");
    // KERNEL: an IPv6 address is there a moment before the way to it is.
    until("both links have their addresses", || routes(&red).matches("local fe80:").count() == 2);
    let before = (routes(&red), rules(&red));
    let refused = sbr(&lab, &json!({"gateways": ["203.0.113.1"]})).prev_result(&result).add(&red);
    assert_ne!(refused.code, 0, "the gateway is out of reach: {refused}");
    assert_eq!((routes(&red), rules(&red)), before);
}

#[test]
fn del_succeeds_in_every_bad_case() {
    let lab = Lab::new();
    let none = lab.snapshot();
    sbr(&lab, &json!({})).netns("").id("never").del(&lab.container("unseen")).expect_ok();
    lab.assert_restored(&none);
    type Case = fn(&Lab, &Container, PluginCall<'_>);
    let cases: [(&str, Case); 5] = [
        ("gone", |_, red, call| {
            red.vanish();
            call.del(red).expect_ok();
            assert!(!red.netns().exists(), "a file was made in the place of the namespace");
        }),
        ("empty", |_, red, call| {
            call.netns("").del(red).expect_ok();
            assert!(!rules(red).contains("10.90.2."), "the record knows the namespace");
        }),
        ("file", |_, red, call| {
            red.vanish_leaving_a_file();
            call.del(red).expect_ok();
            std::fs::remove_file(red.netns()).unwrap();
        }),
        ("nolink", |_, red, call| {
            red.ip("link delete net1");
            call.del(red).expect_ok();
            assert!(!rules(red).contains("10.90.2."), "a rule stayed");
        }),
        ("broken", |lab, red, _| {
            let conf =
                r#"{"cniVersion": "1.1.0", "name": "second", "type": "sbr", "gateways": 5, "prevResult": 5}"#;
            lab.plugin("sbr").conf(conf).ifname("net1").del(red).expect_ok();
            assert!(!rules(red).contains("10.90.2."), "a rule stayed");
        }),
    ];
    for (name, case) in cases {
        let (red, result) = connected(&lab, name);
        sbr(&lab, &json!({})).prev_result(&result).add(&red).expect_ok();
        assert!(rules(&red).contains("10.90.2."), "{name}");
        case(&lab, &red, sbr(&lab, &json!({})));
        assert!(!lab.path("run/weft/chained/sbr").join(name).exists(), "{name}: the record stayed");
    }
}
