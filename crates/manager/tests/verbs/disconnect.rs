//! `network disconnect`.

use std::fs;

use weft_manager::{Disconnect, Kind};

use crate::{Host, from, text};

#[test]
fn a_disconnection_that_fails_can_be_repeated_or_forced() {
    let host = Host::new();
    host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    host.fail("DEL");
    assert_eq!(
        text(host.manager.disconnect(&from("n1", "c1"))),
        "plugin fake on network n1 (DEL): told to fail"
    );
    assert_eq!(host.manager.ps().unwrap().len(), 1);
    let forced = host.manager.disconnect(&Disconnect { force: true, ..from("n1", "c1") }).unwrap();
    assert_eq!(forced.problems.len(), 1);
    assert!(host.manager.ps().unwrap().is_empty());
}

#[test]
fn a_container_whose_record_is_gone_can_be_disconnected() {
    let host = Host::new();
    host.network("n1", 1);
    let before = host.state();
    host.connect("n1", "c1").unwrap();
    fs::remove_dir_all(host.path("root/run/weft/attachments")).unwrap();
    assert!(text(host.manager.disconnect(&from("n1", "c2"))).contains("is not connected"));
    host.manager.disconnect(&from("n1", "c1")).unwrap();
    assert_eq!(host.log().last().unwrap(), "DEL n1 c1 /proc/self/ns/net eth0");
    assert_eq!(host.state(), before);
    assert_eq!(host.manager.disconnect(&from("n1", "c1")).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn containers_of_a_network_whose_file_is_gone_can_be_disconnected() {
    let host = Host::new();
    host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    fs::remove_file(host.path("root/etc/weft/networks.d/n1.conflist")).unwrap();
    assert_eq!(host.manager.disconnect(&from("n1", "c1")).unwrap_err().kind(), Kind::NotFound);
    let forced = Disconnect { force: true, ..from("n1", "c1") };
    assert!(host.manager.disconnect(&forced).unwrap().problems.is_empty());
    assert_eq!(host.log().last().unwrap(), "DEL n1 c1 /proc/self/ns/net eth0");
    assert!(host.manager.ps().unwrap().is_empty());
}
