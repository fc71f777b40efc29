//! The `macvlan` plugin against the kernel: what it leaves, what it undoes.

use serde_json::{Value, json};
use weft_testkit::{Lab, skip_unless};

use crate::main_plugins::{Subject, del_stories};

pub(crate) const MACVLAN: Subject =
    Subject { plugin: "macvlan", there, prepare: |lab| drop(lab.wire()), conf };

fn there(lab: &Lab) -> Result<(), &'static str> {
    match lab.has_link_type_on("up0", "macvlan mode bridge") {
        true => Ok(()),
        false => Err("links of type macvlan (CONFIG_MACVLAN)"),
    }
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "macvlan", "master": "up0", "mtu": 1400,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    })
}

del_stories!(MACVLAN);

#[test]
fn what_a_killed_add_left_in_the_container_is_no_obstacle() {
    let lab = Lab::new();
    lab.wire();
    let red = lab.container("red");
    // The name under which a link comes into a container, before it has its own.
    let passing = weft_model::IfName::derived(&["passing", "eth0"]);
    lab.ip(&format!("link add link up0 name {passing} netns red type macvlan mode bridge"));
    lab.plugin("macvlan").json(&conf()).add(&red).expect_ok();
    assert!(red.has_link("eth0") && !red.has_link(passing.as_str()));
    lab.plugin("macvlan").json(&conf()).del(&red).expect_ok();
    lab.ip(&format!("link add link up0 name {passing} netns red type macvlan mode bridge"));
    lab.plugin("macvlan").json(&conf()).del(&red).expect_ok();
    assert!(!red.has_link(passing.as_str()));
}

#[test]
fn what_another_plugin_made_under_the_name_stays() {
    let lab = Lab::new();
    lab.wire();
    let red = lab.container("red");
    red.ip("link add eth0 type veth peer name other0");
    lab.plugin("macvlan").json(&conf()).del(&red).expect_ok();
    assert!(red.has_link("eth0"), "DEL took what is not macvlan's");
}

#[test]
fn a_kernel_without_macvlan_is_told_apart() {
    let lab = Lab::new();
    lab.wire();
    skip_unless!(there(&lab).is_err(), "a kernel without CONFIG_MACVLAN, which this test is about");
    let red = lab.container("red");
    let before = lab.snapshot();
    let refused = lab.plugin("macvlan").json(&conf()).add(&red).expect_error(7);
    let reason = "this kernel has no links of type macvlan: it was built without CONFIG_MACVLAN, or the module is missing";
    assert!(refused["msg"].as_str().unwrap().ends_with(reason), "{refused}");
    lab.assert_restored(&before);
    lab.plugin("macvlan").json(&conf()).status().expect_error(50);
}
