//! `bridge`: DEL, CHECK, GC and STATUS, with and without what they would like to have.

use serde_json::{Value, json};

use crate::bridge::{conf, gateway};
use crate::suite::{Done, Host};

pub(crate) fn del_of_what_never_was_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bridge").json(&gateway(host, "1.0.0", &["10.1.2.0/24"])).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn del_twice_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("bridge").json(&gateway(host, "1.0.0", &["10.1.2.0/24"]));
    call.add(&red).expect_ok();
    call.del(&red).expect_ok();
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(())
}

/// Adds red, lets `gone` take its namespace away, deletes, and sees that nothing of red is left.
fn del_without(host: &Host, netns: Option<&str>, gone: fn(&weft_testkit::Container)) -> Done {
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["ipMasq"] = json!(true);
    conf["ipMasqBackend"] = json!("iptables");
    let rules = || host.lab.sh("iptables-save -t nat").stdout;
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2"]);
    assert!(rules().contains("10.1.2.2"), "{}", rules());

    gone(&red);

    let call = host.plugin("bridge").json(&conf);
    let call = if let Some(path) = netns { call.netns(path) } else { call };
    call.del(&red).expect_ok();
    assert!(host.leases().is_empty(), "the address stayed");
    assert!(!rules().contains("10.1.2.2"), "the masquerading stayed: {}", rules());
    let links = host.lab.ip("-brief link");
    assert!(!links.contains("veth"), "the host's end stayed: {links}");
    Ok(())
}

pub(crate) fn del_frees_everything_when_the_namespace_is_gone(host: &Host) -> Done {
    del_without(host, None, weft_testkit::Container::vanish)
}

pub(crate) fn del_frees_everything_when_no_namespace_is_given(host: &Host) -> Done {
    del_without(host, Some(""), weft_testkit::Container::vanish)
}

pub(crate) fn del_frees_everything_when_no_namespace_is_given_though_it_exists(host: &Host) -> Done {
    del_without(host, Some(""), |_| ())
}

pub(crate) fn del_frees_everything_when_a_plain_file_is_left(host: &Host) -> Done {
    del_without(host, None, weft_testkit::Container::vanish_leaving_a_file)
}

pub(crate) fn del_frees_everything_when_the_link_was_deleted_by_hand(host: &Host) -> Done {
    del_without(host, None, |red| drop(red.ip("link delete eth0")))
}

pub(crate) fn del_of_one_interface_leaves_the_other(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let mut second = conf.clone();
    second["isDefaultGateway"] = json!(false);
    second["isGateway"] = json!(true);
    host.plugin("bridge").json(&second).ifname("eth1").add(&red).expect_ok();
    host.plugin("bridge").json(&second).ifname("eth1").del(&red).expect_ok();
    assert!(red.ping("10.1.2.1"));
    assert_eq!(host.leases(), ["10.1.2.2"]);
    Ok(())
}

fn added(host: &Host, red: &weft_testkit::Container) -> (Value, Value) {
    let conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    let result = host.plugin("bridge").json(&conf).add(red).expect_json();
    host.plugin("bridge").json(&conf).prev_result(&result).check(red).expect_ok();
    (conf, result)
}

fn check_refuses(host: &Host, break_it: fn(&Host, &weft_testkit::Container, &Value)) -> Done {
    let red = host.lab.container("red");
    let (conf, result) = added(host, &red);
    break_it(host, &red, &result);
    let refused = host.plugin("bridge").json(&conf).prev_result(&result).check(&red);
    assert_ne!(refused.code, 0, "CHECK saw nothing: {refused}");
    refused_with_an_error(&refused);
    Ok(())
}

fn refused_with_an_error(output: &weft_testkit::Output) {
    let error: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output}"));
    assert!(error["msg"].as_str().is_some_and(|text| !text.is_empty()), "{output}");
}

pub(crate) fn check_needs_a_previous_result(host: &Host) -> Done {
    let red = host.lab.container("red");
    let (conf, _) = added(host, &red);
    let refused = host.plugin("bridge").json(&conf).check(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("Required prevResult missing"), "{refused}");
    Ok(())
}

