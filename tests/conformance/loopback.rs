//! `loopback`: the interface every container has.

use serde_json::json;

use crate::suite::{Done, Host};

fn conf(version: &str) -> serde_json::Value {
    json!({"cniVersion": version, "name": "cni-loopback", "type": "loopback"})
}

fn round_trip(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    assert!(!red.is_up("lo"), "it is up already, so ADD proves nothing");
    let call = host.plugin("loopback").json(&conf(version)).ifname("lo");
    call.add(&red).expect_ok();
    assert!(red.is_up("lo"));
    assert!(red.ping("127.0.0.1"));
    call.del(&red).expect_ok();
    assert!(!red.is_up("lo"));
    Ok(())
}

crate::suite::round_trips!();

pub(crate) fn the_result_names_lo_and_its_addresses(host: &Host) -> Done {
    let red = host.lab.container("red");
    let result = host.plugin("loopback").json(&conf("1.0.0")).ifname("lo").add(&red).expect_json();
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert_eq!(result["interfaces"][0]["mac"], "00:00:00:00:00:00");
    assert_eq!(result["interfaces"][0]["sandbox"], json!(red.netns()));
    assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
    assert_eq!(result["ips"][1]["address"], "::1/128");
    assert_eq!(result["ips"][0]["interface"], 0);
    Ok(())
}

pub(crate) fn an_old_result_has_the_old_shape(host: &Host) -> Done {
    let red = host.lab.container("red");
    let result = host.plugin("loopback").json(&conf("0.3.1")).ifname("lo").add(&red).expect_json();
    assert_eq!(result["cniVersion"], "0.3.1");
    assert_eq!(result["ips"][0]["version"], "4", "{result}");
    assert_eq!(result["dns"], json!({}));
    Ok(())
}

pub(crate) fn a_previous_result_is_passed_on(host: &Host) -> Done {
    let red = host.lab.container("red");
    let previous = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eth7"}]});
    let call = host.plugin("loopback").json(&conf("1.0.0")).prev_result(&previous).ifname("lo");
    assert_eq!(call.add(&red).expect_json()["interfaces"][0]["name"], "eth7");
    Ok(())
}

pub(crate) fn check_sees_it_down(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("loopback").json(&conf("1.0.0")).ifname("lo");
    call.add(&red).expect_ok();
    call.check(&red).expect_ok();
    red.ip("link set lo down");
    let refused = call.check(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("is down"), "{refused}");
    Ok(())
}

pub(crate) fn a_foreign_address_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    red.ip("address add 10.9.9.9/32 dev lo");
    let refused = host.plugin("loopback").json(&conf("1.0.0")).ifname("lo").add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("loopback interface found with non-loopback address"), "{refused}");
    Ok(())
}

pub(crate) fn del_succeeds_without_a_namespace(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("loopback").json(&conf("1.0.0")).ifname("lo");
    call.add(&red).expect_ok();
    red.vanish();
    call.del(&red).expect_ok();
    host.plugin("loopback").json(&conf("1.0.0")).ifname("lo").netns("").del(&red).expect_ok();
    Ok(())
}

crate::suite::stories! { loopback: round_trips
    the_result_names_lo_and_its_addresses
    an_old_result_has_the_old_shape
    a_previous_result_is_passed_on
    check_sees_it_down
    a_foreign_address_is_refused
    del_succeeds_without_a_namespace
}
