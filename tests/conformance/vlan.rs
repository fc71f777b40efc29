//! `vlan`: one VLAN of a link of the host.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_section};
use crate::suite::{Done, Host, Lack};

const VLAN: Subject = Subject { plugin: "vlan", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    let far = host.lab.wire();
    if !host.lab.has_link_type_on("up0", "vlan id 9") {
        return Err(Lack("links of type vlan (CONFIG_VLAN_8021Q)"));
    }
    // The station answers on the VLAN and nowhere else.
    far.ip("address flush dev eth0");
    far.ip("link add link eth0 name eth0.50 type vlan id 50");
    far.ip("address add 10.1.2.1/24 dev eth0.50");
    far.ip("address add 2001:db8:1::1/64 dev eth0.50 nodad");
    far.ip("link set eth0.50 up");
    Ok(())
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "vlan", "master": "up0", "vlanId": 50})
}

pub(crate) fn the_link_has_the_tag_asked_for(host: &Host) -> Done {
    prepare(host)?;
    for id in [0, 50, 4094] {
        let red = host.lab.container(&format!("red{id}"));
        let mut conf = VLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
        conf["vlanId"] = json!(id);
        host.plugin("vlan").json(&conf).add(&red).expect_ok();
        assert_eq!(red.link("eth0")["linkinfo"]["info_data"]["id"], id);
        host.plugin("vlan").json(&conf).del(&red).expect_ok();
    }
    Ok(())
}

pub(crate) fn the_untagged_wire_is_out_of_reach(host: &Host) -> Done {
    prepare(host)?;
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let conf = VLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    host.plugin("vlan").json(&conf).add(&red).expect_ok();
    weft_testkit::reaches(&red, ["10.1.2.1"]);
    let mut other = conf;
    other["vlanId"] = json!(51);
    host.plugin("vlan").json(&other).add(&green).expect_ok();
    weft_testkit::does_not_reach(&green, ["10.1.2.1", "10.1.2.2"]);
    Ok(())
}

pub(crate) fn a_taken_tag_is_refused(host: &Host) -> Done {
    prepare(host)?;
    host.lab.ip("link add link up0 name up0.50 type vlan id 50");
    let red = host.lab.container("red");
    let refused = host.plugin("vlan").json(&VLAN.addressed(host, "1.0.0", &["10.1.2.0/24"])).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("file exists"), "{refused}");
    assert!(host.lab.has_link("up0.50") && !red.has_link("eth0"));
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn tags_have_a_range(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    for id in [-1, 4095, 4096] {
        let mut conf = VLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
        conf["vlanId"] = json!(id);
        let refused = host.plugin("vlan").json(&conf).add(&red);
        let text = format!("invalid VLAN ID {id} (must be between 0 and 4095 inclusive)");
        assert!(refused.stdout.contains(&text), "{refused}");
    }
    Ok(())
}

pub(crate) fn a_master_must_be_named(host: &Host) -> Done {
    let mut conf = VLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf.as_object_mut().unwrap().remove("master");
    attached::refused(
        host,
        &VLAN,
        &conf,
        "field is required. It specifies the host interface name to create the VLAN for",
    )
}

pub(crate) fn an_address_plugin_is_required(host: &Host) -> Done {
    attached::refused(host, &VLAN, &conf("1.0.0"), "failed to execute IPAM delegate: no plugin name provided")
}

/// A tag of a link has one link, so there is one container at a time.
pub(crate) fn gc_removes_what_is_not_valid(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = VLAN.addressed(host, "1.1.0", &["10.1.2.0/24"]);
    host.plugin("vlan").json(&conf).add(&red).expect_ok();
    host.plugin("vlan").json(&conf).gc(&[("red", "eth0")]).expect_ok();
    assert!(red.has_link("eth0"), "GC took a valid attachment");
    host.plugin("vlan").json(&conf).gc(&[]).expect_ok();
    assert!(!red.has_link("eth0"), "GC left what is not valid");
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn check_sees_another_tag(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let mut conf = VLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    let result = host.plugin("vlan").json(&conf).add(&red).expect_json();
    conf["vlanId"] = json!(51);
    let refused = host.plugin("vlan").json(&conf).prev_result(&result).check(&red);
    assert!(refused.stdout.contains("VLAN id 50, not 51"), "{refused}");
    Ok(())
}

attached_section! { vlan: VLAN
    [every on_a_link]
    [check_sees_a_link_of_another_kind]
    the_link_has_the_tag_asked_for
    the_untagged_wire_is_out_of_reach
    a_taken_tag_is_refused
    tags_have_a_range
    a_master_must_be_named
    an_address_plugin_is_required
    check_sees_another_tag
    gc_removes_what_is_not_valid
}