pub(crate) fn check_sees_a_lost_interface(host: &Host) -> Done {
    check_refuses(host, |_, red, _| drop(red.ip("link delete eth0")))
}

pub(crate) fn check_sees_a_lost_bridge(host: &Host) -> Done {
    check_refuses(host, |host, _, _| drop(host.lab.ip("link delete br0")))
}

pub(crate) fn check_sees_a_lost_address(host: &Host) -> Done {
    check_refuses(host, |_, red, _| drop(red.ip("address delete 10.1.2.2/24 dev eth0")))
}

pub(crate) fn check_sees_a_lost_default_route(host: &Host) -> Done {
    check_refuses(host, |_, red, _| drop(red.ip("route delete default")))
}

pub(crate) fn check_sees_a_lost_port(host: &Host) -> Done {
    check_refuses(host, |host, _, result| {
        let peer = result["interfaces"][1]["name"].as_str().unwrap();
        host.lab.ip(&format!("link set {peer} nomaster"));
    })
}

pub(crate) fn check_sees_a_lost_reservation(host: &Host) -> Done {
    check_refuses(host, |host, _, _| std::fs::remove_file(host.lab.path("leases/n1/10.1.2.2")).unwrap())
}

pub(crate) fn check_of_layer_2_needs_no_address_plugin(host: &Host) -> Done {
    let red = host.lab.container("red");
    let result = host.plugin("bridge").json(&conf("1.0.0")).add(&red).expect_json();
    host.plugin("bridge").json(&conf("1.0.0")).prev_result(&result).check(&red).expect_ok();
    Ok(())
}

fn gc_world(host: &Host) -> (weft_testkit::Container, weft_testkit::Container, Value) {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let mut conf = gateway(host, "1.1.0", &["10.1.2.0/24"]);
    conf["ipMasq"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    host.plugin("bridge").json(&conf).add(&green).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2", "10.1.2.3"]);
    (red, green, conf)
}

pub(crate) fn gc_removes_what_is_not_valid(host: &Host) -> Done {
    let (red, green, conf) = gc_world(host);
    green.vanish();
    host.plugin("bridge").json(&conf).gc(&[("red", "eth0")]).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2"]);
    assert!(red.ping("10.1.2.1"), "GC took a valid attachment");
    Ok(())
}

pub(crate) fn gc_without_a_list_refuses(host: &Host) -> Done {
    let (red, _green, conf) = gc_world(host);
    let call = host.plugin("bridge").json(&conf).env("CNI_COMMAND", "GC").env("CNI_PATH", "/nowhere").bare();
    assert_ne!(call.code, 0, "{call}");
    assert!(red.ping("10.1.2.1"));
    assert_eq!(host.leases().len(), 2);
    Ok(())
}

pub(crate) fn status_fails_when_the_address_plugin_is_missing(host: &Host) -> Done {
    let good = gateway(host, "1.1.0", &["10.1.2.0/24"]);
    host.plugin("bridge").json(&good).status().expect_ok();
    let mut bad = good;
    bad["ipam"]["type"] = json!("nobody");
    assert_ne!(host.plugin("bridge").json(&bad).status().code, 0);
    Ok(())
}

crate::suite::stories! { bridge_del:
    del_of_what_never_was_succeeds
    del_twice_succeeds
    del_frees_everything_when_the_namespace_is_gone
    del_frees_everything_when_no_namespace_is_given
    del_frees_everything_when_no_namespace_is_given_though_it_exists
    del_frees_everything_when_a_plain_file_is_left
    del_frees_everything_when_the_link_was_deleted_by_hand
    del_of_one_interface_leaves_the_other
    check_needs_a_previous_result
    check_sees_a_lost_interface
    check_sees_a_lost_bridge
    check_sees_a_lost_address
    check_sees_a_lost_default_route
    check_sees_a_lost_port
    check_sees_a_lost_reservation
    check_of_layer_2_needs_no_address_plugin
    gc_removes_what_is_not_valid
    gc_without_a_list_refuses
    status_fails_when_the_address_plugin_is_missing
}
