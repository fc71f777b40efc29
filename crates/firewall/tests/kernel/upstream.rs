//! Upstream's nftables table, as its own plugins would find it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use weft_firewall::{Backend, Fragment, SpoofCheck, ensure, observe, reload, remove};
use weft_model::Mac;
use weft_netns::isolate;
use weft_state::Root;

use crate::lab::{attachment, claims, endpoint, has, ruleset};

#[test]
fn the_table_is_upstreams() {
    isolate().unwrap();
    let fragment =
        attachment(Backend::UpstreamNftables, &endpoint("net", "c1", "eth0"), &["10.0.0.5/24", "fd00::5/64"]);
    ensure(&fragment).unwrap();
    if has("nft") {
        insta::assert_snapshot!(ruleset());
    }
}

#[test]
fn an_attachments_rules_are_replaced_and_others_kept() {
    isolate().unwrap();
    let eth0 = endpoint("net", "c1", "eth0");
    let other = endpoint("net", "c1", "eth1");
    let with = |endpoint, address| attachment(Backend::UpstreamNftables, endpoint, &[address]);
    ensure(&with(&other, "10.0.0.7/24")).unwrap();
    ensure(&with(&eth0, "10.0.0.5/24")).unwrap();
    ensure(&with(&eth0, "10.0.0.6/24")).unwrap();
    if has("nft") {
        let text = ruleset();
        assert!(!text.contains("10.0.0.5"), "the stale rule is gone: {text}");
        assert!(text.contains("ip saddr 10.0.0.6 ip daddr != 10.0.0.0/24 masquerade"), "{text}");
        assert_eq!(text.matches("goto masq_checks").count(), 1, "{text}");
    }

    // Neither the addresses nor the backend are known any more.
    let forgotten = attachment(Backend::Weft, &eth0, &[]);
    remove(&forgotten).unwrap();

    assert!(!observe(&with(&eth0, "10.0.0.6/24")).unwrap().is_empty());
    assert_eq!(observe(&with(&other, "10.0.0.7/24")).unwrap(), Vec::<String>::new());
    remove(&forgotten).unwrap();
}

/// Calls this while another thread reloads all the time.
fn during_reloads(work: impl FnOnce() + Send) {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                reload(&Root::new(None)).unwrap();
            }
        });
        let outcome = scope.spawn(work).join();
        is_done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn a_reload_at_the_same_time_writes_no_rule_twice() {
    isolate().unwrap();
    during_reloads(|| {
        for number in 2..200 {
            let endpoint = endpoint("net", &format!("c{number}"), "eth0");
            let address = format!("10.0.0.{number}/24");
            let fragment = attachment(Backend::UpstreamNftables, &endpoint, &[&address]);
            ensure(&fragment).unwrap();
            assert_eq!(observe(&fragment).unwrap(), Vec::<String>::new());
        }
    });
}

#[test]
fn what_comes_back_during_a_reload_stays() {
    isolate().unwrap();
    let endpoint = endpoint("net", "c1", "eth0");
    let rule = attachment(Backend::UpstreamNftables, &endpoint, &["10.0.0.5/24"]);
    let guard = Fragment::SpoofCheck(SpoofCheck {
        host_ifname: "port-red".parse().unwrap(),
        mac: Some(Mac([2, 0, 0, 0, 0, 2])),
        endpoint,
        claims: claims(),
    });
    for fragment in [rule, guard] {
        for _ in 0..4 {
            during_reloads(|| {
                for _ in 0..20 {
                    ensure(&fragment).unwrap();
                    remove(&fragment).unwrap();
                }
                ensure(&fragment).unwrap();
            });
            assert_eq!(observe(&fragment).unwrap(), Vec::<String>::new());
            remove(&fragment).unwrap();
            assert!(!observe(&fragment).unwrap().is_empty());
        }
    }
}
