//! VLANs of bridge ports, on kernels that have them.

#![cfg(test)]

mod lab;

use lab::{differences, kernel, lab, make, name, net};
use weft_model::VlanId;
use weft_plan::{Address, BridgeVlan, Journal, Lifetime, Link, Peer, Plan, Port, Removal, VlanRange};
use weft_testkit::{Lab, skip_unless, skipped};

fn vlan(number: i64) -> VlanId {
    VlanId::try_from(number).unwrap()
}

/// A container on a bridge that tells VLANs apart.
fn tagged(number: u8, vlans: BridgeVlan) -> Plan {
    let port = vlans.dev.clone();
    let mut plan = Plan::new();
    plan.network(Link::bridge(&name("br0")).vlan_filtering(true).up(true));
    plan.host(Link::veth(&port, Peer::container(&name("eth0"))).port(Port::of(&name("br0"))).up(true));
    plan.host(vlans);
    plan.container(Link::existing(&name("eth0")).up(true));
    plan.container(Address::on(&name("eth0"), net(&format!("10.90.0.{number}/24"))));
    plan
}

fn access(number: u8, id: i64) -> Plan {
    tagged(number, BridgeVlan::port(&name(&format!("veth{number}")), vec![VlanRange::access(vlan(id))]))
}

/// Whether this kernel has CONFIG_BRIDGE_VLAN_FILTERING; says so if not.
fn able(lab: &Lab) -> bool {
    let able = lab.has_link_type("bridge vlan_filtering 1");
    if !able {
        skipped("a kernel with VLAN filtering in bridges");
    }
    able
}

fn shown(lab: &Lab, port: &str) -> Vec<String> {
    // Not the plugin of the same name, which is first in the lab's PATH.
    let listing = lab.sh(&format!("PATH=/usr/sbin:/sbin bridge -json vlan show dev {port}"));
    let shown: serde_json::Value = serde_json::from_str(listing.expect_ok()).unwrap();
    let word = |vlan: &serde_json::Value| {
        let flags = vlan["flags"].as_array().into_iter().flatten().filter_map(|flag| flag.as_str());
        [vlan["vlan"].to_string()].into_iter().chain(flags.map(String::from)).collect::<Vec<_>>().join(" ")
    };
    shown[0]["vlans"].as_array().into_iter().flatten().map(word).collect()
}

#[test]
fn containers_see_only_their_vlan() {
    let (lab, red) = lab();
    if !able(&lab) {
        return;
    }
    let (blue, green) = (lab.container("blue"), lab.container("green"));
    for (container, number, id) in [(&red, 7, 100), (&blue, 8, 100), (&green, 9, 200)] {
        make(container, &access(number, id)).wait_up(&name(&format!("veth{number}"))).unwrap();
    }
    assert_eq!(shown(&lab, "veth7"), ["100 PVID Egress Untagged"]);
    assert!(red.ping("10.90.0.8"), "one VLAN");
    assert!(!red.ping("10.90.0.9"), "another VLAN");
    assert!(differences(&mut kernel(&red), &access(7, 100)).is_empty());
    assert_eq!(
        differences(&mut kernel(&red), &access(7, 101)),
        ["host interface veth7 is not in VLAN 101 pvid untagged"]
    );
}

#[test]
fn a_trunk_has_ranges_and_the_default_when_it_is_kept() {
    let (lab, red) = lab();
    if !able(&lab) {
        return;
    }
    let ranges = vec![VlanRange::tagged(vlan(5), vlan(7)), VlanRange::tagged(vlan(20), vlan(20))];
    let trunk = BridgeVlan::port(&name("veth7"), ranges).keep_default(true);
    let mut kernel = make(&red, &tagged(7, trunk.clone()));
    assert_eq!(shown(&lab, "veth7"), ["1 PVID Egress Untagged", "5", "6", "7", "20"]);
    assert!(differences(&mut kernel, &tagged(7, trunk)).is_empty());
    let mut own = Plan::new();
    own.network(BridgeVlan::bridge(&name("br0"), vec![VlanRange::tagged(vlan(20), vlan(20))]));
    let mut journal = Journal::default();
    kernel.ensure(&own, &mut journal).unwrap();
    assert_eq!(shown(&lab, "br0"), ["1 PVID Egress Untagged", "20"]);
    assert!(differences(&mut kernel, &own).is_empty());
}

#[test]
fn a_bridge_without_filtering_gets_it_and_loses_it_again_on_failure() {
    let (lab, red) = lab();
    if !able(&lab) {
        return;
    }
    lab.ip("link add br0 address 02:00:00:00:00:99 up type bridge");
    lab.ip("link add old type veth peer name old1");
    lab.ip("link set old master br0 up");
    let (before, vlans) = (lab.snapshot(), shown(&lab, "old"));
    let mut failing = access(7, 100);
    failing.host(BridgeVlan::port(&name("old"), vec![VlanRange::access(vlan(100))]));
    failing.host(Link::existing(&name("nobody")).up(true));
    let mut journal = Journal::default();
    let mut kernel = kernel(&red);
    kernel.ensure(&failing, &mut journal).unwrap_err();
    assert_eq!(lab.ip_json("link show br0")[0]["linkinfo"]["info_data"]["vlan_filtering"], 1);
    assert_eq!(shown(&lab, "old"), ["100 PVID Egress Untagged"]);
    assert!(journal.undo(&mut kernel).is_empty());
    lab.assert_restored(&before);
    assert_eq!(shown(&lab, "old"), vlans);
}

const LACKS: &str =
    "this kernel has no VLAN filtering for bridges: it was built without CONFIG_BRIDGE_VLAN_FILTERING";

#[test]
fn a_kernel_without_filtering_says_so() {
    let (lab, red) = lab();
    skip_unless!(!lab.has_link_type("bridge vlan_filtering 1"), "a kernel without VLAN filtering in bridges");
    let before = lab.snapshot();
    let refused = |plan: &Plan| {
        let mut journal = Journal::default();
        let mut kernel = kernel(&red);
        let error = kernel.ensure(plan, &mut journal).unwrap_err();
        assert!(journal.undo(&mut kernel).is_empty());
        error.to_string()
    };
    assert_eq!(refused(&access(7, 100)), LACKS);
    lab.assert_restored(&before);
    lab.ip("link add br0 address 02:00:00:00:00:99 up type bridge");
    assert_eq!(refused(&access(7, 100)), LACKS);
    let problems =
        kernel(&red).remove(&access(7, 100).of_lifetime(Lifetime::Attachment), Removal::Synchronous);
    assert!(problems.is_empty(), "what was never made is no problem to remove");
}
