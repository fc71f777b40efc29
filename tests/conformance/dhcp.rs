//! `dhcp`: what it says when its daemon is not there. What it does with one is a section of its own.

use serde_json::{Value, json};

use crate::suite::{Done, Host};

fn dhcp(host: &Host, version: &str, more: &Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "n1", "type": "bridge", "ipam": {"type": "dhcp"}});
    conf["ipam"]["daemonSocketPath"] = host.lab.path("no.sock").display().to_string().into();
    for (key, value) in more.as_object().into_iter().flatten() {
        conf["ipam"][key] = value.clone();
    }
    conf
}

const DIALING: &str = "error dialing DHCP daemon: dial unix ";

pub(crate) fn add_without_a_daemon_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("dhcp").json(&dhcp(host, "1.0.0", &json!({}))).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains(DIALING) && refused.stdout.contains("no.sock"), "{refused}");
    Ok(())
}

pub(crate) fn check_without_a_daemon_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("dhcp").json(&dhcp(host, "1.0.0", &json!({}))).check(&red);
    assert!(refused.code != 0 && refused.stdout.contains(DIALING), "{refused}");
    Ok(())
}

pub(crate) fn del_without_a_daemon_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("dhcp").json(&dhcp(host, "1.0.0", &json!({}))).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn gc_without_a_daemon_succeeds(host: &Host) -> Done {
    host.plugin("dhcp").json(&dhcp(host, "1.1.0", &json!({}))).gc(&[]).expect_ok();
    Ok(())
}

pub(crate) fn gc_without_a_list_refuses(host: &Host) -> Done {
    let conf = dhcp(host, "1.1.0", &json!({})).to_string();
    let refused = host.plugin("dhcp").conf(conf).env("CNI_COMMAND", "GC").env("CNI_PATH", "/x").bare();
    assert!(refused.stdout.contains("cni.dev/valid-attachments is missing"), "{refused}");
    Ok(())
}

pub(crate) fn status_tells_of_the_daemon(host: &Host) -> Done {
    let refused = host.plugin("dhcp").json(&dhcp(host, "1.1.0", &json!({}))).status();
    assert!(refused.code != 0 && refused.stdout.contains(DIALING), "{refused}");
    Ok(())
}

crate::suite::stories! { dhcp:
    add_without_a_daemon_is_refused
    check_without_a_daemon_is_refused
    del_without_a_daemon_succeeds
    gc_without_a_daemon_succeeds
    gc_without_a_list_refuses
    status_tells_of_the_daemon
}
