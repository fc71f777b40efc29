//! Upstream's iptables chains.

use std::fs;
use std::os::unix::fs::symlink;

use weft_firewall::{Backend, FirewallError, Fragment, Masquerade, ensure, observe, remove};
use weft_netns::isolate;

use crate::lab::{attachment, claims, cover, endpoint, has, run, sh};

const CHAIN: &str = "CNI-2bbe0c48b91a7d1b8a6753a8";

fn on(ifname: &str, addresses: &[&str]) -> Fragment {
    attachment(Backend::Iptables, &endpoint("test", "1234", ifname), addresses)
}

/// Prepares a private host, or says what is missing.
fn ready() -> bool {
    if !has("iptables-restore") {
        return false;
    }
    isolate().unwrap();
    let works = run("iptables -t nat -S").status.success();
    if !works {
        weft_testkit::skipped("iptables to work here");
    }
    works
}

fn nat() -> String {
    sh("iptables -t nat -S")
}

#[test]
fn chains_and_comments_are_upstreams() {
    if !ready() {
        return;
    }
    ensure(&on("eth0", &["10.0.0.5/24"])).unwrap();
    ensure(&on("eth0", &["10.0.0.5/24"])).unwrap();
    let comment = r#"-m comment --comment "name: \"test\" id: \"1234\"""#;
    let expected = [
        format!("-N {CHAIN}"),
        format!("-A POSTROUTING -s 10.0.0.5/32 {comment} -j {CHAIN}"),
        format!("-A {CHAIN} -d 10.0.0.0/24 {comment} -j ACCEPT"),
        format!("-A {CHAIN} ! -d 224.0.0.0/4 {comment} -j MASQUERADE"),
    ];
    let rules = nat();
    let ours: Vec<_> = rules.lines().filter(|line| line.contains("CNI-")).collect();
    assert_eq!(ours, expected);
}

#[test]
fn two_attachments_of_a_container_do_not_break_each_other() {
    if !ready() {
        return;
    }
    let before = nat();
    ensure(&on("eth0", &["10.0.0.5/24"])).unwrap();
    ensure(&on("eth1", &["10.9.0.6/24"])).unwrap();
    assert!(nat().contains("-d 10.0.0.0/24") && nat().contains("-d 10.9.0.0/24"));

    remove(&on("eth0", &["10.0.0.5/24"])).unwrap();

    assert!(!observe(&on("eth0", &["10.0.0.5/24"])).unwrap().is_empty());
    assert_eq!(observe(&on("eth1", &["10.9.0.6/24"])).unwrap(), Vec::<String>::new());
    assert!(nat().contains(&format!("-A {CHAIN} ! -d 224.0.0.0/4")), "eth1 is still masqueraded");
    remove(&on("eth0", &["10.0.0.5/24"])).unwrap();
    assert_eq!(observe(&on("eth1", &["10.9.0.6/24"])).unwrap(), Vec::<String>::new(), "twice is once");

    remove(&on("eth1", &[])).unwrap();
    assert_eq!(nat(), before);
}

#[test]
fn del_needs_neither_addresses_nor_the_configuration() {
    if !ready() {
        return;
    }
    let before = nat();
    ensure(&on("eth0", &["10.0.0.5/24"])).unwrap();
    assert_ne!(nat(), before);
    // Our record says that iptables was used, whatever the configuration says now.
    remove(&attachment(Backend::Weft, &endpoint("test", "1234", "eth0"), &[])).unwrap();
    assert_eq!(nat(), before);
}

#[test]
fn what_upstream_left_is_removed_without_a_record() {
    if !ready() {
        return;
    }
    let before = nat();
    ensure(&on("eth0", &["10.0.0.5/24"])).unwrap();
    fs::remove_dir_all(claims()).unwrap();
    assert_ne!(nat(), before);
    remove(&attachment(Backend::Weft, &endpoint("test", "1234", "eth0"), &[])).unwrap();
    assert_ne!(nat(), before, "without a record nobody starts iptables");

    remove(&on("eth0", &[])).unwrap();

    assert_eq!(nat(), before);
    remove(&on("eth0", &[])).unwrap();
}

#[test]
fn a_new_address_replaces_the_old_one() {
    if !ready() {
        return;
    }
    ensure(&on("eth0", &["10.0.0.5/24"])).unwrap();
    ensure(&on("eth0", &["10.0.0.6/24"])).unwrap();
    let rules = nat();
    assert!(!rules.contains("10.0.0.5") && rules.contains("-s 10.0.0.6/32"), "{rules}");
}

#[test]
fn ipv4_alone_needs_no_ip6tables() {
    if !ready() || !has("xtables-nft-multi") {
        return;
    }
    let before = nat();
    keep_only_in_sbin(&["iptables", "iptables-restore"], "xtables-nft-multi");
    ensure(&on("eth0", &["10.0.0.5/24"])).unwrap();
    remove(&on("eth0", &[])).unwrap();
    assert_eq!(nat(), before);
    // Not even when nothing is known about the attachment.
    remove(&on("eth7", &[])).unwrap();

    let error = ensure(&on("eth0", &["fd00::5/64"])).unwrap_err();
    assert!(matches!(&error, FirewallError::Iptables { program, .. } if program == "ip6tables"), "{error}");
    assert!(error.hint().unwrap().contains("install iptables"));
}

/// Hides everything in `/usr/sbin` but these names of one program, for this test alone.
fn keep_only_in_sbin(names: &[&str], program: &str) {
    fs::create_dir_all("/run/real").unwrap();
    fs::create_dir_all("/run/sbin").unwrap();
    cover("/run/real", "/usr/sbin");
    for name in names {
        symlink(format!("/run/real/{program}"), format!("/run/sbin/{name}")).unwrap();
    }
    cover("/usr/sbin", "/run/sbin");
}

#[test]
fn a_network_has_nothing_to_remove() {
    isolate().unwrap();
    remove(&Fragment::Masquerade(Masquerade {
        network: "test".parse().unwrap(),
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        endpoint: None,
        addresses: Vec::new(),
        backend: Backend::Iptables,
        claims: claims(),
    }))
    .unwrap();
}
