//! What every plugin that makes an interface must do, whatever kind of interface it is.

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::suite::{Done, Host, Lack};

mod master;
mod section;
pub(crate) use master::*;
pub(crate) use section::attached_section;

/// A plugin, and how it is used.
pub(crate) struct Subject {
    pub(crate) plugin: &'static str,
    /// Makes what the configuration needs of the host.
    pub(crate) prepare: fn(&Host) -> Result<(), Lack>,
    /// The plugin's configuration without `ipam`.
    pub(crate) conf: fn(&str) -> Value,
}

macro_rules! versions_of {
    ($story:ident: $($name:ident $version:literal)*) => {
        $(pub(crate) fn $name(host: &Host, subject: &Subject) -> Done {
            $story(host, subject, $version)
        })*
    };
}

versions_of! { round_trip:
    round_trip_0_1_0 "0.1.0"
    round_trip_0_2_0 "0.2.0"
    round_trip_0_3_0 "0.3.0"
    round_trip_0_3_1 "0.3.1"
    round_trip_0_4_0 "0.4.0"
    round_trip_1_0_0 "1.0.0"
    round_trip_1_1_0 "1.1.0"
}

versions_of! { layer_2:
    l2_0_1_0 "0.1.0"
    l2_0_2_0 "0.2.0"
    l2_0_3_0 "0.3.0"
    l2_0_3_1 "0.3.1"
    l2_0_4_0 "0.4.0"
    l2_1_0_0 "1.0.0"
    l2_1_1_0 "1.1.0"
}

impl Subject {
    /// Returns a configuration with one address from each of these subnets.
    pub(crate) fn addressed(&self, host: &Host, version: &str, subnets: &[&str]) -> Value {
        let mut conf = (self.conf)(version);
        conf["ipam"] = host.ipam(subnets);
        conf
    }

    fn one(&self, host: &Host, version: &str) -> Value {
        self.addressed(host, version, &["10.1.2.0/24"])
    }
}

pub(crate) fn refused(host: &Host, subject: &Subject, conf: &Value, message: &str) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let refused = host.plugin(subject.plugin).json(conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains(message), "wanted {message:?}: {refused}");
    assert!(host.leases().is_empty(), "the address stayed");
    assert!(!red.has_link("eth0"), "the interface stayed");
    Ok(())
}

/// ADD, CHECK and DEL in one version of the specification, with both families.
fn round_trip(host: &Host, subject: &Subject, version: &str) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let conf = subject.addressed(host, version, &["10.1.2.0/24", "2001:db8:1::/64"]);
    let result = host.plugin(subject.plugin).json(&conf).add(&red).expect_json();

    assert_eq!(result["cniVersion"], version);
    if ["0.1.0", "0.2.0"].contains(&version) {
        assert_eq!(result["ip4"]["ip"], "10.1.2.2/24");
        assert_eq!(result["ip6"]["ip"], "2001:db8:1::2/64");
    } else {
        let interfaces = result["interfaces"].as_array().unwrap();
        let index = result["ips"][0]["interface"].as_u64().unwrap();
        let told = &interfaces[usize::try_from(index).unwrap()];
        assert_eq!(told["name"], "eth0");
        assert_eq!(told["sandbox"], json!(red.netns()));
        assert_eq!(told["mac"], red.link("eth0")["address"]);
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
        assert_eq!(result["ips"][0]["gateway"], "10.1.2.1");
        assert_eq!(result["ips"][1]["address"], "2001:db8:1::2/64");
        assert_eq!(result["ips"][1]["interface"], index);
    }
    assert_eq!(red.addresses("eth0"), ["10.1.2.2/24", "2001:db8:1::2/64"]);
    assert!(red.link("eth0")["flags"].as_array().unwrap().contains(&json!("UP")));

    if !["0.1.0", "0.2.0", "0.3.0", "0.3.1"].contains(&version) {
        let check = host.plugin(subject.plugin).json(&conf).prev_result(&result).check(&red);
        assert_eq!(check.expect_ok(), "");
    } else {
        let check = host.plugin(subject.plugin).json(&conf).prev_result(&result).check(&red);
        assert!(check.stdout.contains("config version does not allow CHECK"), "{check}");
    }
    assert_eq!(host.plugin(subject.plugin).json(&conf).del(&red).expect_ok(), "");
    assert!(!red.has_link("eth0"));
    assert!(host.leases().is_empty());
    Ok(())
}

