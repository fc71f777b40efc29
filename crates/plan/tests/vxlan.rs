//! VXLAN devices, on the real kernel.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "a test starts programs")]

mod lab;

use std::process::Command;

use lab::{MAC, kernel, lab, name};
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

/// The kernel takes no alias with the request for a device, so whoever comes meanwhile finds it unsigned; and so does everybody
/// after whoever made it was killed.
#[test]
fn one_that_nobody_has_signed_is_taken_if_it_is_ours_and_a_strangers_is_not() {
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
    let mut plan = Plan::new();
    plan.network(Link::vxlan(&name("vx7"), options).mac(Some(MAC)).up(true));
    let ensure = || kernel(&red).ensure(&plan, &mut Journal::default());
    let clear_alias = || {
        let words = ["link", "set", "vx7", "alias", ""];
        assert!(Command::new("ip").args(words).status().unwrap().success());
    };
    ensure().unwrap();
    let whole = lab.ip("link show vx7");
    assert!(whole.contains("alias ours"), "{whole}");
    // As it is when it has been made, and whoever made it does no more.
    clear_alias();
    lab.ip("link set vx7 down addrgenmode eui64");
    ensure().unwrap();
    assert_eq!(lab.ip("link show vx7"), whole);
    assert!(lab.ip("-details link show vx7").contains("addrgenmode none"));
    // Somebody's name, somebody's address, somebody's options.
    let strangers: [&[&str]; 3] = [
        &["link set vx7 alias of-somebody-else"],
        &["link set vx7 address 02:00:00:00:00:08"],
        &[
            "link delete vx7",
            "link add vx7 address 02:00:00:00:00:07 type vxlan id 8 dstport 4789 local 192.0.2.1",
        ],
    ];
    for words in strangers {
        clear_alias();
        words.iter().for_each(|words| drop(lab.ip(words)));
        let before = lab.ip("-details link show vx7");
        let text = ensure().unwrap_err().to_string();
        assert!(text.contains("vx7"), "{text}");
        assert_eq!(lab.ip("-details link show vx7"), before, "after {words:?}");
        lab.ip("link set vx7 address 02:00:00:00:00:07");
    }
}
