//! `dummy`: an interface that leads nowhere.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_stories};
use crate::suite::{Done, Host, Lack, versions};

const DUMMY: Subject = Subject { plugin: "dummy", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    match host.lab.has_link_type("dummy") {
        true => Ok(()),
        false => Err(Lack("links of type dummy (CONFIG_DUMMY)")),
    }
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "dummy"})
}

fn round_trip(host: &Host, version: &str) -> Done {
    attached::round_trip(host, &DUMMY, version)
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

attached_stories! { DUMMY:
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

pub(crate) fn an_address_plugin_is_required(host: &Host) -> Done {
    let text = "dummy interface requires an IPAM configuration";
    attached::refused(host, &DUMMY, &conf("1.0.0"), text)?;
    let red = host.lab.container("green");
    let refused = host.plugin("dummy").json(&conf("1.0.0")).check(&red);
    assert!(refused.stdout.contains(text), "{refused}");
    Ok(())
}

pub(crate) fn a_conflict_is_named(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    red.ip("link add eth0 type dummy");
    let refused = host.plugin("dummy").json(&DUMMY.addressed(host, "1.0.0", &["10.1.2.0/24"])).add(&red);
    assert!(refused.stdout.contains("failed to create dummy: file exists"), "{refused}");
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn check_sees_it_down(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = DUMMY.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    let result = host.plugin("dummy").json(&conf).add(&red).expect_json();
    red.ip("link set eth0 down");
    assert_ne!(host.plugin("dummy").json(&conf).prev_result(&result).check(&red).code, 0);
    Ok(())
}

crate::suite::own_stories! {
    round_trip_0_1_0
    round_trip_0_2_0
    round_trip_0_3_0
    round_trip_0_3_1
    round_trip_0_4_0
    round_trip_1_0_0
    round_trip_1_1_0
    an_address_plugin_is_required
    a_conflict_is_named
    check_sees_it_down
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
