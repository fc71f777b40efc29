//! `network connect`.

use std::fs;

use serde_json::json;
use weft_manager::{Connect, Create, Error, Kind, Liveness};
use weft_state::atomic::{self, Durability};
use weft_state::attachment::Record;

use crate::{Host, from, program, text, to};

#[test]
fn a_connection_is_made_listed_and_ended() {
    let host = Host::new();
    host.network("n1", 1);
    let record = host.connect("n1", "c1").unwrap();
    assert_eq!(record.endpoint.ifname.as_str(), "eth0");
    assert_eq!(host.log(), ["ADD n1 c1 /proc/self/ns/net eth0"]);
    let [attached] = &host.manager.ps().unwrap()[..] else { panic!("one attachment") };
    assert_eq!((attached.name.as_str(), attached.liveness), ("c1", Liveness::Up));
    assert_eq!(attached.mac(), Some("02:00:00:00:00:07"));
    let shown = serde_json::to_value(host.manager.inspect("n1").unwrap()).unwrap();
    assert_eq!(shown["Containers"]["c1"]["IPv4Address"], record.addresses[0].to_string());

    assert_eq!(text(host.connect("n1", "c1")), "endpoint with name c1 already exists in network n1");
    assert!(host.log().is_empty());

    assert!(host.manager.disconnect(&from("n1", "c1")).unwrap().problems.is_empty());
    assert_eq!(host.log(), ["DEL n1 c1 /proc/self/ns/net eth0"]);
    assert!(host.asked("DEL")["prevResult"].is_object());
    assert!(host.manager.ps().unwrap().is_empty());
    let error = host.manager.disconnect(&from("n1", "c1")).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "container c1 is not connected to network n1")
    );
}

#[test]
fn further_networks_get_further_interfaces_and_metrics() {
    let host = Host::new();
    let metric = |host: &Host| host.asked("ADD")["args"]["weft"]["gatewayMetric"].as_u64().unwrap();
    for (name, n, ifname, priority, expected) in
        [("n1", 1, "eth0", 0, 1_000_000), ("n2", 2, "eth1", 0, 1_000_001), ("n3", 3, "eth2", 5, 999_500)]
    {
        host.network(name, n);
        let record = host.manager.connect(&Connect { priority, ..to(name, "c1") }).unwrap().record;
        assert_eq!(record.endpoint.ifname.as_str(), ifname);
        assert_eq!(metric(&host), expected);
    }
    host.manager.disconnect(&from("n2", "c1")).unwrap();
    let record = host.connect("n2", "c1").unwrap();
    assert_eq!(record.endpoint.ifname.as_str(), "eth1", "the lowest free one");
    host.manager.disconnect(&from("n2", "c1")).unwrap();

    let taken = Connect { interface: Some("eth0".parse().unwrap()), ..to("n2", "c1") };
    let error = host.manager.connect(&taken).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(error.to_string(), "interface eth0 of container c1 is connected to network n1 already");
    let far = Connect { priority: 10_000, ..to("n2", "c1") };
    assert_eq!(host.manager.connect(&far).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn what_was_asked_for_reaches_the_plugin() {
    let host = Host::new();
    host.network("n1", 1);
    let request = Connect {
        name: Some("web".into()),
        aliases: vec!["www".into()],
        addresses: vec!["198.18.1.77".parse().unwrap()],
        mac: Some("02:00:00:00:00:55".parse().unwrap()),
        sysctls: vec![("net.ipv4.conf.IFNAME.forwarding".into(), "1".into())],
        ..to("n1", "c1")
    };
    let record = host.manager.connect(&request).unwrap().record;
    assert_eq!(record.addresses[0].to_string(), "198.18.1.77/24");
    let asked = host.asked("ADD");
    assert_eq!(asked["runtimeConfig"], json!({"ips": ["198.18.1.77"], "mac": "02:00:00:00:00:55"}));
    let attach = &asked["args"]["weft"];
    assert_eq!(attach["name"], "web");
    assert_eq!(attach["aliases"], json!(["www"]));
    assert_eq!(attach["sysctl"], json!({"net.ipv4.conf.eth0.forwarding": "1"}));

    let outside = Connect { addresses: vec!["198.18.2.77".parse().unwrap()], ..to("n1", "c2") };
    assert_eq!(
        text(host.manager.connect(&outside)),
        "invalid endpoint settings: no configured subnet contains IP address 198.18.2.77"
    );
    let sysctl = Connect { sysctls: vec![("kernel.hostname".into(), "x".into())], ..to("n1", "c2") };
    assert_eq!(
        text(host.manager.connect(&sysctl)),
        "unrecognised network interface sysctl \"kernel.hostname\""
    );
    let twin = Connect { name: Some("web".into()), ..to("n1", "c2") };
    assert_eq!(text(host.manager.connect(&twin)), "endpoint with name web already exists in network n1");
    assert_eq!(host.manager.ps().unwrap().len(), 1);
}

#[test]
fn a_name_that_comes_back_gets_its_address_back() {
    let host = Host::new();
    host.network("n1", 1);
    let connected = |id: &str| Connect { name: Some("web".into()), ..to("n1", id) };
    let web = |id: &str| host.manager.connect(&connected(id)).unwrap().record;
    let address = web("c1").addresses[0];
    host.manager.disconnect(&from("n1", "web")).unwrap();

    host.connect("n1", "c2").unwrap();
    assert_eq!(
        host.asked("ADD")["ipam"]["avoid"],
        json!([address.ip()]),
        "nobody else gets it while others are free"
    );
    assert_eq!(web("c3").addresses[0], address);
    host.manager.disconnect(&from("n1", "web")).unwrap();

    let taken = host.path(&format!("taken-{}", address.ip()));
    atomic::write(&taken, b"", Durability::Boot, 0o644).unwrap();
    let other = web("c4").addresses[0];
    assert_ne!(other, address, "a taken address is no reason to stay away");
    fs::remove_file(taken).unwrap();
    host.manager.disconnect(&from("n1", "c4")).unwrap();
    assert_eq!(web("c5").addresses[0], other, "the last one counts");
    host.manager.disconnect(&from("n1", "c5")).unwrap();

    let file = host.path("root/var/lib/weft/reservations/n1.json");
    atomic::write(&file, b"{", Durability::Boot, 0o600).unwrap();
    let warnings = host.manager.connect(&connected("c6")).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(file.to_str().unwrap()), "{warnings:?}");
    host.manager.disconnect(&from("n1", "c6")).unwrap();
    let warnings = host.manager.connect(&connected("c7")).unwrap().warnings;
    assert!(warnings.is_empty(), "the damaged file was replaced: {warnings:?}");
}

#[test]
fn a_connection_that_fails_leaves_nothing() {
    let host = Host::new();
    host.network("n1", 1);
    let before = host.state();
    host.fail("ADD");
    let request = Connect { name: Some("web".into()), ..to("n1", "c1") };
    let error = host.manager.connect(&request).unwrap_err();
    assert_eq!(error.to_string(), "plugin fake on network n1: told to fail");
    assert_eq!(error.hint().as_deref(), Some("stop telling it"));
    let log = host.log();
    assert_eq!(
        log[log.len() - 2..],
        ["DEL n1 c1 /proc/self/ns/net eth0", "GC n1"],
        "nobody uses the network"
    );
    assert_eq!(host.state(), before);
    assert!(!host.path("root/run/weft/locks/container-c1").exists());

    host.fail("");
    host.connect("n1", "c2").unwrap();
    host.fail("ADD");
    host.connect("n1", "c1").unwrap_err();
    assert_eq!(host.log().last().unwrap(), "DEL n1 c1 /proc/self/ns/net eth0", "c2 needs what is there");
}

#[test]
fn a_plugin_that_is_missing_is_named_once() {
    let host = Host::new();
    host.network("n1", 1);
    fs::remove_file(host.path("bin/fake")).unwrap();
    let error = host.connect("n1", "c1").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.hint().as_deref(), Some("weft plugin ls"));
    assert!(error.to_string().starts_with("plugin fake on network n1: failed to find plugin"), "{error}");
    assert!(!error.to_string().contains("not undone"), "{error}");
}

