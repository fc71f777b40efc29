//! What is gone, killed or damaged is in nobody's way.

use std::fs;

use serde_json::json;
use weft_manager::Liveness;
use weft_model::Endpoint;
use weft_state::atomic::{self, Durability};
use weft_state::attachment::Record;

use crate::{Host, OWN, from, text};

#[test]
fn containers_that_are_gone_are_in_nobodys_way() {
    let host = Host::new();
    host.network("n1", 1);
    host.network("n2", 2);
    for mut record in ["n1", "n2"].map(|network| host.connect(network, "c1").unwrap()) {
        record.attach["namespace"] = json!("1@gone");
        host.records().write(&record).unwrap();
    }
    let gone: Vec<Liveness> = host.manager.ps().unwrap().iter().map(|attached| attached.liveness).collect();
    assert_eq!(gone, [Liveness::Gone, Liveness::Gone]);
    host.log();

    let record = host.connect("n2", "c1").unwrap();
    assert_eq!(
        record.endpoint.ifname.as_str(),
        "eth0",
        "a new container of the same name starts from nothing"
    );
    let log = host.log();
    assert_eq!(
        log[..2],
        ["DEL n1 c1  eth0", "DEL n2 c1  eth1"],
        "without the namespace, which is another's now"
    );

    let mut record = record;
    record.netns = Some("/nonexistent".into());
    host.records().write(&record).unwrap();
    assert_eq!(host.removed("n2", false), [""; 0]);
}

#[test]
fn a_killed_connect_is_mended_by_the_next_command() {
    let host = Host::new();
    host.network("n1", 1);
    let intent = |container: &str| {
        let endpoint = Endpoint {
            network: "n1".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        host.records().write(&Record::intent(endpoint, Some(OWN.into()), "fake").unwrap()).unwrap();
    };
    intent("c1");
    assert_eq!(host.manager.ps().unwrap()[0].liveness, Liveness::Incomplete);
    host.connect("n1", "c1").unwrap();
    assert_eq!(host.log(), ["DEL n1 c1 /proc/self/ns/net eth0", "ADD n1 c1 /proc/self/ns/net eth0"]);

    intent("c2");
    host.manager.disconnect(&from("n1", "c2")).unwrap();
    intent("c3");
    let pruned = host.manager.prune(&[]).unwrap();
    assert!(pruned.deleted.is_empty() && pruned.errors.is_empty(), "{pruned:?}");
    assert_eq!(host.manager.ps().unwrap().len(), 1);
    assert_eq!(
        host.asked("GC")["cni.dev/valid-attachments"],
        json!([{"containerID": "c1", "ifname": "eth0"}])
    );

    // A killed writer's temporary file is no network, and a truncated record no attachment.
    let networks = host.path("root/etc/weft/networks.d");
    atomic::write(&networks.join(".weft-new-1-2-3"), b"{", Durability::Boot, 0o644).unwrap();
    let record = host.path("root/run/weft/attachments/c4/eth0.json");
    atomic::write(&record, b"{\"schema\":1,", Durability::Boot, 0o644).unwrap();
    let listed = host.manager.ls(&[]).unwrap();
    assert!(listed.errors.is_empty());
    assert_eq!(host.manager.ps().unwrap().len(), 1);
    host.connect("n1", "c4").unwrap();

    // With the record cut off, the cached result still tells the network.
    atomic::write(&record, b"", Durability::Boot, 0o644).unwrap();
    host.log();
    host.connect("n1", "c4").unwrap();
    assert_eq!(host.log(), ["DEL n1 c4 /proc/self/ns/net eth0", "ADD n1 c4 /proc/self/ns/net eth0"]);
    atomic::write(&record, b"", Durability::Boot, 0o644).unwrap();
    assert!(host.manager.disconnect(&from("n1", "c4")).unwrap().problems.is_empty());
    assert!(!record.exists());
}

#[test]
fn a_reboot_is_noticed_by_the_first_connection() {
    let host = Host::new();
    host.network("n1", 1);
    host.connect("n1", "c1").unwrap();
    host.log();
    // What the next boot finds: nothing in /run, and everything else.
    fs::remove_dir_all(host.path("root/run")).unwrap();
    assert!(host.manager.ps().unwrap().is_empty());

    host.connect("n1", "c2").unwrap();
    assert_eq!(
        host.log(),
        ["DEL n1 c1 /proc/self/ns/net eth0", "GC n1", "ADD n1 c2 /proc/self/ns/net eth0"],
        "addresses that nobody gave back are free again"
    );
    host.connect("n1", "c3").unwrap();
    assert_eq!(host.log(), ["ADD n1 c3 /proc/self/ns/net eth0"], "once is enough");
}

#[test]
fn damaged_files_are_named_and_in_nobody_elses_way() {
    let host = Host::new();
    host.network("n1", 1);
    let damaged = host.path("root/etc/weft/networks.d/n2.conflist");
    let put = |text: &str| atomic::write(&damaged, text.as_bytes(), Durability::Boot, 0o644).unwrap();
    for (text_of, part) in [
        ("", "n2.conflist: "),
        (r#"{"cniVersion":"1.1.0","name":"n2","plugins":[{"type":7}]}"#, "plugins[0].type"),
        (
            r#"{"cniVersion":"1.1.0","name":"other","plugins":[{"type":"fake"}]}"#,
            "other is not the file's name",
        ),
        (
            r#"{"cniVersion":"1.1.0","name":"n2","plugins":[{"type":"fake"}],"weft":{"schema":1,"id":7}}"#,
            "weft.id",
        ),
    ] {
        put(text_of);
        let error = text(host.manager.inspect("n2"));
        assert!(error.contains(part) && error.contains("n2.conflist"), "{error}");
        assert!(text(host.connect("n2", "c1")).contains(part));
        let listed = host.manager.ls(&[]).unwrap();
        assert_eq!(listed.errors.len(), 1);
        assert!(listed.networks.iter().any(|network| network.name.as_str() == "n1"));
        assert!(text(host.manager.rm("n2", false)).contains(part));
    }
    let leases = host.path("root/var/lib/cni/networks/n2");
    assert_eq!(
        host.removed("n2", true),
        [format!(
            "nothing is known about network n2: its bridge, its firewall rules and leases in {} may be left",
            leases.display()
        )]
    );
    assert!(!damaged.exists());
}
