//! The `dummy` plugin against the kernel: what it leaves, what it undoes.

use serde_json::{Value, json};
use weft_testkit::{Lab, skip_unless};

use crate::main_plugins::{Subject, del_stories};

pub(crate) const DUMMY: Subject = Subject { plugin: "dummy", there, prepare: |_| (), conf };

fn there(lab: &Lab) -> Result<(), &'static str> {
    match lab.has_link_type("dummy") {
        true => Ok(()),
        false => Err("links of type dummy (CONFIG_DUMMY)"),
    }
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "dummy",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    })
}

del_stories!(DUMMY);

#[test]
fn a_kernel_without_such_links_is_told_apart() {
    let lab = Lab::new();

    skip_unless!(there(&lab).is_err(), "a kernel without CONFIG_DUMMY, which this test is about");
    let red = lab.container("red");
    let before = lab.snapshot();
    let refused = lab.plugin("dummy").json(&conf()).add(&red).expect_error(7);
    let reason =
        "this kernel has no links of type dummy: it was built without CONFIG_DUMMY, or the module is missing";
    assert!(refused["msg"].as_str().unwrap().ends_with(reason), "{refused}");
    lab.assert_restored(&before);
}
