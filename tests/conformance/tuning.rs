//! `tuning`: attributes of the container's interface, and what becomes of what was before.

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::portmap::connect;
use crate::suite::{Done, Host};

const V4: [&str; 1] = ["10.1.2.0/24"];
const MAC: &str = "c2:11:22:33:44:55";

fn tuning(host: &Host, version: &str, more: &Value) -> Value {
    let mut conf = json!({
        "cniVersion": version, "name": "n1", "type": "tuning", "dataDir": host.lab.path("tuning"),
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

/// Connects a container to a bridge, and returns a configuration with the result.
fn connected(host: &Host, container: &Container, more: &Value) -> Value {
    let mut conf = tuning(host, "1.0.0", more);
    conf["prevResult"] = connect(host, container, &V4);
    conf
}

/// The attributes that tuning changes, as they are now.
fn attributes(container: &Container) -> Value {
    let link = container.link("eth0");
    let flags = link["flags"].as_array().cloned().unwrap_or_default();
    json!({
        "mac": link["address"], "mtu": link["mtu"], "txQLen": link["txqlen"],
        "promisc": flags.contains(&"PROMISC".into()), "allmulti": flags.contains(&"ALLMULTI".into()),
    })
}

/// ADD with this configuration changes these attributes, CHECK is content, and DEL puts back what was before.
fn changes(host: &Host, more: &Value, args: &str, expected: &Value) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, more);
    let before = attributes(&red);
    let mut wanted = before.clone();
    for (key, value) in expected.as_object().into_iter().flatten() {
        assert_ne!(before[key], *value, "{key} was so before");
        wanted[key] = value.clone();
    }
    let call = host.plugin("tuning").json(&conf).args(args);
    let result = call.add(&red).expect_json();
    assert_eq!(attributes(&red), wanted);
    let inside = |result: &Value| {
        let list = result["interfaces"].as_array().cloned().unwrap_or_default();
        list.into_iter().find(|one| one["name"] == "eth0").unwrap_or_default()
    };
    assert_eq!(inside(&result)["mac"], wanted["mac"]);
    let kept = host.lab.path("tuning/red_eth0.json");
    assert!(kept.is_file(), "what was before is kept");
    let check = host.plugin("tuning").json(&conf).args(args).prev_result(&result);
    check.check(&red).expect_ok();
    call.del(&red).expect_ok();
    assert_eq!(attributes(&red), before);
    assert!(!kept.exists(), "and forgotten");
    call.del(&red).expect_ok();
    Ok(())
}

macro_rules! changes {
    ($($name:ident $more:tt $args:literal $expected:tt)*) => {
        $(pub(crate) fn $name(host: &Host) -> Done {
            changes(host, &json!($more), $args, &json!($expected))
        })*
    };
}

changes! {
    the_mac_changes {"mac": "c2:11:22:33:44:55"} "" {"mac": MAC}
    the_mac_of_the_runtime_changes
        {"mac": "c2:11:22:33:44:01", "capabilities": {"mac": true}, "runtimeConfig": {"mac": "c2:11:22:33:44:55"}}
        "" {"mac": MAC}
    the_mac_of_cni_args_changes {"mac": "c2:11:22:33:44:01"} "IgnoreUnknown=true;MAC=c2:11:22:33:44:55" {"mac": MAC}
    the_mac_of_the_arguments_changes
        {"mac": "c2:11:22:33:44:01", "runtimeConfig": {"mac": "c2:11:22:33:44:02"},
            "args": {"cni": {"mac": "c2:11:22:33:44:55"}}}
        "" {"mac": MAC}
    the_mtu_changes {"mtu": 1300} "" {"mtu": 1300}
    the_mtu_of_the_arguments_changes {"mtu": 1400, "args": {"cni": {"mtu": 1300}}} "" {"mtu": 1300}
    it_becomes_promiscuous {"promisc": true} "" {"promisc": true}
    it_becomes_promiscuous_by_arguments {"args": {"cni": {"promisc": true}}} "" {"promisc": true}
    the_queue_becomes_longer {"txQLen": 20000} "" {"txQLen": 20000}
    the_queue_becomes_longer_by_arguments {"txQLen": 5, "args": {"cni": {"txQLen": 20000}}} "" {"txQLen": 20000}
    it_hears_all_groups {"allmulti": true} "" {"allmulti": true}
    it_hears_all_groups_by_arguments {"args": {"cni": {"allmulti": true}}} "" {"allmulti": true}
}

pub(crate) fn the_previous_result_is_passed_on(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({}));
    let result = host.plugin("tuning").json(&conf).add(&red).expect_json();
    assert_eq!(result, conf["prevResult"]);
    Ok(())
}