#[test]
fn private_and_host_networks_refuse_company() {
    let host = Host::new();
    host.network("n1", 1);
    let about = |attachable: &str| {
        format!(
            "#!/bin/sh\ncase \"$CNI_COMMAND:$1\" in :describe) echo '{{\"type\":\"x\",\"summary\":\"\",\"driver\":{{\
             \"attachable\":{attachable},\"instances\":1,\"refusal\":\"cannot connect container to host network\",\
             \"hint\":\"do not\"}}}}'; exit;; :compose) echo '{{\"plugins\":[{{\"type\":\"none\"}}]}}'; exit;; esac\n\
             cat > /dev/null; [ $CNI_COMMAND = ADD ] && echo '{{\"cniVersion\":\"1.1.0\"}}' || true\n"
        )
    };
    program(&host.path("bin/host"), &about("false"));
    program(&host.path("bin/none"), &about("true"));

    let error = host.connect("host", "c1").unwrap_err();
    assert_eq!(error.to_string(), "cannot connect container to host network");
    assert_eq!(error.hint().as_deref(), Some("do not"));

    host.connect("n1", "c1").unwrap();
    assert!(matches!(host.connect("none", "c1"), Err(Error::Private)));
    host.connect("none", "c2").unwrap();
    assert!(matches!(host.connect("n1", "c2"), Err(Error::Private)));

    for driver in ["none", "null"] {
        let request = Create { name: "n9".into(), driver: Some(driver.into()), ..Create::default() };
        assert_eq!(text(host.manager.create(&request)), "only one instance of \"none\" network is allowed");
    }
    for name in ["bridge", "host", "none"] {
        assert_eq!(
            text(host.manager.rm(name, true)),
            format!("{name} is a pre-defined network and cannot be removed")
        );
    }
}

#[test]
fn two_connects_of_one_container_take_turns() {
    let host = Host::new();
    host.network("n1", 1);
    let outcomes: Vec<Result<Record, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| host.connect("n1", "c1"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Err(Error::Connected { .. }))).count();
    assert_eq!(refused, 3, "{outcomes:?}");
    assert_eq!(host.log(), ["ADD n1 c1 /proc/self/ns/net eth0"]);
}

#[test]
fn containers_and_networks_come_and_go_at_the_same_time() {
    let host = Host::new();
    host.network("n1", 1);
    std::thread::scope(|scope| {
        for nth in 0..4 {
            let host = &host;
            scope.spawn(move || {
                for _ in 0..5 {
                    let id = format!("c{nth}");
                    match host.connect("n1", &id) {
                        Ok(_) => drop(host.manager.disconnect(&from("n1", &id))),
                        Err(error) => assert_eq!(error.kind(), Kind::NotFound, "{error}"),
                    }
                }
            });
        }
        scope.spawn(|| while host.manager.rm("n1", false).is_err() {});
    });
    assert!(host.manager.ps().unwrap().is_empty());
    assert_eq!(host.state(), ["etc/weft/weft.toml"]);
}
