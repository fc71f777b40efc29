//! `tap`: an interface whose frames a program in the container reads and writes.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_section};
use crate::suite::{Done, Host, Lack};

const TAP: Subject = Subject { plugin: "tap", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    match host.lab.sh("ip tuntap add mode tap name probe0").code {
        0 => host.lab.ip("link delete probe0"),
        _ => return Err(Lack("links of type tap (CONFIG_TUN)")),
    };
    Ok(())
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "tap"})
}

fn added(host: &Host, keys: &Value) -> Result<Value, Lack> {
    prepare(host)?;
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    for (key, value) in keys.as_object().unwrap() {
        conf[key] = value.clone();
    }
    let result = host.plugin("tap").json(&conf).add(&red).expect_json();
    let call = host.plugin("tap").json(&conf).prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    let link = red.link("eth0");
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(link)
}

pub(crate) fn it_is_a_tap_that_stays(host: &Host) -> Done {
    let link = added(host, &json!({}))?;
    let info = &link["linkinfo"]["info_data"];
    assert_eq!((&info["type"], &info["persist"]), (&json!("tap"), &json!(true)), "{link}");
    assert_eq!(info["multi_queue"], false, "{link}");
    Ok(())
}

pub(crate) fn it_has_several_queues_when_asked_for(host: &Host) -> Done {
    let link = added(host, &json!({"multiQueue": true}))?;
    assert_eq!(link["linkinfo"]["info_data"]["multi_queue"], true, "{link}");
    Ok(())
}

pub(crate) fn it_belongs_to_whom_was_asked_for(host: &Host) -> Done {
    let link = added(host, &json!({"owner": 4242, "group": 0}))?;
    let info = &link["linkinfo"]["info_data"];
    assert_eq!(info["user"], 4242, "{link}");
    assert!(info["group"] == "root" || info["group"] == "0", "{link}");
    Ok(())
}

pub(crate) fn it_has_the_mtu_and_the_mac_asked_for(host: &Host) -> Done {
    let keys = json!({"mtu": 1454, "mac": "c2:11:22:33:44:55", "owner": 1, "group": 1});
    let link = added(host, &keys)?;
    assert_eq!((&link["mtu"], &link["address"]), (&json!(1454), &json!("c2:11:22:33:44:55")));
    let keys = json!({"mac": "c2:11:22:33:44:55", "runtimeConfig": {"mac": "c2:11:22:33:44:66"}});
    let red = host.lab.container("green");
    let mut conf = conf("1.0.0");
    conf["mac"] = keys["mac"].clone();
    conf["runtimeConfig"] = keys["runtimeConfig"].clone();
    host.plugin("tap").json(&conf).add(&red).expect_ok();
    assert_eq!(red.link("eth0")["address"], "c2:11:22:33:44:66");
    Ok(())
}

pub(crate) fn a_context_without_selinux_means_nothing(host: &Host) -> Done {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(Lack("a kernel without SELinux, which this story is about"));
    }
    added(host, &json!({"selinuxContext": "system_u:system_r:container_t:s0"})).map(drop)
}

pub(crate) fn it_joins_a_bridge_of_the_container(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    red.ip("link add br1 type bridge");
    let mut conf = conf("1.0.0");
    conf["bridge"] = json!("br1");
    let call = host.plugin("tap").json(&conf);
    let result = call.add(&red).expect_json();
    assert_eq!(red.link("eth0")["master"], "br1");
    assert_eq!(call.prev_result(&result).check(&red).expect_ok(), "");
    Ok(())
}

pub(crate) fn a_missing_bridge_is_refused(host: &Host) -> Done {
    let mut conf = TAP.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["bridge"] = json!("br9");
    attached::refused(host, &TAP, &conf, "failed to get bridge br9: Link not found")
}

crate::suite::absent! { tap }

attached_section! { alone: TAP
    [every layer_2]
    [check_sees_a_link_of_another_kind gc_removes_what_is_not_valid]
    it_is_a_tap_that_stays
    it_has_several_queues_when_asked_for
    it_belongs_to_whom_was_asked_for
    it_has_the_mtu_and_the_mac_asked_for
    a_context_without_selinux_means_nothing
    it_joins_a_bridge_of_the_container
    a_missing_bridge_is_refused
}
