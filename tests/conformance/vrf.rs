//! `vrf`: interfaces in virtual routing domains.

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::suite::{Done, Host, Lack, versions};

fn vrf(version: &str, more: &Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "n1", "type": "vrf", "vrfname": "blue"});
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

fn there(host: &Host) -> Result<(), Lack> {
    if host.lab.has_link_type("vrf table 7") { Ok(()) } else { Err(Lack("CONFIG_NET_VRF")) }
}

/// Gives a container an interface with addresses and a route, and returns the result that says so.
fn connected(container: &Container, version: &str, dev: &str, net: u8) -> Value {
    container.ip(&format!("link add {dev} type veth peer name far-{dev}"));
    let keep = format!("/proc/sys/net/ipv6/conf/{dev}/keep_addr_on_down");
    assert!(container.inside(|| std::fs::read_to_string(&keep)).unwrap().starts_with('0'));
    for dev in [format!("far-{dev}"), dev.to_string()] {
        container.ip(&format!("link set {dev} up"));
    }
    container.ip(&format!("address add 10.{net}.0.2/24 dev {dev}"));
    container.ip(&format!("address add fd00:{net}::2/64 dev {dev} nodad"));
    container.ip(&format!("route add 10.{}.0.0/16 via 10.{net}.0.1 dev {dev}", net + 100));
    let mut ips = json!([
        {"address": format!("10.{net}.0.2/24"), "interface": 0, "version": "4"},
        {"address": format!("fd00:{net}::2/64"), "interface": 0, "version": "6"},
    ]);
    if version >= "1.0.0" {
        for ip in ips.as_array_mut().unwrap() {
            ip.as_object_mut().unwrap().remove("version");
        }
    }
    let interface = json!({"name": dev, "sandbox": container.netns().display().to_string()});
    json!({"cniVersion": version, "interfaces": [interface], "ips": ips, "dns": {}})
}

fn chained(container: &Container, dev: &str, net: u8, more: &Value) -> Value {
    let mut conf = vrf("1.0.0", more);
    conf["prevResult"] = connected(container, "1.0.0", dev, net);
    conf
}

fn table(container: &Container, name: &str) -> Value {
    container.link(name)["linkinfo"]["info_data"]["table"].clone()
}

pub(crate) fn an_interface_joins_with_addresses_and_routes(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    let conf = chained(&red, "eth0", 1, &json!({}));
    let call = host.plugin("vrf").json(&conf);
    assert_eq!(call.add(&red).expect_json()["ips"], conf["prevResult"]["ips"]);
    assert_eq!(red.link("eth0")["master"], "blue");
    assert_eq!(red.addresses("eth0").len(), 2, "addresses survive");
    assert!(red.ip("route show vrf blue").contains("10.101.0.0/16 via 10.1.0.1"));
    call.check(&red).expect_ok();
    call.del(&red).expect_ok();
    assert!(!red.has_link("blue") && red.link("eth0")["master"].is_null());
    call.del(&red).expect_ok();
    Ok(())
}

pub(crate) fn a_table_can_be_asked_for(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    host.plugin("vrf").json(&chained(&red, "eth0", 1, &json!({"table": 1001}))).add(&red).expect_ok();
    assert_eq!(table(&red, "blue"), 1001);
    Ok(())
}

pub(crate) fn two_interfaces_share_a_domain(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    let first = host.plugin("vrf").json(&chained(&red, "eth0", 1, &json!({})));
    first.add(&red).expect_ok();
    let second = host.plugin("vrf").json(&chained(&red, "eth1", 2, &json!({}))).ifname("eth1");
    second.add(&red).expect_ok();
    assert_eq!((&red.link("eth0")["master"], &red.link("eth1")["master"]), (&json!("blue"), &json!("blue")));
    first.del(&red).expect_ok();
    assert!(red.has_link("blue"), "it has a member");
    second.del(&red).expect_ok();
    assert!(!red.has_link("blue"));
    Ok(())
}

pub(crate) fn two_domains_have_tables_of_their_own(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    host.plugin("vrf").json(&chained(&red, "eth0", 1, &json!({}))).add(&red).expect_ok();
    let conf = chained(&red, "eth1", 2, &json!({"vrfname": "green"}));
    host.plugin("vrf").json(&conf).ifname("eth1").add(&red).expect_ok();
    assert_eq!((table(&red, "blue"), table(&red, "green")), (json!(1), json!(2)));
    Ok(())
}

pub(crate) fn a_table_with_routes_is_not_taken(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    let conf = chained(&red, "eth0", 1, &json!({}));
    red.ip("route add 10.9.0.0/16 via 10.1.0.9 dev eth0 table 1");
    host.plugin("vrf").json(&conf).add(&red).expect_ok();
    assert_eq!(table(&red, "blue"), 2, "a table in use was taken");
    Ok(())
}

