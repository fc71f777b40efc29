//! `bridge`: what a failed ADD leaves.

use serde_json::{Value, json};

use crate::bridge::gateway;
use crate::suite::{Done, Host};

pub(crate) fn a_failed_add_frees_the_address(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bridge").json(&gateway(host, "1.0.0", &["10.1.2.0/24"])).add(&red).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2"]);
    // The same interface of another container id: the name is taken inside the namespace.
    let again = host.plugin("bridge").json(&gateway(host, "1.0.0", &["10.1.2.0/24"])).id("other").add(&red);
    assert_ne!(again.code, 0);
    assert!(again.stdout.contains("already exists"), "{again}");
    assert_eq!(host.leases(), ["10.1.2.2"]);
    let links = host.lab.ip_json("link show");
    assert_eq!(links.as_array().unwrap().len(), 3, "the failed ADD left a link: {links}");
    assert!(red.ping("10.1.2.1"), "the failed ADD broke what was there");
    Ok(())
}

/// A configuration whose ADD fails late, after the link is made.
fn leaves_no_link(host: &Host, spoil: fn(&Host, &mut Value)) -> Done {
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    spoil(host, &mut conf);
    let refused = host.plugin("bridge").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(!red.has_link("eth0"), "the container's end stayed: {refused}");
    assert!(!host.lab.ip("-brief link").contains("veth"), "the host's end stayed: {refused}");
    assert!(host.leases().is_empty(), "the address stayed");
    Ok(())
}

pub(crate) fn a_route_out_of_reach_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |_, conf| {
        conf["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.9"}]);
    })
}

pub(crate) fn a_conflicting_address_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |host, _| {
        host.lab.ip("link add br0 type bridge");
        host.lab.ip("address add 10.7.7.1/24 dev br0");
    })
}

pub(crate) fn a_missing_address_plugin_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |_, conf| conf["ipam"]["type"] = json!("nobody"))
}

pub(crate) fn a_full_range_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |_, conf| {
        conf["ipam"]["ranges"] =
            json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.1", "rangeEnd": "10.1.2.1"}]]);
    })
}

crate::suite::stories! { bridge_failed:
    a_failed_add_frees_the_address
    a_route_out_of_reach_leaves_no_link
    a_conflicting_address_leaves_no_link
    a_missing_address_plugin_leaves_no_link
    a_full_range_leaves_no_link
}
