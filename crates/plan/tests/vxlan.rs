//! VXLAN devices, on the real kernel.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "a test starts programs")]

mod lab;

use std::process::Command;

use lab::{kernel, lab, name};
use weft_netlink::merging;
use weft_plan::{Journal, Link, Plan, VxlanOptions};

/// What comes in by a driver has been merged there; what a program hands on, or a link that has been told not to merge, has not.
#[test]
fn it_merges_what_arrives_only_where_nobody_has_before() {
    let (lab, red) = lab();
    for words in [
        "link add like-nic type bridge",
        "link add told-not-to type bridge",
        "link add pair type veth peer name riap",
        "tuntap add tunnel mode tun",
        "tuntap add frames mode tap",
    ] {
        lab.ip(words);
    }
    let told = name("told-not-to");
    merging::set(&told, false).unwrap();
    assert!(!merging::is_on(&told).unwrap() && !merging::is_on(&name("pair")).unwrap());
    let underlays =
        [("like-nic", false), ("told-not-to", true), ("pair", false), ("tunnel", true), ("frames", true)];
    for (number, (link, merges)) in (1..).zip(underlays) {
        lab.ip(&format!("link set {link} up"));
        for (family, address) in [(4, format!("192.0.2.{number}/32")), (6, format!("2001:db8::{number}/128"))]
        {
            lab.ip(&format!("address add {address} dev {link}"));
            let (device, local) = (name(&format!("vx{number}-{family}")), address.split('/').next().unwrap());
            let options = VxlanOptions {
                vni: number * 10 + family,
                port: 4789,
                local: local.parse().unwrap(),
                checksum: true,
                alias: "ours".into(),
            };
            let mut plan = Plan::new();
            plan.network(Link::vxlan(&device, options).up(true));
            kernel(&red).ensure(&plan, &mut Journal::default()).unwrap();
            assert_eq!(merging::is_on(&device).unwrap(), merges, "over {link} by IPv{family}");
            // What somebody decides about the device is left as it is.
            merging::set(&device, !merges).unwrap();
            kernel(&red).ensure(&plan, &mut Journal::default()).unwrap();
            assert_eq!(merging::is_on(&device).unwrap(), !merges);
        }
    }
    // The address of nobody, and a link that is not there.
    assert!(merging::is_on(&name("vx0")).is_err());
}

/// The kernel takes no alias with the request for a device, so whoever comes meanwhile finds it unsigned.
#[test]
fn one_that_is_being_made_is_waited_for_and_a_strangers_is_not_taken() {
    let (lab, red) = lab();
    lab.ip("link add under type bridge");
    lab.ip("link set under up");
    lab.ip("address add 192.0.2.1/32 dev under");
    let options = VxlanOptions {
        vni: 7,
        port: 4789,
        local: "192.0.2.1".parse().unwrap(),
        checksum: true,
        alias: "ours".into(),
    };
    let device = name("vx7");
    let mut plan = Plan::new();
    plan.network(Link::vxlan(&device, options).up(true));
    kernel(&red).ensure(&plan, &mut Journal::default()).unwrap();
    lab.ip("link set vx7 alias of-somebody-else");
    let text = kernel(&red).ensure(&plan, &mut Journal::default()).unwrap_err().to_string();
    assert!(text.contains("vx7"), "{text}");
    assert!(Command::new("ip").args(["link", "set", "vx7", "alias", ""]).status().unwrap().success());
    let late = ["-c", "sleep 0.3; exec ip link set vx7 alias ours"];
    let mut maker = Command::new("sh").args(late).spawn().unwrap();
    kernel(&red).ensure(&plan, &mut Journal::default()).unwrap();
    assert!(maker.wait().unwrap().success());
}