/// ADD and DEL without addresses. The two oldest versions have no result without an address.
fn layer_2(host: &Host, subject: &Subject, version: &str) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let call = host.plugin(subject.plugin).json(&(subject.conf)(version));
    let added = call.add(&red);
    if ["0.1.0", "0.2.0"].contains(&version) {
        assert_ne!(added.code, 0);
        assert!(added.stdout.contains("cannot convert: no valid IP addresses"), "{added}");
    } else {
        let result = added.expect_json();
        let interfaces = result["interfaces"].as_array().unwrap();
        assert_eq!(interfaces.len(), 1, "{result}");
        assert_eq!(interfaces[0]["name"], "eth0");
        assert_eq!(interfaces[0]["mac"], red.link("eth0")["address"]);
        assert!(result["ips"].is_null());
        assert!(red.addresses("eth0").is_empty());
        assert!(red.link("eth0")["flags"].as_array().unwrap().contains(&json!("UP")));
    }
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(())
}

pub(crate) fn check_sees_a_link_of_another_kind(host: &Host, subject: &Subject) -> Done {
    check_refuses(host, subject, |_, red| {
        let mac = red.link("eth0")["address"].as_str().unwrap().to_string();
        red.ip("link delete eth0");
        red.ip(&format!("link add eth0 address {mac} type veth peer name other0"));
        red.ip("link set other0 up");
        red.ip("address add 10.1.2.2/24 dev eth0");
        red.ip("link set eth0 up");
        red.ip("route add default via 10.1.2.1");
    })
}

pub(crate) fn del_of_what_never_was_succeeds(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    host.plugin(subject.plugin).json(&subject.one(host, "1.0.0")).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn del_twice_succeeds(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let call = host.plugin(subject.plugin).json(&subject.one(host, "1.0.0"));
    call.add(&red).expect_ok();
    assert!(red.has_link("eth0"));
    call.del(&red).expect_ok();
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(())
}

fn del_without(host: &Host, subject: &Subject, netns: Option<&str>, gone: fn(&Container)) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let conf = subject.one(host, "1.0.0");
    host.plugin(subject.plugin).json(&conf).add(&red).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2"]);
    gone(&red);
    let call = host.plugin(subject.plugin).json(&conf);
    let call = if let Some(path) = netns { call.netns(path) } else { call };
    call.del(&red).expect_ok();
    assert!(host.leases().is_empty(), "the address stayed");
    Ok(())
}

pub(crate) fn del_frees_the_address_when_the_namespace_is_gone(host: &Host, subject: &Subject) -> Done {
    del_without(host, subject, None, Container::vanish)
}

pub(crate) fn del_frees_the_address_when_no_namespace_is_given(host: &Host, subject: &Subject) -> Done {
    del_without(host, subject, Some(""), Container::vanish)
}

pub(crate) fn del_frees_the_address_when_a_plain_file_is_left(host: &Host, subject: &Subject) -> Done {
    del_without(host, subject, None, Container::vanish_leaving_a_file)
}

pub(crate) fn del_frees_the_address_when_the_link_is_gone(host: &Host, subject: &Subject) -> Done {
    del_without(host, subject, None, |red| drop(red.ip("link delete eth0")))
}

pub(crate) fn a_taken_name_is_refused_and_nothing_is_left(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    red.ip("link add eth0 type veth peer name other0");
    let index = red.link("eth0")["ifindex"].clone();
    let refused = host.plugin(subject.plugin).json(&subject.one(host, "1.0.0")).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert_eq!(red.link("eth0")["ifindex"], index, "the interface that was there is another one");
    assert_eq!(host.leases(), [""; 0], "the address stayed");
    let links = red.ip("-brief link");
    assert_eq!(links.lines().count(), 3, "something was left: {links}");
    Ok(())
}

pub(crate) fn a_route_out_of_reach_leaves_nothing(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let mut conf = subject.one(host, "1.0.0");
    conf["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.9"}]);
    let refused = host.plugin(subject.plugin).json(&conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(host.leases().is_empty(), "the address stayed");
    assert!(!red.has_link("eth0"), "the interface stayed");
    Ok(())
}

pub(crate) fn an_address_plugin_without_an_address_is_refused(host: &Host, subject: &Subject) -> Done {
    let mut conf = (subject.conf)("1.0.0");
    conf["ipam"] = json!({"type": "static"});
    refused(host, subject, &conf, "IPAM plugin returned missing IP config")
}

