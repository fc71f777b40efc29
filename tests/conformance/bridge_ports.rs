//! `bridge`: what its ports are like.

use serde_json::{Value, json};

use crate::bridge::{conf, gateway, refused};
use crate::suite::{Done, Host, Lack};

fn port_setting(host: &Host, key: &str, value: &Value, setting: &str) -> Value {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf[key] = value.clone();
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    let name = result["interfaces"][1]["name"].as_str().unwrap();
    host.lab.ip_json(&format!("link show dev {name}"))[0]["linkinfo"]["info_slave_data"][setting].clone()
}

pub(crate) fn hairpin_is_on_when_asked_for(host: &Host) -> Done {
    assert_eq!(port_setting(host, "hairpinMode", &json!(true), "hairpin"), true);
    Ok(())
}

pub(crate) fn hairpin_is_off_otherwise(host: &Host) -> Done {
    assert_eq!(port_setting(host, "hairpinMode", &json!(false), "hairpin"), false);
    Ok(())
}

pub(crate) fn ports_are_isolated_when_asked_for(host: &Host) -> Done {
    assert_eq!(port_setting(host, "portIsolation", &json!(true), "isolated"), true);
    Ok(())
}

pub(crate) fn isolated_ports_do_not_reach_each_other(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["portIsolation"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    host.plugin("bridge").json(&conf).add(&green).expect_ok();
    assert!(red.ping("10.1.2.1"), "the gateway is no isolated port");
    assert!(!red.ping("10.1.2.3"));
    Ok(())
}

pub(crate) fn the_bridge_is_promiscuous_when_asked_for(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["promiscMode"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let flags = host.lab.ip_json("link show dev br0")[0]["flags"].take();
    assert!(flags.as_array().unwrap().contains(&json!("PROMISC")), "{flags}");
    Ok(())
}

pub(crate) fn hairpin_and_promiscuous_exclude_each_other(host: &Host) -> Done {
    let mut conf = conf("1.0.0");
    conf["promiscMode"] = json!(true);
    conf["hairpinMode"] = json!(true);
    refused(host, &conf, "cannot set hairpin mode and promiscuous mode at the same time")
}

pub(crate) fn an_interface_that_stays_down_has_no_addresses(host: &Host) -> Done {
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["disableContainerInterface"] = json!(true);
    refused(host, &conf, "cannot use IPAM when DisableContainerInterface flag is set")
}

pub(crate) fn the_container_interface_stays_down_when_asked_for(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["disableContainerInterface"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let flags = red.link("eth0")["flags"].clone();
    assert!(!flags.as_array().unwrap().contains(&json!("UP")), "{flags}");
    Ok(())
}

pub(crate) fn vlan_ids_have_a_range(host: &Host) -> Done {
    for vlan in [5000, -100] {
        let mut conf = conf("1.0.0");
        conf["vlan"] = json!(vlan);
        let red = host.lab.container(&format!("red{vlan}"));
        let refused = host.plugin("bridge").json(&conf).add(&red);
        assert_ne!(refused.code, 0);
        let message = format!("invalid VLAN ID {vlan} (must be between 0 and 4094)");
        assert!(refused.stdout.contains(&message), "{refused}");
    }
    Ok(())
}

pub(crate) fn trunks_have_rules(host: &Host) -> Done {
    let cases = [
        (json!([{"minID": 0, "maxID": 10}]), "incorrect trunk minID parameter"),
        (json!([{"minID": 10, "maxID": 5000}]), "incorrect trunk maxID parameter"),
        (json!([{"minID": 20, "maxID": 10}]), "minID is greater than maxID in trunk parameter"),
        (json!([{"maxID": 10}]), "minID and maxID should be configured simultaneously, minID is missing"),
        (json!([{"minID": 10}]), "minID and maxID should be configured simultaneously, maxID is missing"),
        (json!([{"id": 5000}]), "incorrect trunk id parameter"),
    ];
    for (index, (trunk, message)) in cases.iter().enumerate() {
        let mut conf = conf("1.0.0");
        conf["vlanTrunk"] = trunk.clone();
        let red = host.lab.container(&format!("red{index}"));
        let refused = host.plugin("bridge").json(&conf).add(&red);
        assert_ne!(refused.code, 0, "{trunk}");
        assert!(refused.stdout.contains(message), "{trunk}: {refused}");
    }
    Ok(())
}

pub(crate) fn a_vlan_is_the_ports_own(host: &Host) -> Done {
    if !host.lab.has_link_type("bridge vlan_filtering 1") {
        return Err(Lack("a kernel with CONFIG_BRIDGE_VLAN_FILTERING"));
    }
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["vlan"] = json!(100);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    // By its path: in a lab, `bridge` alone is the plugin.
    let vlans = host.lab.sh("/sbin/bridge vlan show").expect_ok().to_string();
    assert!(vlans.contains("100 PVID Egress Untagged"), "{vlans}");
    Ok(())
}

pub(crate) fn ports_are_in_the_vlans_asked_for(host: &Host) -> Done {
    if !host.lab.has_link_type("bridge vlan_filtering 1") {
        return Err(Lack("a kernel with CONFIG_BRIDGE_VLAN_FILTERING"));
    }
    let trunk = json!([{"id": 101}, {"minID": 200, "maxID": 202}]);
    // Of each VLAN the port's own: where frames without a tag go, `*`.
    let cases = [
        (json!({"vlanTrunk": trunk}), "1* 101 200 201 202"),
        (json!({"vlan": 100, "vlanTrunk": trunk}), "100* 101 200 201 202"),
        (json!({"vlan": 100}), "100*"),
        (json!({"vlan": 100, "preserveDefaultVlan": false}), "100*"),
        (json!({"vlan": 100, "preserveDefaultVlan": true}), "1 100*"),
    ];
    for (number, (keys, expected)) in cases.iter().enumerate() {
        let red = host.lab.container(&format!("red{number}"));
        let mut conf = conf("1.0.0");
        for (key, value) in keys.as_object().unwrap() {
            conf[key] = value.clone();
        }
        let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        // By its path: in a lab, `bridge` alone is the plugin.
        let listing = host.lab.sh(&format!("/sbin/bridge -j vlan show dev {port}")).expect_json();
        let vlans = listing[0]["vlans"].as_array().unwrap().iter();
        let own = |vlan: &Value| vlan["flags"].as_array().is_some_and(|flags| flags.contains(&json!("PVID")));
        let found: Vec<String> =
            vlans.map(|vlan| format!("{}{}", vlan["vlan"], if own(vlan) { "*" } else { "" })).collect();
        assert_eq!(found.join(" "), *expected, "{keys}");
        host.plugin("bridge").json(&conf).prev_result(&result).del(&red).expect_ok();
    }
    Ok(())
}

pub(crate) fn a_vlan_has_a_gateway_of_its_own(host: &Host) -> Done {
    if !host.lab.has_link_type("bridge vlan_filtering 1") {
        return Err(Lack("a kernel with CONFIG_BRIDGE_VLAN_FILTERING"));
    }
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    conf["vlan"] = json!(100);
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    let carrier = format!("{}.100", conf["bridge"].as_str().unwrap());
    let names: Vec<&str> = result["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|interface| interface["name"].as_str().unwrap())
        .collect();
    assert!(names.len() == 4 && names.contains(&carrier.as_str()), "{names:?}");
    let addresses = host.lab.ip(&format!("address show dev {carrier}"));
    assert!(addresses.contains("10.1.2.1/24") && addresses.contains("2001:db8:1::1/64"), "{addresses}");
    let bridges = host.lab.ip(&format!("-4 address show dev {}", conf["bridge"].as_str().unwrap()));
    assert!(!bridges.contains("10.1.2.1"), "{bridges}");
    assert!(red.ping("10.1.2.1"), "the way leads through the VLAN");
    // A second container finds it there.
    let green = host.lab.container("green");
    let of_green = host.plugin("bridge").json(&conf).add(&green).expect_json();
    assert!(green.ping("10.1.2.1"));
    host.plugin("bridge").json(&conf).prev_result(&of_green).del(&green).expect_ok();
    assert!(red.ping("10.1.2.1"), "it stays for the others");
    Ok(())
}

crate::suite::stories! { bridge_ports:
    hairpin_is_on_when_asked_for
    hairpin_is_off_otherwise
    ports_are_isolated_when_asked_for
    isolated_ports_do_not_reach_each_other
    the_bridge_is_promiscuous_when_asked_for
    hairpin_and_promiscuous_exclude_each_other
    an_interface_that_stays_down_has_no_addresses
    the_container_interface_stays_down_when_asked_for
    vlan_ids_have_a_range
    trunks_have_rules
    a_vlan_is_the_ports_own
    ports_are_in_the_vlans_asked_for
    a_vlan_has_a_gateway_of_its_own
}