pub(crate) fn without_a_previous_result_it_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("tuning").json(&tuning(host, "1.0.0", &json!({"mtu": 1300}))).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("Required prevResult missing"), "{refused}");
    Ok(())
}

const SOMAXCONN: &str = "net.core.somaxconn";

pub(crate) fn a_sysctl_is_set_for_the_interface(host: &Host) -> Done {
    let red = host.lab.container("red");
    let keys = json!({"sysctl": {SOMAXCONN: "500", "net.ipv4.conf.IFNAME.arp_filter": "1"}});
    let conf = connected(host, &red, &keys);
    assert_eq!(red.sysctl("ipv4/conf/eth0/arp_filter"), "0");
    let call = host.plugin("tuning").json(&conf);
    call.add(&red).expect_ok();
    assert_eq!(
        (red.sysctl("core/somaxconn"), red.sysctl("ipv4/conf/eth0/arp_filter")),
        ("500".into(), "1".into())
    );
    call.check(&red).expect_ok();
    red.set_sysctl("core/somaxconn", "501");
    let refused = call.check(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("somaxconn is 500, current value is 501"), "{refused}");
    call.del(&red).expect_ok();
    Ok(())
}

pub(crate) fn del_puts_a_sysctl_back(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({"sysctl": {SOMAXCONN: "500"}}));
    let before = red.sysctl("core/somaxconn");
    let call = host.plugin("tuning").json(&conf);
    call.add(&red).expect_ok();
    assert_eq!(red.sysctl("core/somaxconn"), "500");
    call.del(&red).expect_ok();
    assert_eq!(red.sysctl("core/somaxconn"), before, "the sysctl stayed");
    Ok(())
}

fn refused(host: &Host, conf: &str, words: &str) -> Done {
    let red = host.lab.container("red");
    let result = connect(host, &red, &V4).to_string();
    let before = attributes(&red);
    let conf = conf.replace("RESULT", &result).replace("DIR", &host.lab.path("tuning").display().to_string());
    let refused = host.plugin("tuning").conf(conf).add(&red);
    assert_ne!(refused.code, 0, "it was not refused: {refused}");
    assert!(refused.stdout.contains(words), "wanted {words:?}: {refused}");
    assert_eq!(attributes(&red), before);
    Ok(())
}

macro_rules! refusals {
    ($($name:ident $keys:literal $words:literal)*) => {
        $(pub(crate) fn $name(host: &Host) -> Done {
            let head = r#"{"cniVersion": "1.0.0", "name": "n1", "type": "tuning", "dataDir": "DIR", "prevResult": RESULT, "#;
            refused(host, &format!("{head}{}}}", $keys), $words)
        })*
    };
}

refusals! {
    a_sysctl_twice_is_refused
        r#""sysctl": {"net.ipv4.conf.all.log_martians": "1", "net.ipv4.conf.all.log_martians": "0"}"# "duplicated"
    a_sysctl_of_the_machine_is_refused r#""sysctl": {"kernel.shmmax": "1"}"# "invalid net sysctl key: "
    a_mac_that_is_none_is_refused r#""mac": "x""# "x"
    arguments_alone_are_refused_as_well r#""args": {"cni": {"sysctl": {"kernel.shmmax": "1"}}}"# "invalid net sysctl key: "
}

pub(crate) fn a_failed_add_changes_nothing(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({"promisc": true, "mac": "01:00:5e:00:00:01", "mtu": 1300}));
    let before = attributes(&red);
    let refused = host.plugin("tuning").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(attributes(&red), before);
    assert!(!host.lab.path("tuning/red_eth0.json").exists(), "a file stayed");
    Ok(())
}

pub(crate) fn check_sees_what_was_changed_back(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({"mtu": 1300, "txQLen": 200, "allmulti": true}));
    let call = host.plugin("tuning").json(&conf);
    call.add(&red).expect_ok();
    call.check(&red).expect_ok();
    for (words, says) in [
        ("mtu 1400", "Tuning configured MTU of eth0 is 1300, current value is 1400"),
        (
            "mtu 1300 txqueuelen 7",
            "Tuning configured Transmit Queue Length of eth0 is 200, current value is 7",
        ),
        (
            "txqueuelen 200 allmulticast off",
            "Tuning configured all-multicast mode of eth0 is true, current value is",
        ),
    ] {
        red.ip(&format!("link set eth0 {words}"));
        let refused = call.check(&red);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(refused.stdout.contains(says), "{refused}");
    }
    Ok(())
}

