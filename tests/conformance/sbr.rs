//! `sbr`: rules and tables for the addresses of an interface.

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::suite::{Done, Host, versions};

fn sbr(version: &str, more: &Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "n1", "type": "sbr"});
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

/// A container with an interface net1 that has these addresses, and the result that says so.
fn connected(container: &Container, version: &str, addresses: &[(&str, &str)]) -> Value {
    container.ip("link add net1 type veth peer name far1");
    for dev in ["far1", "net1"] {
        container.ip(&format!("link set {dev} up"));
    }
    let mut ips = Vec::new();
    for (address, gateway) in addresses {
        let six = address.contains(':');
        container.ip(&format!("address add {address} dev net1{}", if six { " nodad" } else { "" }));
        let mut ip = json!({"address": address, "gateway": gateway, "interface": 0});
        if version < "1.0.0" {
            ip["version"] = if six { "6" } else { "4" }.into();
        }
        ips.push(ip);
    }
    container.ip("route add default via 192.168.1.1 dev net1");
    container.ip("route add 10.5.0.0/16 via 192.168.1.7 dev net1");
    let interface = json!({"name": "net1", "sandbox": container.netns().display().to_string()});
    json!({"cniVersion": version, "interfaces": [interface], "ips": ips, "dns": {}})
}

const ONE: [(&str, &str); 1] = [("192.168.1.209/24", "192.168.1.1")];
const TWO: [(&str, &str); 2] = [("192.168.1.209/24", "192.168.1.1"), ("192.168.101.209/24", "192.168.101.1")];
const BOTH: [(&str, &str); 2] = [("192.168.1.209/24", "192.168.1.1"), ("fd00:1::9/64", "fd00:1::1")];

fn chained(container: &Container, addresses: &[(&str, &str)], more: &Value) -> Value {
    let mut conf = sbr("1.0.0", more);
    conf["prevResult"] = connected(container, "1.0.0", addresses);
    conf
}

fn rules(container: &Container) -> String {
    container.ip("rule show") + &container.ip("-6 rule show")
}

fn table(container: &Container, table: &str) -> String {
    ["-4", "-6"]
        .map(|family| container.run("ip", &format!("{family} route show table {table}")).stdout)
        .concat()
}

pub(crate) fn an_address_gets_a_rule_and_a_table(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &ONE, &json!({}));
    let call = host.plugin("sbr").json(&conf).ifname("net1");
    assert_eq!(call.add(&red).expect_json()["ips"], conf["prevResult"]["ips"]);
    assert!(rules(&red).contains("from 192.168.1.209 lookup 100"), "{}", rules(&red));
    let routes = table(&red, "100");
    for route in
        ["default via 192.168.1.1 dev net1", "192.168.1.0/24 dev net1", "10.5.0.0/16 via 192.168.1.7"]
    {
        assert!(routes.contains(route), "{route}: {routes}");
    }
    assert!(!red.ip("route show table main").contains("net1"));
    call.check(&red).expect_ok();
    call.del(&red).expect_ok();
    assert!(!rules(&red).contains("192.168.1.209"));
    Ok(())
}

pub(crate) fn several_addresses_have_tables_of_their_own(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &TWO, &json!({}));
    let call = host.plugin("sbr").json(&conf).ifname("net1");
    call.add(&red).expect_ok();
    let rules_then = rules(&red);
    assert!(rules_then.contains("from 192.168.1.209 lookup 100"), "{rules_then}");
    assert!(rules_then.contains("from 192.168.101.209 lookup 101"), "{rules_then}");
    assert!(table(&red, "101").contains("default via 192.168.101.1"));
    call.del(&red).expect_ok();
    assert!(!rules(&red).contains("lookup 10"), "{}", rules(&red));
    Ok(())
}

