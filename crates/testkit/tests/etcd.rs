//! The lab's etcd is a real one.

#![cfg(test)]

use weft_testkit::{Authority, Etcd, Underlay, peer, peer_program};

#[test]
fn an_etcd_keeps_its_data_and_asks_for_certificates() {
    let underlay = Underlay::new(0);
    let dir = underlay.lab().path("etcd");
    let authority = Authority::new(&dir.join("tls"));
    let address = "192.0.2.250".parse().unwrap();
    let mut etcd = Etcd::start_with_tls(underlay.ctl(), address, &dir, &authority);
    etcd.ctl(["put", "/weft/v1/x", "y"]).expect_ok();
    let revision = etcd.revision();
    etcd.stop();
    etcd.go_on();
    assert_eq!(etcd.records(), "/weft/v1/x\ny\n");
    assert_eq!(etcd.revision(), revision);
    let url = etcd.url();
    let etcdctl = peer_program(&peer("/usr/bin/etcdctl").unwrap());
    let plain = etcdctl.inside(underlay.ctl()).env("ETCDCTL_API", "3");
    let ca = authority.file();
    let without = plain.args(["--cacert".as_ref(), ca.as_os_str()]);
    let refused = without.args(["--endpoints", &url, "--command-timeout=2s", "get", "/"]).run();
    assert_ne!(refused.code, 0, "whoever has no certificate");
    etcd.wipe();
    etcd.go_on();
    assert_eq!(etcd.records(), "");
}
