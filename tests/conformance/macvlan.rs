//! `macvlan`: a MAC address of its own on a link of the host.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_stories};
use crate::suite::{Done, Host, Lack, versions};

const MACVLAN: Subject = Subject { plugin: "macvlan", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    host.lab.wire();
    match host.lab.has_link_type_on("up0", "macvlan mode bridge") {
        true => Ok(()),
        false => Err(Lack("links of type macvlan (CONFIG_MACVLAN)")),
    }
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "macvlan", "master": "up0"})
}

fn round_trip(host: &Host, version: &str) -> Done {
    attached::round_trip(host, &MACVLAN, version)
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
    attached::layer_2(host, &MACVLAN, version)
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

attached_stories! { MACVLAN:
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
    containers_reach_the_wire_and_each_other
    the_mtu_is_the_lower_links_unless_said_otherwise
    an_mtu_beyond_the_lower_links_is_refused
    a_negative_mtu_is_refused
    a_missing_master_is_refused
    del_needs_no_master
    the_name_may_be_taken_in_the_host
    the_lower_link_may_be_in_the_container
    check_sees_another_lower_link
    status_fails_when_the_master_is_missing
    the_default_routes_link_is_the_master
    without_a_default_route_a_master_must_be_named
}

pub(crate) fn every_mode_can_be_asked_for(host: &Host) -> Done {
    prepare(host)?;
    for mode in ["bridge", "private", "vepa", "passthru"] {
        let red = host.lab.container(mode);
        let mut conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
        conf["mode"] = json!(mode);
        host.plugin("macvlan").json(&conf).add(&red).expect_ok();
        assert_eq!(red.link("eth0")["linkinfo"]["info_data"]["mode"], mode);
        host.plugin("macvlan").json(&conf).del(&red).expect_ok();
    }
    Ok(())
}

pub(crate) fn an_unknown_mode_is_refused(host: &Host) -> Done {
    let mut conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["mode"] = json!("l9");
    attached::refused(host, &MACVLAN, &conf, "unknown macvlan mode")
}

pub(crate) fn check_sees_another_mode(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    let result = host.plugin("macvlan").json(&conf).add(&red).expect_json();
    red.ip("link set eth0 type macvlan mode private");
    let refused = host.plugin("macvlan").json(&conf).prev_result(&result).check(&red);
    let text = "macvlan mode private does not match expected value: bridge";
    assert!(refused.stdout.contains(text), "{refused}");
    Ok(())
}

pub(crate) fn private_containers_reach_the_wire_and_not_each_other(host: &Host) -> Done {
    prepare(host)?;
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let mut conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["mode"] = json!("private");
    host.plugin("macvlan").json(&conf).add(&red).expect_ok();
    host.plugin("macvlan").json(&conf).add(&green).expect_ok();
    weft_testkit::reaches(&red, ["10.1.2.1"]);
    weft_testkit::reaches(&green, ["10.1.2.1"]);
    weft_testkit::does_not_reach(&red, ["10.1.2.3"]);
    Ok(())
}

fn mac_of(host: &Host, conf: &Value, args: &str, name: &str) -> String {
    let container = host.lab.container(name);
    host.plugin("macvlan").json(conf).args(args).add(&container).expect_ok();
    container.link("eth0")["address"].as_str().unwrap().to_string()
}

pub(crate) fn a_mac_can_be_asked_for_in_three_ways(host: &Host) -> Done {
    prepare(host)?;
    let mut conf = conf("1.0.0");
    conf["mac"] = json!("c2:11:22:33:44:55");
    assert_eq!(mac_of(host, &conf, "", "a"), "c2:11:22:33:44:55");
    assert_eq!(mac_of(host, &conf, "MAC=c2:11:22:33:44:66", "b"), "c2:11:22:33:44:66");
    conf["runtimeConfig"] = json!({"mac": "c2:11:22:33:44:77"});
    assert_eq!(mac_of(host, &conf, "MAC=c2:11:22:33:44:88", "c"), "c2:11:22:33:44:77");
    Ok(())
}

pub(crate) fn the_broadcast_queue_has_the_length_asked_for(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["bcqueuelen"] = json!(50);
    host.plugin("macvlan").json(&conf).add(&red).expect_ok();
    assert_eq!(red.link("eth0")["linkinfo"]["info_data"]["bcqueuelen"], 50);
    Ok(())
}

pub(crate) fn neighbours_are_told(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    host.plugin("macvlan").json(&conf).add(&red).expect_ok();
    assert_eq!(red.sysctl("ipv4/conf/eth0/arp_notify"), "1");
    assert_eq!(red.sysctl("ipv6/conf/eth0/ndisc_notify"), "1");
    Ok(())
}

crate::suite::stories! { macvlan:
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
    every_mode_can_be_asked_for
    an_unknown_mode_is_refused
    check_sees_another_mode
    private_containers_reach_the_wire_and_not_each_other
    a_mac_can_be_asked_for_in_three_ways
    the_broadcast_queue_has_the_length_asked_for
    neighbours_are_told
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
    containers_reach_the_wire_and_each_other
    the_mtu_is_the_lower_links_unless_said_otherwise
    an_mtu_beyond_the_lower_links_is_refused
    a_negative_mtu_is_refused
    a_missing_master_is_refused
    del_needs_no_master
    the_name_may_be_taken_in_the_host
    the_lower_link_may_be_in_the_container
    check_sees_another_lower_link
    status_fails_when_the_master_is_missing
    the_default_routes_link_is_the_master
    without_a_default_route_a_master_must_be_named
}
