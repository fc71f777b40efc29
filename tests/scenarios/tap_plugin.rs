//! The `tap` plugin against the kernel: what it leaves, what it undoes.

use serde_json::{Value, json};
use weft_testkit::Lab;

use crate::main_plugins::{Subject, del_stories};

pub(crate) const TAP: Subject = Subject { plugin: "tap", there, prepare: |_| (), conf };

fn there(lab: &Lab) -> Result<(), &'static str> {
    match lab.sh("ip tuntap add mode tap name probe0 && ip link delete probe0").code {
        0 => Ok(()),
        _ => Err("links of type tap (CONFIG_TUN)"),
    }
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "tap", "multiQueue": true, "owner": 7,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    })
}

del_stories!(TAP);

/// Where the driver is missing there is no device file, or one that nobody serves.
#[test]
fn a_kernel_without_such_links_is_told_apart() {
    let lab = Lab::new();
    let red = lab.container("red");
    let before = lab.snapshot();
    lab.sh("mount -t tmpfs tmpfs /dev/net").expect_ok();
    for prepare in ["true", "mknod /dev/net/tun c 10 254"] {
        if lab.sh(prepare).code != 0 {
            weft_testkit::skipped("the right to make device files");
            continue;
        }
        let refused = lab.plugin("tap").json(&conf()).add(&red).expect_error(7);
        let reason =
            "this kernel has no links of type tun: it was built without CONFIG_TUN, or the module is missing";
        assert!(refused["msg"].as_str().unwrap().ends_with(reason), "{refused}");
        lab.assert_restored(&before);
    }
}