pub(crate) fn the_dns_of_the_address_plugin_is_passed_on(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let mut conf = (subject.conf)("1.0.0");
    conf["ipam"] = json!({
        "type": "static", "addresses": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}],
        "dns": {"nameservers": ["10.1.2.53"]},
    });
    let result = host.plugin(subject.plugin).json(&conf).add(&red).expect_json();
    assert_eq!(result["dns"], json!({"nameservers": ["10.1.2.53"]}));
    Ok(())
}

pub(crate) fn the_dns_of_the_network_wins(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let mut conf = subject.one(host, "1.0.0");
    conf["dns"] = json!({"nameservers": ["192.0.2.53"], "search": ["a.example"]});
    let result = host.plugin(subject.plugin).json(&conf).add(&red).expect_json();
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"], "search": ["a.example"]}));
    Ok(())
}

fn check_refuses(host: &Host, subject: &Subject, break_it: fn(&Host, &Container)) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let mut conf = subject.one(host, "1.0.0");
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    let result = host.plugin(subject.plugin).json(&conf).add(&red).expect_json();
    let call = host.plugin(subject.plugin).json(&conf).prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    break_it(host, &red);
    let refused = call.check(&red);
    assert_ne!(refused.code, 0, "CHECK saw nothing: {refused}");
    let error: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert!(error["msg"].as_str().is_some_and(|text| !text.is_empty()), "{refused}");
    Ok(())
}

pub(crate) fn check_sees_a_lost_interface(host: &Host, subject: &Subject) -> Done {
    check_refuses(host, subject, |_, red| drop(red.ip("link delete eth0")))
}

pub(crate) fn check_sees_a_lost_address(host: &Host, subject: &Subject) -> Done {
    check_refuses(host, subject, |_, red| drop(red.ip("address delete 10.1.2.2/24 dev eth0")))
}

pub(crate) fn check_sees_a_lost_default_route(host: &Host, subject: &Subject) -> Done {
    check_refuses(host, subject, |_, red| drop(red.ip("route delete default")))
}

pub(crate) fn check_sees_a_lost_reservation(host: &Host, subject: &Subject) -> Done {
    check_refuses(host, subject, |host, _| {
        std::fs::remove_file(host.lab.path("leases/n1/10.1.2.2")).unwrap();
    })
}

pub(crate) fn check_needs_a_previous_result(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let conf = subject.one(host, "1.0.0");
    host.plugin(subject.plugin).json(&conf).add(&red).expect_ok();
    let refused = host.plugin(subject.plugin).json(&conf).check(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("Required prevResult missing"), "{refused}");
    Ok(())
}

pub(crate) fn gc_removes_what_is_not_valid(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let conf = subject.one(host, "1.1.0");
    host.plugin(subject.plugin).json(&conf).add(&red).expect_ok();
    host.plugin(subject.plugin).json(&conf).add(&green).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2", "10.1.2.3"]);
    host.plugin(subject.plugin).json(&conf).gc(&[("red", "eth0")]).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2"]);
    assert!(red.has_link("eth0"), "GC took a valid attachment");
    assert!(!green.has_link("eth0"), "GC left what is not valid");
    Ok(())
}

pub(crate) fn gc_without_a_list_refuses(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let red = host.lab.container("red");
    let conf = subject.one(host, "1.1.0");
    host.plugin(subject.plugin).json(&conf).add(&red).expect_ok();
    let call = host.plugin(subject.plugin).json(&conf);
    let call = call.env("CNI_COMMAND", "GC").env("CNI_PATH", "/nowhere").bare();
    assert_ne!(call.code, 0, "{call}");
    assert!(red.has_link("eth0"));
    assert_eq!(host.leases(), ["10.1.2.2"]);
    Ok(())
}

pub(crate) fn status_fails_when_the_address_plugin_is_missing(host: &Host, subject: &Subject) -> Done {
    (subject.prepare)(host)?;
    let good = subject.one(host, "1.1.0");
    host.plugin(subject.plugin).json(&good).status().expect_ok();
    let mut bad = good;
    bad["ipam"]["type"] = json!("nobody");
    assert_ne!(host.plugin(subject.plugin).json(&bad).status().code, 0);
    Ok(())
}
