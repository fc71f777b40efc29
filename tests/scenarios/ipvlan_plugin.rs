//! The `ipvlan` plugin against the kernel: what it leaves, what it undoes.

use serde_json::{Value, json};
use weft_testkit::{Lab, skip_unless};

use crate::main_plugins::{Subject, del_stories};

pub(crate) const IPVLAN: Subject = Subject { plugin: "ipvlan", there, prepare: |lab| drop(lab.wire()), conf };

fn there(lab: &Lab) -> Result<(), &'static str> {
    match lab.has_link_type_on("up0", "ipvlan mode l2") {
        true => Ok(()),
        false => Err("links of type ipvlan (CONFIG_IPVLAN)"),
    }
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "ipvlan", "master": "up0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    })
}

del_stories!(IPVLAN);

#[test]
fn a_kernel_without_such_links_is_told_apart() {
    let lab = Lab::new();
    lab.wire();
    skip_unless!(there(&lab).is_err(), "a kernel without CONFIG_IPVLAN, which this test is about");
    let red = lab.container("red");
    let before = lab.snapshot();
    let refused = lab.plugin("ipvlan").json(&conf()).add(&red).expect_error(7);
    let reason = "this kernel has no links of type ipvlan: it was built without CONFIG_IPVLAN, or the module is missing";
    assert!(refused["msg"].as_str().unwrap().ends_with(reason), "{refused}");
    lab.assert_restored(&before);
}