fn refused(host: &Host, more: &Value, prepare: impl Fn(&Container), words: &str) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    let conf = chained(&red, "eth0", 1, more);
    prepare(&red);
    let refused = host.plugin("vrf").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "it was not refused: {refused}");
    assert!(refused.stdout.contains(words), "wanted {words:?}: {refused}");
    Ok(())
}

pub(crate) fn another_table_is_refused(host: &Host) -> Done {
    let prepare = |red: &Container| drop(red.ip("link add blue type vrf table 1002"));
    refused(
        host,
        &json!({"table": 1001}),
        prepare,
        "VRF blue already exist with different routing table 1002",
    )
}

pub(crate) fn another_master_is_refused(host: &Host) -> Done {
    let prepare = |red: &Container| {
        red.ip("link add br9 type bridge");
        red.ip("link set eth0 master br9");
    };
    refused(host, &json!({}), prepare, "interface eth0 has already a master set: br9")
}

pub(crate) fn a_domain_needs_a_name(host: &Host) -> Done {
    let words = "configuration is expected to have a valid vrf name";
    refused(host, &json!({"vrfname": ""}), |_| (), words)
}

pub(crate) fn without_a_previous_result_it_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("vrf").json(&vrf("1.0.0", &json!({}))).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("missing prevResult from earlier plugin"), "{refused}");
    Ok(())
}

pub(crate) fn del_without_the_interface_succeeds(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    let call_conf = chained(&red, "eth0", 1, &json!({}));
    let call = host.plugin("vrf").json(&call_conf);
    call.add(&red).expect_ok();
    red.ip("link delete eth0");
    call.del(&red).expect_ok();
    assert!(!red.has_link("blue"), "the domain stayed");
    Ok(())
}

pub(crate) fn del_without_a_namespace_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    red.vanish();
    host.plugin("vrf").json(&vrf("1.0.0", &json!({}))).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn check_sees_it_outside(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    let conf = chained(&red, "eth0", 1, &json!({}));
    let call = host.plugin("vrf").json(&conf);
    call.add(&red).expect_ok();
    red.ip("link set eth0 nomaster");
    let refused = call.check(&red);
    assert!(
        refused.code != 0 && refused.stdout.contains("failed to find eth0 associated to vrf blue"),
        "{refused}"
    );
    Ok(())
}

pub(crate) fn gc_takes_what_is_not_valid(host: &Host) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    host.plugin("vrf").json(&chained(&red, "eth0", 1, &json!({}))).add(&red).expect_ok();
    let gc = |valid: &[(&str, &str)]| host.plugin("vrf").json(&vrf("1.1.0", &json!({}))).gc(valid);
    gc(&[("red", "eth0")]).expect_ok();
    assert!(red.has_link("blue"), "a valid one stays");
    gc(&[]).expect_ok();
    assert!(!red.has_link("blue"));
    Ok(())
}

pub(crate) fn status_is_ready(host: &Host) -> Done {
    there(host)?;
    host.plugin("vrf").json(&vrf("1.1.0", &json!({}))).status().expect_ok();
    Ok(())
}

fn round_trip(host: &Host, version: &str) -> Done {
    there(host)?;
    let red = host.lab.container("red");
    let mut conf = vrf(version, &json!({}));
    conf["prevResult"] = connected(&red, version, "eth0", 1);
    let call = host.plugin("vrf").json(&conf);
    assert_eq!(call.add(&red).expect_json()["cniVersion"], version);
    if version >= "0.4.0" {
        call.check(&red).expect_ok();
    }
    call.del(&red).expect_ok();
    assert!(!red.has_link("blue"));
    Ok(())
}

versions! { round_trip:
    round_trip_0_3_0 "0.3.0"
    round_trip_0_3_1 "0.3.1"
    round_trip_0_4_0 "0.4.0"
    round_trip_1_0_0 "1.0.0"
    round_trip_1_1_0 "1.1.0"
}

crate::suite::stories! { vrf:
    an_interface_joins_with_addresses_and_routes
    a_table_can_be_asked_for
    two_interfaces_share_a_domain
    two_domains_have_tables_of_their_own
    a_table_with_routes_is_not_taken
    another_table_is_refused
    another_master_is_refused
    a_domain_needs_a_name
    without_a_previous_result_it_is_refused
    del_without_the_interface_succeeds
    del_without_a_namespace_succeeds
    check_sees_it_outside
    gc_takes_what_is_not_valid
    status_is_ready
    round_trip_0_3_0
    round_trip_0_3_1
    round_trip_0_4_0
    round_trip_1_0_0
    round_trip_1_1_0
}
