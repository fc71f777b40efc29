//! `macvlan`: a MAC address of its own on a link of the host.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_section};
use crate::suite::{Done, Host, Lack};

const MACVLAN: Subject = Subject { plugin: "macvlan", prepare, conf };

fn prepare(host: &Host) -> Result<(), Lack> {
    host.lab.wire();
    match host.lab.has_link_type_on("up0", "macvlan mode bridge") {
        true => Ok(()),
        false => Err(Lack("links of type macvlan (CONFIG_MACVLAN)")),
    }
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "macvlan", "master": "up0"})
}

pub(crate) fn every_mode_can_be_asked_for(host: &Host) -> Done {
    prepare(host)?;
    for mode in ["bridge", "private", "vepa", "passthru"] {
        let red = host.lab.container(mode);
        let mut conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
        conf["mode"] = json!(mode);
        host.plugin("macvlan").json(&conf).add(&red).expect_ok();
        assert_eq!(red.link("eth0")["linkinfo"]["info_data"]["mode"], mode);
        host.plugin("macvlan").json(&conf).del(&red).expect_ok();
    }
    Ok(())
}

pub(crate) fn an_unknown_mode_is_refused(host: &Host) -> Done {
    let mut conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["mode"] = json!("l9");
    attached::refused(host, &MACVLAN, &conf, "unknown macvlan mode")
}

pub(crate) fn check_sees_another_mode(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    let result = host.plugin("macvlan").json(&conf).add(&red).expect_json();
    red.ip("link set eth0 type macvlan mode private");
    let refused = host.plugin("macvlan").json(&conf).prev_result(&result).check(&red);
    let text = "macvlan mode private does not match expected value: bridge";
    assert!(refused.stdout.contains(text), "{refused}");
    Ok(())
}

pub(crate) fn private_containers_reach_the_wire_and_not_each_other(host: &Host) -> Done {
    prepare(host)?;
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let mut conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["mode"] = json!("private");
    host.plugin("macvlan").json(&conf).add(&red).expect_ok();
    host.plugin("macvlan").json(&conf).add(&green).expect_ok();
    weft_testkit::reaches(&red, ["10.1.2.1"]);
    weft_testkit::reaches(&green, ["10.1.2.1"]);
    weft_testkit::does_not_reach(&red, ["10.1.2.3"]);
    Ok(())
}

fn mac_of(host: &Host, conf: &Value, args: &str, name: &str) -> String {
    let container = host.lab.container(name);
    host.plugin("macvlan").json(conf).args(args).add(&container).expect_ok();
    container.link("eth0")["address"].as_str().unwrap().to_string()
}

pub(crate) fn a_mac_can_be_asked_for_in_three_ways(host: &Host) -> Done {
    prepare(host)?;
    let mut conf = conf("1.0.0");
    conf["mac"] = json!("c2:11:22:33:44:55");
    assert_eq!(mac_of(host, &conf, "", "a"), "c2:11:22:33:44:55");
    assert_eq!(mac_of(host, &conf, "MAC=c2:11:22:33:44:66", "b"), "c2:11:22:33:44:66");
    conf["runtimeConfig"] = json!({"mac": "c2:11:22:33:44:77"});
    assert_eq!(mac_of(host, &conf, "MAC=c2:11:22:33:44:88", "c"), "c2:11:22:33:44:77");
    Ok(())
}

pub(crate) fn the_broadcast_queue_has_the_length_asked_for(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["bcqueuelen"] = json!(50);
    host.plugin("macvlan").json(&conf).add(&red).expect_ok();
    assert_eq!(red.link("eth0")["linkinfo"]["info_data"]["bcqueuelen"], 50);
    Ok(())
}

pub(crate) fn neighbours_are_told(host: &Host) -> Done {
    prepare(host)?;
    let red = host.lab.container("red");
    let conf = MACVLAN.addressed(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    host.plugin("macvlan").json(&conf).add(&red).expect_ok();
    assert_eq!(red.sysctl("ipv4/conf/eth0/arp_notify"), "1");
    assert_eq!(red.sysctl("ipv6/conf/eth0/ndisc_notify"), "1");
    Ok(())
}

attached_section! { macvlan: MACVLAN
    [every layer_2 on_a_link sharing_a_link]
    [check_sees_a_link_of_another_kind gc_removes_what_is_not_valid]
    every_mode_can_be_asked_for
    an_unknown_mode_is_refused
    check_sees_another_mode
    private_containers_reach_the_wire_and_not_each_other
    a_mac_can_be_asked_for_in_three_ways
    the_broadcast_queue_has_the_length_asked_for
    neighbours_are_told
}