pub(crate) fn a_mac_in_capitals_passes_check(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({"mac": MAC.to_uppercase()}));
    let call = host.plugin("tuning").json(&conf);
    call.add(&red).expect_ok();
    call.check(&red).expect_ok();
    Ok(())
}

pub(crate) fn del_without_a_namespace_forgets(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("tuning").json(&connected(host, &red, &json!({"mtu": 1300})));
    call.add(&red).expect_ok();
    let kept = host.lab.path("tuning/red_eth0.json");
    assert!(kept.is_file());
    red.vanish();
    call.netns("").del(&red).expect_ok();
    assert!(!kept.exists(), "the file stayed");
    Ok(())
}

pub(crate) fn del_of_what_never_was_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("tuning").json(&tuning(host, "1.0.0", &json!({"mtu": 1300}))).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn gc_takes_what_is_not_valid(host: &Host) -> Done {
    let red = host.lab.container("red");
    let before = { connected(host, &red, &json!({"mtu": 1300})) };
    let mtu = attributes(&red)["mtu"].clone();
    host.plugin("tuning").json(&before).add(&red).expect_ok();
    let gc =
        |valid: &[(&str, &str)]| host.plugin("tuning").json(&tuning(host, "1.1.0", &json!({}))).gc(valid);
    gc(&[("red", "eth0")]).expect_ok();
    assert_eq!(attributes(&red)["mtu"], 1300, "a valid one stays");
    gc(&[]).expect_ok();
    assert_eq!(attributes(&red)["mtu"], mtu);
    assert!(!host.lab.path("tuning/red_eth0.json").exists());
    Ok(())
}

pub(crate) fn gc_without_a_list_refuses(host: &Host) -> Done {
    let conf = tuning(host, "1.1.0", &json!({})).to_string();
    let call = host.plugin("tuning").conf(conf).env("CNI_COMMAND", "GC").env("CNI_PATH", "/x");
    let refused = call.bare();
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("cni.dev/valid-attachments is missing"), "{refused}");
    Ok(())
}

pub(crate) fn status_is_ready(host: &Host) -> Done {
    host.plugin("tuning").json(&tuning(host, "1.1.0", &json!({"mtu": 1300}))).status().expect_ok();
    Ok(())
}

fn round_trip(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    red.ip("link add eth0 type veth peer name far0");
    let mut conf = tuning(host, version, &json!({"mtu": 1300}));
    let interface = json!({"name": "eth0", "sandbox": red.netns().display().to_string()});
    let mut ip = json!({"version": "4", "address": "10.1.2.2/24", "interface": 0});
    if version >= "1.0.0" {
        ip.as_object_mut().unwrap().remove("version");
    }
    conf["prevResult"] = json!({"cniVersion": version, "interfaces": [interface], "ips": [ip], "dns": {}});
    if version < "0.3.0" {
        conf["prevResult"] = json!({"cniVersion": version, "ip4": {"ip": "10.1.2.2/24"}, "dns": {}});
    }
    let call = host.plugin("tuning").json(&conf);
    let told = call.add(&red).expect_json();
    assert_eq!(told["cniVersion"], version);
    assert_eq!(attributes(&red)["mtu"], 1300);
    if version >= "0.4.0" {
        call.check(&red).expect_ok();
    }
    call.del(&red).expect_ok();
    assert_eq!(attributes(&red)["mtu"], 1500);
    Ok(())
}

crate::suite::round_trips!();

crate::suite::stories! { tuning: round_trips
    the_mac_changes
    the_mac_of_the_runtime_changes
    the_mac_of_cni_args_changes
    the_mac_of_the_arguments_changes
    the_mtu_changes
    the_mtu_of_the_arguments_changes
    it_becomes_promiscuous
    it_becomes_promiscuous_by_arguments
    the_queue_becomes_longer
    the_queue_becomes_longer_by_arguments
    it_hears_all_groups
    it_hears_all_groups_by_arguments
    a_sysctl_twice_is_refused
    a_sysctl_of_the_machine_is_refused
    a_mac_that_is_none_is_refused
    arguments_alone_are_refused_as_well
    the_previous_result_is_passed_on
    without_a_previous_result_it_is_refused
    a_sysctl_is_set_for_the_interface
    del_puts_a_sysctl_back
    a_failed_add_changes_nothing
    check_sees_what_was_changed_back
    a_mac_in_capitals_passes_check
    del_without_a_namespace_forgets
    del_of_what_never_was_succeeds
    gc_takes_what_is_not_valid
    gc_without_a_list_refuses
    status_is_ready
}
