//! `ipvlan`: addresses of its own on a link of the host.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_section};
use crate::suite::{Done, Host, Lack};

const IPVLAN: Subject = Subject { plugin: "ipvlan", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    host.lab.wire();
    match host.lab.has_link_type_on("up0", "ipvlan mode l2") {
        true => Ok(()),
        false => Err(Lack("links of type ipvlan (CONFIG_IPVLAN)")),
    }
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "ipvlan", "master": "up0"})
}

pub(crate) fn every_mode_can_be_asked_for(host: &Host) -> Done {
    prepare(host)?;
    for mode in ["l2", "l3", "l3s"] {
        let red = host.lab.container(mode);
        let mut conf = IPVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
        conf["mode"] = json!(mode);
        host.plugin("ipvlan").json(&conf).add(&red).expect_ok();
        assert_eq!(red.link("eth0")["linkinfo"]["info_data"]["mode"], mode);
        host.plugin("ipvlan").json(&conf).del(&red).expect_ok();
    }
    Ok(())
}

pub(crate) fn an_unknown_mode_is_refused(host: &Host) -> Done {
    let mut conf = IPVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["mode"] = json!("l9");
    attached::refused(host, &IPVLAN, &conf, "unknown ipvlan mode")
}

pub(crate) fn check_sees_another_mode(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = IPVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    let result = host.plugin("ipvlan").json(&conf).add(&red).expect_json();
    red.ip("link set eth0 type ipvlan mode l3");
    let refused = host.plugin("ipvlan").json(&conf).prev_result(&result).check(&red);
    let text = "mode l3 does not match expected value: l2";
    assert!(refused.stdout.contains(text), "{refused}");
    Ok(())
}

fn chained(interfaces: &Value) -> Value {
    let mut conf = conf("1.0.0");
    conf.as_object_mut().unwrap().remove("master");
    conf["prevResult"] = json!({
        "cniVersion": "1.0.0", "interfaces": interfaces,
        "ips": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    conf
}

pub(crate) fn behind_another_plugin_it_takes_its_interface_and_addresses(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = chained(&json!([{"name": "up0"}]));
    let call = host.plugin("ipvlan").json(&conf);
    let result = call.add(&red).expect_json();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 1, "{result}");
    assert_eq!(result["interfaces"][0]["name"], "eth0");
    assert_eq!(result["ips"][0]["address"], "10.1.2.9/24");
    assert_eq!(result["ips"][0]["interface"], 0);
    assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
    weft_testkit::reaches(&red, ["10.1.2.1"]);
    let call = host.plugin("ipvlan").json(&conf).prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(())
}

pub(crate) fn behind_a_plugin_with_two_interfaces_a_master_must_be_named(host: &Host) -> Done {
    let conf = chained(&json!([{"name": "up0"}, {"name": "up1"}]));
    attached::refused(
        host,
        &IPVLAN,
        &conf,
        "chained master failure. PrevResult lacks a single named interface",
    )
}

pub(crate) fn alone_it_needs_an_address_plugin(host: &Host) -> Done {
    attached::refused(host, &IPVLAN, &conf("1.0.0"), "no plugin name provided")
}

attached_section! { ipvlan: IPVLAN
    [every on_a_link sharing_a_link]
    [check_sees_a_link_of_another_kind gc_removes_what_is_not_valid]
    every_mode_can_be_asked_for
    an_unknown_mode_is_refused
    check_sees_another_mode
    behind_another_plugin_it_takes_its_interface_and_addresses
    behind_a_plugin_with_two_interfaces_a_master_must_be_named
    alone_it_needs_an_address_plugin
}
