//! `tap`: an interface whose frames a program in the container reads and writes.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_stories};
use crate::suite::{Done, Host, Lack, versions};

const TAP: Subject = Subject { plugin: "tap", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    match host.lab.sh("ip tuntap add mode tap name probe0").code {
        0 => host.lab.ip("link delete probe0"),
        _ => return Err(Lack("links of type tap (CONFIG_TUN)")),
    };
    Ok(())
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "tap"})
}

fn round_trip(host: &Host, version: &str) -> Done {
    attached::round_trip(host, &TAP, version)
}

versions! { round_trip:
    round_trip_0_1_0 "0.1.0"
    round_trip_0_2_0 "0.2.0"
    round_trip_0_3_0 "0.3.0"
    round_trip_0_3_1 "0.3.1"
    round_trip_0_4_0 "0.4.0"
    round_trip_1_0_0 "1.0.0"
    round_trip_1_1_0 "1.1.0"
}

fn layer_2(host: &Host, version: &str) -> Done {
    attached::layer_2(host, &TAP, version)
}

versions! { layer_2:
    l2_0_1_0 "0.1.0"
    l2_0_2_0 "0.2.0"
    l2_0_3_0 "0.3.0"
    l2_0_3_1 "0.3.1"
    l2_0_4_0 "0.4.0"
    l2_1_0_0 "1.0.0"
    l2_1_1_0 "1.1.0"
}

attached_stories! { TAP:
    del_of_what_never_was_succeeds
    del_twice_succeeds
    del_frees_the_address_when_the_namespace_is_gone
    del_frees_the_address_when_no_namespace_is_given
    del_frees_the_address_when_a_plain_file_is_left
    del_frees_the_address_when_the_link_is_gone
    a_taken_name_is_refused_and_nothing_is_left
    a_route_out_of_reach_leaves_nothing
    an_address_plugin_without_an_address_is_refused
    the_dns_of_the_address_plugin_is_passed_on
    the_dns_of_the_network_wins
    check_sees_a_lost_interface
    check_sees_a_lost_address
    check_sees_a_lost_default_route
    check_sees_a_lost_reservation
    check_needs_a_previous_result
    check_sees_a_link_of_another_kind
    gc_removes_what_is_not_valid
    gc_without_a_list_refuses
    status_fails_when_the_address_plugin_is_missing
}

fn added(host: &Host, keys: &Value) -> Result<Value, Lack> {
    prepare(host)?;
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    let result = host.plugin("tap").json(&conf).add(&red).expect_json();
    let call = host.plugin("tap").json(&conf).prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    let link = red.link("eth0");
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(link)
}

pub(crate) fn it_is_a_tap_that_stays(host: &Host) -> Done {
    let link = added(host, &json!({}))?;
    let info = &link["linkinfo"]["info_data"];
    assert_eq!((&info["type"], &info["persist"]), (&json!("tap"), &json!(true)), "{link}");
    assert_eq!(info["multi_queue"], false, "{link}");
    Ok(())
}

pub(crate) fn it_has_several_queues_when_asked_for(host: &Host) -> Done {
    let link = added(host, &json!({"multiQueue": true}))?;
    assert_eq!(link["linkinfo"]["info_data"]["multi_queue"], true, "{link}");
    Ok(())
}

pub(crate) fn it_belongs_to_whom_was_asked_for(host: &Host) -> Done {
    let link = added(host, &json!({"owner": 4242, "group": 0}))?;
    let info = &link["linkinfo"]["info_data"];
    assert_eq!(info["user"], 4242, "{link}");
    assert!(info["group"] == "root" || info["group"] == "0", "{link}");
    Ok(())
}

pub(crate) fn it_has_the_mtu_and_the_mac_asked_for(host: &Host) -> Done {
    let keys = json!({"mtu": 1454, "mac": "c2:11:22:33:44:55", "owner": 1, "group": 1});
    let link = added(host, &keys)?;
    assert_eq!((&link["mtu"], &link["address"]), (&json!(1454), &json!("c2:11:22:33:44:55")));
    let keys = json!({"mac": "c2:11:22:33:44:55", "runtimeConfig": {"mac": "c2:11:22:33:44:66"}});
    let red = host.lab.container("green");
    let mut conf = conf("1.0.0");
    conf["mac"] = keys["mac"].clone();
    conf["runtimeConfig"] = keys["runtimeConfig"].clone();
    host.plugin("tap").json(&conf).add(&red).expect_ok();
    assert_eq!(red.link("eth0")["address"], "c2:11:22:33:44:66");
    Ok(())
}

pub(crate) fn a_context_without_selinux_means_nothing(host: &Host) -> Done {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(Lack("a kernel without SELinux, which this story is about"));
    }
    added(host, &json!({"selinuxContext": "system_u:system_r:container_t:s0"})).map(drop)
}

pub(crate) fn it_joins_a_bridge_of_the_container(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    red.ip("link add br1 type bridge");
    let mut conf = conf("1.0.0");
    conf["bridge"] = json!("br1");
    let call = host.plugin("tap").json(&conf);
    let result = call.add(&red).expect_json();
    assert_eq!(red.link("eth0")["master"], "br1");
    assert_eq!(call.prev_result(&result).check(&red).expect_ok(), "");
    Ok(())
}

pub(crate) fn a_missing_bridge_is_refused(host: &Host) -> Done {
    let mut conf = TAP.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["bridge"] = json!("br9");
    attached::refused(host, &TAP, &conf, "failed to get bridge br9: Link not found")
}

crate::suite::own_stories! {
    round_trip_0_1_0
    round_trip_0_2_0
    round_trip_0_3_0
    round_trip_0_3_1
    round_trip_0_4_0
    round_trip_1_0_0
    round_trip_1_1_0
    l2_0_1_0
    l2_0_2_0
    l2_0_3_0
    l2_0_3_1
    l2_0_4_0
    l2_1_0_0
    l2_1_1_0
    it_is_a_tap_that_stays
    it_has_several_queues_when_asked_for
    it_belongs_to_whom_was_asked_for
    it_has_the_mtu_and_the_mac_asked_for
    a_context_without_selinux_means_nothing
    it_joins_a_bridge_of_the_container
    a_missing_bridge_is_refused
    del_of_what_never_was_succeeds
    del_twice_succeeds
    del_frees_the_address_when_the_namespace_is_gone
    del_frees_the_address_when_no_namespace_is_given
    del_frees_the_address_when_a_plain_file_is_left
    del_frees_the_address_when_the_link_is_gone
    a_taken_name_is_refused_and_nothing_is_left
    a_route_out_of_reach_leaves_nothing
    an_address_plugin_without_an_address_is_refused
    the_dns_of_the_address_plugin_is_passed_on
    the_dns_of_the_network_wins
    check_sees_a_lost_interface
    check_sees_a_lost_address
    check_sees_a_lost_default_route
    check_sees_a_lost_reservation
    check_needs_a_previous_result
    check_sees_a_link_of_another_kind
    gc_removes_what_is_not_valid
    gc_without_a_list_refuses
    status_fails_when_the_address_plugin_is_missing
}
