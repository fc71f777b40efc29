//! `network rm` and `network prune`.

use std::fs;

use serde_json::json;
use weft_manager::{Connect, Kind};
use weft_state::atomic::{self, Durability};

use crate::{Host, from, subnet, text, to};

#[test]
fn a_network_in_use_stays_until_forced() {
    let host = Host::new();
    let id = host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    host.manager.connect(&Connect { name: Some("web".into()), ..to("n1", "c2") }).unwrap();
    let error = host.manager.rm("n1", false).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(
        error.to_string(),
        r#"network n1 has active endpoints (name:"c1" id:"c1", name:"web" id:"c2")"#
    );

    host.log();
    assert_eq!(host.removed(&id[..12], true), [""; 0]);
    let log = host.log();
    assert_eq!(log.len(), 3, "{log:?}");
    assert_eq!(log[2], "GC n1");
    assert_eq!(host.asked("GC")["cni.dev/valid-attachments"], json!([]));
    assert_eq!(host.state(), ["etc/weft/weft.toml"]);
    assert!(!host.manager.exists("n1").unwrap());
    assert_eq!(host.manager.rm("n1", false).unwrap_err().kind(), Kind::NotFound);
    assert!(host.manager.rm("n1", true).unwrap().is_none());
}

#[test]
fn a_network_that_cannot_be_cleaned_up_stays_until_forced() {
    let host = Host::new();
    host.network("n1", 1);
    host.fail("GC");
    assert_eq!(text(host.manager.rm("n1", false)), "plugin fake on network n1 (GC): told to fail");
    assert!(host.manager.exists("n1").unwrap());
    assert_eq!(host.removed("n1", true), ["plugin fake on network n1 (GC): told to fail"]);
    assert!(!host.manager.exists("n1").unwrap());
}

#[test]
fn a_network_whose_file_is_lost_is_removed_with_everything_that_is_its() {
    let host = Host::new();
    let file = host.path("root/etc/weft/networks.d/n1.conflist");
    for damage in [None, Some("{"), Some(r#"{"cniVersion":"1.1.0","name":"n1","plugins":[]}"#)] {
        host.network("n1", 1);
        host.connect("n1", "c1").unwrap();
        host.connect("n1", "c2").unwrap();
        match damage {
            None => fs::remove_file(&file).unwrap(),
            Some(text) => atomic::write(&file, text.as_bytes(), Durability::Boot, 0o644).unwrap(),
        }
        if damage.is_some() {
            host.manager.disconnect(&from("n1", "c1")).unwrap();
            assert_eq!(host.asked("DEL")["ipam"]["type"], "host-local", "the lease is given back");
            let error = host.manager.rm("n1", false).unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "{error}");
        }
        host.log();
        assert_eq!(host.removed("n1", true), [""; 0]);
        let log = host.log();
        assert!(log.contains(&"DEL n1 c2 /proc/self/ns/net eth0".into()), "{log:?}");
        assert_eq!(log.last().unwrap(), "GC n1");
        assert_eq!(host.state(), ["etc/weft/weft.toml"]);
    }
}

#[test]
fn plugins_dropped_beside_a_lost_file_are_remembered() {
    let host = Host::new();
    host.network("n1", 1);
    let drop_in = host.path("root/etc/weft/networks.d/n1/50.conf");
    atomic::write(&drop_in, br#"{"type":"bridge"}"#, Durability::Boot, 0o644).unwrap();
    host.connect("n1", "c1").unwrap();
    fs::remove_dir_all(host.path("root/etc/weft/networks.d")).unwrap();
    host.log();
    assert_eq!(host.removed("n1", true), [""; 0]);
    let del = "DEL n1 c1 /proc/self/ns/net eth0";
    assert_eq!(host.log(), [del, del, "GC n1", "GC n1"]);
}

#[test]
fn those_who_prune_at_the_same_time_do_not_disagree() {
    let host = Host::new();
    (0..20).for_each(|n| drop(host.network(&format!("n{n}"), n)));
    let deleted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| host.manager.prune(&[]).unwrap())).collect();
        let pruned = threads.into_iter().map(|thread| thread.join().unwrap());
        pruned.map(|pruned| (pruned.errors.is_empty(), pruned.deleted.len())).fold(0, |sum, (well, count)| {
            assert!(well);
            sum + count
        })
    });
    assert_eq!(deleted, 20);
    assert_eq!(host.state(), ["etc/weft/weft.toml"]);
}

#[test]
fn prune_takes_what_is_unused_and_matches() {
    let host = Host::new();
    let labelled = |name: &str, n: u8, label: &str| {
        let mut request = subnet(name, &format!("198.18.{n}.0/24"));
        request.labels.insert(label.into(), String::new());
        host.manager.create(&request).unwrap();
    };
    labelled("n1", 1, "a");
    labelled("n2", 2, "a");
    labelled("n10", 10, "b");
    host.connect("n1", "c1").unwrap();
    let prune = |filters: &[&str]| -> Vec<String> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).into()).collect();
        let pruned = host.manager.prune(&filters).unwrap();
        assert!(pruned.errors.is_empty(), "{pruned:?}");
        pruned.deleted.iter().map(ToString::to_string).collect()
    };
    assert_eq!(prune(&["label=b", "until=1h"]), [""; 0]);
    assert_eq!(prune(&["label=b"]), ["n10"]);
    assert_eq!(prune(&[]), ["n2"]);
    assert_eq!(prune(&[]), [""; 0]);
    assert_eq!(host.manager.prune(&["name=n1".into()]).unwrap_err().kind(), Kind::Usage);
}