pub(crate) fn both_families_have_tables(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &BOTH, &json!({}));
    let call = host.plugin("sbr").json(&conf).ifname("net1");
    call.add(&red).expect_ok();
    assert!(rules(&red).contains("from fd00:1::9 lookup 101"), "{}", rules(&red));
    let routes = red.ip("-6 route show table 101");
    assert!(routes.contains("default via fd00:1::1") && routes.contains("fd00:1::/64"), "{routes}");
    call.del(&red).expect_ok();
    assert!(!rules(&red).contains("fd00:1::9"));
    Ok(())
}

pub(crate) fn a_table_that_is_in_use_is_not_taken(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &ONE, &json!({}));
    red.ip("route add 10.9.0.0/16 via 192.168.1.8 dev net1 table 100");
    host.plugin("sbr").json(&conf).ifname("net1").add(&red).expect_ok();
    assert!(rules(&red).contains("from 192.168.1.209 lookup 101"), "{}", rules(&red));
    Ok(())
}

pub(crate) fn a_table_asked_for_moves_no_route(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &ONE, &json!({"table": 5000}));
    host.plugin("sbr").json(&conf).ifname("net1").add(&red).expect_ok();
    assert!(rules(&red).contains("from 192.168.1.209 lookup 5000"), "{}", rules(&red));
    assert!(red.ip("route show table main").contains("default via 192.168.1.1"));
    assert!(table(&red, "5000").is_empty());
    Ok(())
}

pub(crate) fn gateways_can_be_given(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &BOTH, &json!({"gateways": ["192.168.1.254", "fd00:1::fe"]}));
    host.plugin("sbr").json(&conf).ifname("net1").add(&red).expect_ok();
    let routes = table(&red, "100") + &red.ip("-6 route show table 101");
    for route in ["default via 192.168.1.254", "default via fd00:1::fe"] {
        assert!(routes.contains(route), "the gateways were passed over: {routes}");
    }
    Ok(())
}

pub(crate) fn hints_keep_what_is_on_the_link(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &ONE, &json!({"addSourceHints": true}));
    host.plugin("sbr").json(&conf).ifname("net1").add(&red).expect_ok();
    let main = red.ip("route show table main");
    assert!(main.contains("192.168.1.0/24 dev net1"), "the hints were passed over: {main}");
    assert!(main.contains("src 192.168.1.209") && !main.contains("default"), "{main}");
    Ok(())
}

pub(crate) fn routes_of_others_stay(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &ONE, &json!({}));
    red.ip("link add eth0 type veth peer name far0");
    red.ip("address add 10.7.0.2/24 dev eth0");
    red.ip("link set far0 up");
    red.ip("link set eth0 up");
    host.plugin("sbr").json(&conf).ifname("net1").add(&red).expect_ok();
    assert!(red.ip("route show table main").contains("10.7.0.0/24 dev eth0"));
    assert!(!table(&red, "100").contains("eth0"));
    Ok(())
}

fn refused(host: &Host, more: &Value, edit: impl Fn(&mut Value), words: &str) -> Done {
    let red = host.lab.container("red");
    let mut conf = chained(&red, &ONE, more);
    edit(&mut conf);
    let before = (rules(&red), red.ip("route show table main"));
    let refused = host.plugin("sbr").json(&conf).ifname("net1").add(&red);
    assert_ne!(refused.code, 0, "it was not refused: {refused}");
    assert!(refused.stdout.contains(words), "wanted {words:?}: {refused}");
    assert_eq!((rules(&red), red.ip("route show table main")), before);
    Ok(())
}

pub(crate) fn without_a_previous_result_it_is_refused(host: &Host) -> Done {
    let edit = |conf: &mut Value| drop(conf.as_object_mut().unwrap().remove("prevResult"));
    refused(host, &json!({}), edit, "This plugin must be called as chained plugin")
}

pub(crate) fn an_interface_without_addresses_is_refused(host: &Host) -> Done {
    let edit = |conf: &mut Value| conf["prevResult"]["ips"] = json!([]);
    refused(host, &json!({}), edit, "No IP addresses supplied on interface: net1")
}

