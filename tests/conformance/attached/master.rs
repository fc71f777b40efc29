//! What every plugin must do whose interface stands on a link of the host, its master.

use serde_json::json;

use super::{Subject, check_refuses, refused};
use crate::suite::{Done, Host};

pub(crate) fn the_mtu_is_the_lower_links_unless_said_otherwise(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let mut conf = subject.one(host, "1.0.0");
    host.plugin(subject.plugin).json(&conf).add(&red).expect_ok();
    assert_eq!(red.link("eth0")["mtu"], 1500);
    host.plugin(subject.plugin).json(&conf).del(&red).expect_ok();
    conf["mtu"] = json!(1454);
    host.plugin(subject.plugin).json(&conf).add(&red).expect_ok();
    assert_eq!(red.link("eth0")["mtu"], 1454);
    Ok(())
}

pub(crate) fn an_mtu_beyond_the_lower_links_is_refused(host: &Host, subject: &Subject) -> Done {
    let mut conf = subject.one(host, "1.0.0");
    conf["mtu"] = json!(9001);
    refused(host, subject, &conf, "invalid MTU 9001, must be [0, master MTU(1500)]")
}

pub(crate) fn a_negative_mtu_is_refused(host: &Host, subject: &Subject) -> Done {
    let mut conf = subject.one(host, "1.0.0");
    conf["mtu"] = json!(-100);
    refused(host, subject, &conf, "invalid MTU -100, must be [0, master MTU(1500)]")
}

pub(crate) fn a_missing_master_is_refused(host: &Host, subject: &Subject) -> Done {
    let mut conf = subject.one(host, "1.0.0");
    conf["master"] = json!("nobody0");
    refused(host, subject, &conf, "failed to lookup master")
}

pub(crate) fn del_needs_no_master(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let call = host.plugin(subject.plugin).json(&subject.one(host, "1.0.0"));
    call.add(&red).expect_ok();
    host.lab.ip("link delete up0");
    call.del(&red).expect_ok();
    assert!(host.leases().is_empty(), "the address stayed");
    Ok(())
}

pub(crate) fn the_name_may_be_taken_in_the_host(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    host.lab.ip("link add eth0 type veth peer name other0");
    let before = host.lab.ip_json("link show dev eth0")[0]["address"].clone();
    let red = host.lab.container("red");
    let call = host.plugin(subject.plugin).json(&subject.one(host, "1.0.0"));
    call.add(&red).expect_ok();
    assert!(red.has_link("eth0"));
    call.del(&red).expect_ok();
    assert_eq!(host.lab.ip_json("link show dev eth0")[0]["address"], before);
    Ok(())
}

pub(crate) fn the_lower_link_may_be_in_the_container(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    red.ip("link add in0 type veth peer name in1");
    red.ip("link set in0 up");
    let mut conf = subject.one(host, "1.0.0");
    conf["master"] = json!("in0");
    conf["linkInContainer"] = json!(true);
    let call = host.plugin(subject.plugin).json(&conf);
    let result = call.add(&red).expect_json();
    assert_eq!(red.link("eth0")["link"], "in0");
    let call = call.prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0") && red.has_link("in0"));
    Ok(())
}

pub(crate) fn check_sees_another_lower_link(host: &Host, subject: &Subject) -> Done {
    check_refuses(host, subject, |host, _| {
        // Only newer kernels rename a link that is up.
        host.lab.ip("link set up0 down");
        host.lab.ip("link set up0 name up9");
        host.lab.ip("link set up9 up");
    })
}

pub(crate) fn status_fails_when_the_master_is_missing(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let mut conf = subject.one(host, "1.1.0");
    host.plugin(subject.plugin).json(&conf).status().expect_ok();
    conf["master"] = json!("nobody0");
    let refused = host.plugin(subject.plugin).json(&conf).status();
    assert!(refused.stdout.contains("\"code\": 50"), "{refused}");
    Ok(())
}

/// Red and green reach the far side and each other.
pub(crate) fn containers_reach_the_wire_and_each_other(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let conf = subject.addressed(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    host.plugin(subject.plugin).json(&conf).add(&red).expect_ok();
    host.plugin(subject.plugin).json(&conf).add(&green).expect_ok();
    weft_testkit::reaches(&red, ["10.1.2.1", "2001:db8:1::1", "10.1.2.3", "2001:db8:1::3"]);
    weft_testkit::reaches(&green, ["10.1.2.1", "2001:db8:1::1"]);
    Ok(())
}

pub(crate) fn the_default_routes_link_is_the_master(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    host.lab.ip("route add default dev up0");
    let red = host.lab.container("red");
    let mut conf = subject.one(host, "1.0.0");
    conf.as_object_mut().unwrap().remove("master");
    let result = host.plugin(subject.plugin).json(&conf).add(&red).expect_json();
    assert_eq!(red.link("eth0")["link_index"], host.lab.ip_json("link show dev up0")[0]["ifindex"]);
    let call = host.plugin(subject.plugin).json(&conf).prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    call.del(&red).expect_ok();
    Ok(())
}

pub(crate) fn without_a_default_route_a_master_must_be_named(host: &Host, subject: &Subject) -> Done {
    let mut conf = subject.one(host, "1.0.0");
    conf.as_object_mut().unwrap().remove("master");
    refused(host, subject, &conf, "no default route interface found")
}
