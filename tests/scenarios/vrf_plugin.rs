//! The chained `vrf` plugin on a kernel without what it makes; `tests/conformance/vrf.rs` has the rest.

use serde_json::json;
use weft_testkit::{Lab, skip_unless};

#[test]
fn a_kernel_without_such_links_is_told_apart() {
    let lab = Lab::new();
    skip_unless!(
        !lab.has_link_type("vrf table 7"),
        "a kernel without CONFIG_NET_VRF, which this test is about"
    );
    let red = lab.container("red");
    let pair = json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.1.2.0/24"},
    });
    let result = lab.plugin("ptp").json(&pair).add(&red).expect_json();
    let before = lab.snapshot();
    let conf = json!({"cniVersion": "1.1.0", "name": "n1", "type": "vrf", "vrfname": "blue"});
    let refused = lab.plugin("vrf").json(&conf).prev_result(&result).add(&red).expect_error(7);
    let reason =
        "this kernel has no links of type vrf: it was built without CONFIG_NET_VRF, or the module is missing";
    assert!(refused["msg"].as_str().unwrap().ends_with(reason), "{refused}");
    lab.assert_restored(&before);
}