pub(crate) fn two_gateways_of_a_family_are_refused(host: &Host) -> Done {
    let more = json!({"gateways": ["192.168.1.1", "192.168.1.2"]});
    refused(
        host,
        &more,
        |_| (),
        "gateways list contains multiple IPv4 addresses: 192.168.1.1 and 192.168.1.2",
    )
}

pub(crate) fn del_of_what_never_was_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("sbr").json(&sbr("1.0.0", &json!({}))).ifname("net1").del(&red).expect_ok();
    Ok(())
}

pub(crate) fn del_without_a_namespace_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("sbr").json(&sbr("1.0.0", &json!({}))).ifname("net1").netns("").del(&red).expect_ok();
    red.vanish();
    host.plugin("sbr").json(&sbr("1.0.0", &json!({}))).ifname("net1").del(&red).expect_ok();
    assert!(!red.netns().exists(), "a file was made");
    Ok(())
}

pub(crate) fn a_second_add_uses_the_same_table(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call_conf = chained(&red, &ONE, &json!({}));
    let call = host.plugin("sbr").json(&call_conf).ifname("net1");
    call.add(&red).expect_ok();
    call.add(&red).expect_ok();
    assert_eq!(rules(&red).matches("192.168.1.209").count(), 1, "there is a second rule");
    Ok(())
}

pub(crate) fn check_sees_a_lost_rule(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = chained(&red, &ONE, &json!({}));
    let call = host.plugin("sbr").json(&conf).ifname("net1");
    call.add(&red).expect_ok();
    call.check(&red).expect_ok();
    red.ip("rule del from 192.168.1.209");
    assert_ne!(call.check(&red).code, 0, "it was not seen");
    Ok(())
}

pub(crate) fn gc_takes_what_is_not_valid(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("sbr").json(&chained(&red, &ONE, &json!({}))).ifname("net1").add(&red).expect_ok();
    let gc = |valid: &[(&str, &str)]| host.plugin("sbr").json(&sbr("1.1.0", &json!({}))).gc(valid);
    gc(&[("red", "net1")]).expect_ok();
    assert!(rules(&red).contains("192.168.1.209"), "a valid one stays");
    gc(&[]).expect_ok();
    assert!(!rules(&red).contains("192.168.1.209") && table(&red, "100").is_empty());
    Ok(())
}

pub(crate) fn status_is_ready(host: &Host) -> Done {
    host.plugin("sbr").json(&sbr("1.1.0", &json!({}))).status().expect_ok();
    Ok(())
}

fn round_trip(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    let mut conf = sbr(version, &json!({}));
    conf["prevResult"] = connected(&red, version, &BOTH);
    let call = host.plugin("sbr").json(&conf).ifname("net1");
    assert_eq!(call.add(&red).expect_json()["cniVersion"], version);
    if version >= "0.4.0" {
        call.check(&red).expect_ok();
    }
    call.del(&red).expect_ok();
    assert!(!rules(&red).contains("192.168.1.209"));
    Ok(())
}

versions! { round_trip:
    round_trip_0_3_0 "0.3.0"
    round_trip_0_3_1 "0.3.1"
    round_trip_0_4_0 "0.4.0"
    round_trip_1_0_0 "1.0.0"
    round_trip_1_1_0 "1.1.0"
}

crate::suite::stories! { sbr:
    an_address_gets_a_rule_and_a_table
    several_addresses_have_tables_of_their_own
    both_families_have_tables
    a_table_that_is_in_use_is_not_taken
    a_table_asked_for_moves_no_route
    gateways_can_be_given
    hints_keep_what_is_on_the_link
    routes_of_others_stay
    without_a_previous_result_it_is_refused
    an_interface_without_addresses_is_refused
    two_gateways_of_a_family_are_refused
    del_of_what_never_was_succeeds
    del_without_a_namespace_succeeds
    a_second_add_uses_the_same_table
    check_sees_a_lost_rule
    gc_takes_what_is_not_valid
    status_is_ready
    round_trip_0_3_0
    round_trip_0_3_1
    round_trip_0_4_0
    round_trip_1_0_0
    round_trip_1_1_0
}
