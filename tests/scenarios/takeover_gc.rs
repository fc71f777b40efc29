//! GC of ours where the reference plugins have connected containers that are gone.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab};

use crate::takeover::{By, DEBIAN, Host, newest};

#[test]
fn gc_collects_what_the_reference_left() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    host.add(By::Debian, &red);
    let mine = host.chains();
    // Without a port, of which a host has one of each.
    let kept = host.call(By::Debian, "ADD", &host.bridge(), &blue, None).expect_json();
    host.call(By::Debian, "ADD", &host.firewall(), &blue, Some(&kept)).expect_json();
    let of_blue: Vec<String> = host.chains().into_iter().filter(|line| !mine.contains(line)).collect();
    assert!(of_blue.len() > 6, "{of_blue:?}");
    host.lab.ip("netns delete red");

    // Who does not say what stays is refused, and nothing happens.
    for conf in newest(host.confs()) {
        let kind = conf["type"].as_str().unwrap().to_owned();
        let call = host.lab.plugin(&kind).json(&conf).env("CNI_COMMAND", "GC").env("CNI_PATH", DEBIAN);
        call.bare().expect_error(7);
    }
    assert_eq!(host.leases(), 4);
    assert_eq!(host.chains().len(), mine.len() + of_blue.len());

    for conf in newest(host.confs()) {
        let kind = conf["type"].as_str().unwrap().to_owned();
        host.lab.plugin(&kind).json(&conf).gc(&[("blue", "eth0")]).expect_ok();
    }

    assert_eq!(host.leases(), 2);
    let mut left = host.chains();
    left.retain(|line| !of_blue.contains(line));
    assert_eq!(left, Vec::<String>::new());
    assert!(
        of_blue.iter().all(|line| host.chains().contains(line)),
        "of the one that stays: {:?}",
        host.chains()
    );
    host.call(By::Debian, "CHECK", &host.bridge(), &blue, Some(&kept)).expect_ok();
}

/// Limits what a container sends, as the reference does it.
#[track_caller]
fn slow_down(lab: &Lab, container: &Container, result: &Value) {
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "bandwidth",
        "egressRate": 8_000_000, "egressBurst": 8_000_000});
    lab.plugin_in(Path::new(DEBIAN), "bandwidth")
        .json(&conf)
        .prev_result(result)
        .add(container)
        .expect_json();
}

fn ifbs(lab: &Lab) -> usize {
    lab.ip_json("link show type ifb").as_array().map_or(0, Vec::len)
}

#[test]
fn gc_collects_links_of_the_references_bandwidth() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    for container in [&red, &blue] {
        let result = host.call(By::Debian, "ADD", &host.bridge(), container, None).expect_json();
        slow_down(&host.lab, container, &result);
    }
    assert_eq!(ifbs(&host.lab), 2);
    // Of a link that looks like one nobody knows whose it is.
    host.lab.ip("link add bwp000000000000 type ifb");
    host.lab.ip("netns delete red");
    let before = host.lab.snapshot();

    let [conf, ..] = newest(host.confs());
    host.lab.plugin("bridge").json(&conf).gc(&[("red", "eth0"), ("blue", "eth0")]).expect_ok();
    assert_eq!(ifbs(&host.lab), 3, "both are connected");
    host.lab.plugin("bridge").json(&conf).gc(&[("blue", "eth0")]).expect_ok();

    assert_eq!(ifbs(&host.lab), 2, "{}", before.difference(&host.lab.snapshot()));
    assert!(host.lab.has_link("bwp000000000000"));
}

#[test]
fn gc_knows_by_the_runtimes_results_whose_things_are_without_leases() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let mut conf = host.bridge();
    conf["ipMasq"] = false.into();
    conf["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.2.2/24"}]});
    let result = host.call(By::Debian, "ADD", &conf, &red, None).expect_json();
    slow_down(&host.lab, &red, &result);
    host.lab.ip("netns delete red");
    conf["cniVersion"] = "1.1.0".into();
    let collect =
        |valid: &[(&str, &str)]| host.lab.plugin("bridge").json(&conf).gc(valid).expect_ok().to_string();

    collect(&[("blue", "eth0")]);
    assert_eq!(ifbs(&host.lab), 1, "nobody knows whose it is");
    let cached = json!({"kind": "cniCacheV1", "containerId": "red", "config": "", "ifName": "eth0",
        "networkName": "n1", "netns": "/run/netns/red", "result": result});
    host.lab.write("var/lib/cni/results/n1-red-eth0", cached.to_string());
    collect(&[("red", "eth0")]);
    assert_eq!(ifbs(&host.lab), 1, "it is connected");
    collect(&[("blue", "eth0")]);
    assert_eq!(ifbs(&host.lab), 0);
}

#[test]
fn gc_collects_what_the_references_tuning_and_spoof_check_left() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    let mut bridge = host.bridge();
    bridge["macspoofchk"] = true.into();
    let folder = host.lab.path("run/cni/tuning");
    let tuning =
        json!({"cniVersion": "1.0.0", "name": "n1", "type": "tuning", "mtu": 1400, "dataDir": folder});
    for container in [&red, &blue] {
        let result = host.call(By::Debian, "ADD", &bridge, container, None).expect_json();
        host.call(By::Debian, "ADD", &tuning, container, Some(&result)).expect_json();
    }
    let left = || {
        let rules = host.lab.ruleset();
        let of = |name: &str| {
            rules.contains(&format!("cni-br-iface-{name}-eth0")) as usize
                + folder.join(format!("{name}_eth0.json")).exists() as usize
        };
        (of("red"), of("blue"))
    };
    assert_eq!(left(), (2, 2));
    host.lab.ip("netns delete red");

    let mut newer = bridge.clone();
    newer["cniVersion"] = "1.1.0".into();
    host.lab.plugin("bridge").json(&newer).gc(&[("red", "eth0"), ("blue", "eth0")]).expect_ok();
    assert_eq!(left(), (2, 2), "both are connected");
    host.lab.plugin("bridge").json(&newer).gc(&[("blue", "eth0")]).expect_ok();

    assert_eq!(left(), (0, 2));
    host.lab.plugin("bridge").json(&newer).gc(&[]).expect_ok();
    assert_eq!(left(), (0, 0));
}
