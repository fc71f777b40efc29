//! The corpus of state files has of each kind one that is read to its end: a fuzzer that starts from files that are refused at once
//! tries nothing.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use weft_harness::CHAIN;
use weft_overlay::local::LocalNetwork;
use weft_plugin::{Call, Verb};
use weft_runtime::cache::Cache;
use weft_state::ports::Books;
use weft_state::{Records, Reservations, Root, boot};

#[test]
fn lists_of_the_valid_are_read() {
    for (name, valid) in [("gc-list", 2), ("gc-older-list", 1)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/conf").join(name);
        let bytes = fs::read(path).unwrap();
        let call = Call::read(Verb::Gc, &bytes[1..]).unwrap();
        assert_eq!(call.valid_attachments().unwrap().len(), valid, "{name}");
    }
}

/// Returns what an input of the corpus puts into its file.
fn content(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/state").join(name);
    let bytes = fs::read(path).unwrap();
    String::from_utf8_lossy(&bytes[1..]).replace("BOOT", &boot::id().unwrap())
}

fn put(path: PathBuf, name: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    weft_state::atomic::write(&path, content(name).as_bytes(), weft_state::atomic::Durability::Boot, 0o600)
        .unwrap();
}

#[test]
fn of_each_kind_one_file_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(Some(folder.path().into()));
    let network = "n1".parse().unwrap();

    put(root.attachments_dir().join("red/eth0.json"), "attachment");
    assert_eq!(Records::new(&root).all().len(), 1);
    put(root.chained_dir().join("sbr/red/eth0.json"), "chained");
    assert_eq!(Records::of_plugin(&root, "sbr").all().len(), 1);
    put(root.ports_dir().join("owners/red,eth0.json"), "owner-whole");
    assert_eq!(Books::new(&root).owners().len(), 1);
    put(root.ports_dir().join("owners/red,eth0.intent"), "owner-whole");
    assert_eq!(Books::new(&root).interrupted_changes().len(), 1);
    put(root.reservations_dir().join("n1.json"), "reservations");
    assert!(!Reservations::new(&root).of_network(&network).unwrap().is_empty());
    put(root.dhcp_dir().join("red/n1,eth0.json"), "dhcp-lease-whole");
    assert_eq!(dhcp::count_leases(&root), 1);
    put(root.cni_results_dir().join("n1-red-eth0"), "result-whole");
    assert_eq!(Cache::new(root.cni_results_dir()).made().len(), 1);
    for backup in ["tuning-backup", "tuning-backup-reference"] {
        put(root.cni_tuning_dir().join("red_eth0.json"), backup);
        assert!(weft_plan::is_backup(&root.cni_tuning_dir().join("red_eth0.json")), "{backup}");
    }
    let firewall = root.masquerade_dir();
    put(firewall.join("admissions/n1/red,eth0"), "admission");
    put(firewall.join("spoof/veth0"), "spoof-check");
    put(firewall.join("iptables").join(CHAIN).join("eth0"), "chain-iptables");
    put(firewall.join("nftables").join(CHAIN).join("eth0"), "chain-nftables");
    assert_eq!(weft_firewall::on_record(&firewall).len(), 4);
    put(root.overlay_run_dir().join("n1.json"), "overlay-network");
    assert!(LocalNetwork::load(&root, &network).unwrap().is_some());
    put(root.overlay_config_dir().join("host.toml"), "overlay-host");
    put(root.overlay_config_dir().join("networks.d/n1.toml"), "overlay-static-network");
    let statics = weft_overlay::statics::read(&root).unwrap().unwrap();
    assert!(statics.bad.is_empty(), "{:?}", statics.bad);
}
