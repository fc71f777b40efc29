//! The `vlan` plugin against the kernel: what it leaves, what it undoes.

use serde_json::{Value, json};
use weft_testkit::{Lab, skip_unless};

use crate::main_plugins::{Subject, del_stories};

pub(crate) const VLAN: Subject = Subject { plugin: "vlan", there, prepare: |lab| drop(lab.wire()), conf };

fn there(lab: &Lab) -> Result<(), &'static str> {
    match lab.has_link_type_on("up0", "vlan id 9") {
        true => Ok(()),
        false => Err("links of type vlan (CONFIG_VLAN_8021Q)"),
    }
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "vlan", "master": "up0", "vlanId": 50,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    })
}

del_stories!(VLAN);

#[test]
fn a_kernel_without_such_links_is_told_apart() {
    let lab = Lab::new();
    lab.wire();
    skip_unless!(there(&lab).is_err(), "a kernel without CONFIG_VLAN_8021Q, which this test is about");
    let red = lab.container("red");
    let before = lab.snapshot();
    let refused = lab.plugin("vlan").json(&conf()).add(&red).expect_error(7);
    let reason = "this kernel has no links of type vlan: it was built without CONFIG_VLAN_8021Q, or the module is missing";
    assert!(refused["msg"].as_str().unwrap().ends_with(reason), "{refused}");
    lab.assert_restored(&before);
}
