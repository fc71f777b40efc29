//! The `host-device` plugin against the kernel: the host gets its device back as it was.

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, skip_unless};

use crate::main_plugins::Subject;

/// A device with a state of its own: up, with addresses, an alias and an MTU.
pub(crate) const HOST_DEVICE: Subject = Subject {
    plugin: "host-device",
    there: |_| Ok(()),
    prepare: |lab| {
        lab.wire();
        lab.ip("link set up0 down alias uplink mtu 1400 address 02:00:00:00:00:09");
        lab.ip("link set up0 up");
        lab.ip("address add 192.0.2.7/24 dev up0");
        lab.ip("address add 2001:db8:7::7/64 dev up0 nodad");
    },
    conf,
};

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "host-device", "device": "up0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    })
}

/// The device as the host sees it, without what the kernel numbers anew.
fn device(lab: &Lab) -> Value {
    let link = lab.ip_json("address show dev up0")[0].clone();
    let addresses = link["addr_info"].as_array().unwrap().iter();
    let addresses: Vec<_> = addresses
        .filter(|one| one["scope"] == "global")
        .map(|one| json!([one["local"], one["prefixlen"]]))
        .collect();
    let up = link["flags"].as_array().unwrap().contains(&json!("UP"));
    json!([link["ifname"], link["ifalias"], link["mtu"], link["address"], up, addresses])
}

fn del_gives_it_back(lose: fn(&Lab, &Container), netns: Option<&str>) {
    let lab = Lab::new();
    let red = lab.container("red");
    (HOST_DEVICE.prepare)(&lab);
    let before = device(&lab);
    assert_eq!(before[1], "uplink");
    let call = lab.plugin("host-device").json(&conf());
    call.add(&red).expect_ok();
    assert!(!lab.has_link("up0") && red.has_link("eth0"));
    lose(&lab, &red);
    let call = if let Some(path) = netns { call.netns(path) } else { call };
    call.del(&red).expect_ok();
    assert_eq!(device(&lab), before);
    call.del(&red).expect_ok();
    assert_eq!(device(&lab), before);
}

#[test]
fn del_gives_the_device_back_as_it_was() {
    del_gives_it_back(|_, _| (), None);
}

#[test]
fn del_gives_it_back_when_no_namespace_is_given() {
    del_gives_it_back(|_, _| (), Some(""));
}

#[test]
fn del_gives_it_back_whatever_was_done_to_it_meanwhile() {
    let done = |_: &Lab, red: &Container| {
        red.ip("link set eth0 mtu 1300");
        red.ip("address add 198.51.100.1/24 dev eth0");
    };
    del_gives_it_back(done, None);
}

/// KERNEL: a device of the machine comes back by itself, under the name it had in the container. A veth does not, so
/// one is made that looks like it.
#[test]
fn del_finds_it_when_it_came_back_by_itself() {
    let came_back = |lab: &Lab, red: &Container| {
        red.vanish();
        lab.ip("link add eth0 address 02:00:00:00:00:09 mtu 1400 type veth peer name other0");
        lab.ip("link set eth0 alias up0");
    };
    del_gives_it_back(came_back, None);
    del_gives_it_back(came_back, Some(""));
}

#[test]
fn without_a_record_its_name_is_all_that_is_known() {
    let lab = Lab::new();
    let red = lab.container("red");
    (HOST_DEVICE.prepare)(&lab);
    lab.plugin("host-device").json(&conf()).add(&red).expect_ok();
    std::fs::remove_dir_all(lab.path("run/weft/attachments")).unwrap();
    lab.plugin("host-device").json(&conf()).del(&red).expect_ok();
    assert!(lab.has_link("up0") && !red.has_link("eth0"));
}

#[test]
fn what_was_never_lent_is_not_taken() {
    let lab = Lab::new();
    let red = lab.container("red");
    red.ip("link add eth0 type veth peer name other0");
    let refused = lab.plugin("host-device").json(&conf()).del(&red);
    assert!(refused.stdout.contains("failed to find original ifname for"), "{refused}");
    assert!(red.has_link("eth0"));
}

#[test]
fn a_failure_half_way_gives_the_device_back() {
    let lab = Lab::new();
    let red = lab.container("red");
    (HOST_DEVICE.prepare)(&lab);
    let before = device(&lab);
    let mut bad = conf();
    bad["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.9"}]);
    let refused = lab.plugin("host-device").json(&bad).add(&red);
    assert!(refused.stdout.contains("198.51.100.0/24"), "{refused}");
    assert_eq!(device(&lab), before);
    lab.plugin("host-device").json(&conf()).add(&red).expect_ok();
}

#[test]
fn gc_gives_back_what_is_not_valid() {
    let lab = Lab::new();
    let red = lab.container("red");
    (HOST_DEVICE.prepare)(&lab);
    let before = device(&lab);
    lab.plugin("host-device").json(&conf()).add(&red).expect_ok();
    lab.plugin("host-device").json(&conf()).gc(&[("red", "eth0")]).expect_ok();
    assert!(red.has_link("eth0"), "GC took a valid attachment");
    lab.plugin("host-device").json(&conf()).gc(&[]).expect_ok();
    assert_eq!(device(&lab), before);
}

#[test]
fn what_is_connected_is_not_connected_again() {
    HOST_DEVICE.second_add_is_refused();
}

#[test]
fn status_says_when_the_device_is_missing() {
    let lab = Lab::new();
    (HOST_DEVICE.prepare)(&lab);
    lab.plugin("host-device").json(&conf()).status().expect_ok();
    lab.ip("link delete up0");
    let refused = lab.plugin("host-device").json(&conf()).status();
    assert!(refused.stdout.contains("\"code\": 50"), "{refused}");
}

#[test]
fn upstreams_plugin_and_ours_give_back_what_the_other_took() {
    let upstream = std::path::Path::new("/usr/lib/cni");
    skip_unless!(upstream.join("host-device").exists(), "Debian's package containernetworking-plugins");
    let lab = Lab::new();
    let mut conf = conf();
    conf["cniVersion"] = json!("1.0.0");
    conf["ipam"] = json!({});
    lab.wire();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let (ours, theirs) =
        (lab.plugin("host-device").json(&conf), lab.plugin_in(upstream, "host-device").json(&conf));
    theirs.add(&red).expect_ok();
    ours.del(&red).expect_ok();
    assert!(lab.has_link("up0"), "ours did not give back what upstream's took");
    ours.add(&green).expect_ok();
    theirs.del(&green).expect_ok();
    assert!(lab.has_link("up0"), "upstream's did not give back what ours took");
}
