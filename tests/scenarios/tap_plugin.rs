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
