//! What a host gives out is its own.

use std::collections::BTreeMap;
use std::fs;

use weft_plugin::ComposeRequest;

use super::*;

fn root(network: &str) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let overlay = dir.path().join("etc/weft/overlay");
    fs::create_dir_all(overlay.join("networks.d")).unwrap();
    let host = r#"
        name = "one"
        underlay = ["192.0.2.1"]
        [[block]]
        network = "blue"
        cidr = "10.1.0.0/26"
        [[block]]
        network = "blue"
        cidr = "10.1.3.0/26"
    "#;
    write(&overlay.join("host.toml"), host);
    write(&overlay.join("networks.d/blue.toml"), network);
    let root = Root::new(Some(dir.path().into()));
    (dir, root)
}

#[expect(clippy::disallowed_methods, reason = "a test's files")]
fn write(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn request(options: &[(&str, &str)]) -> ComposeRequest {
    ComposeRequest {
        name: "blue".parse().unwrap(),
        id: weft_model::NetworkId::new([1; 32]),
        internal: false,
        subnets: Vec::new(),
        dns: weft_cni::Dns::default(),
        options: options
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect::<BTreeMap<_, _>>(),
    }
}

const BLUE: &str = "name = \"blue\"\nvni = 5000\nsubnets = [\"10.1.0.0/16\"]\n";

#[test]
fn the_ranges_are_this_hosts_blocks() {
    let (_dir, root) = root(BLUE);
    let plugins = compose(&request(&[]), &root).unwrap();
    let types: Vec<_> = plugins.iter().map(|plugin| plugin["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["overlay", "portmap"]);
    let ranges = json!([[
        {"subnet": "10.1.0.0/26", "gateway": "10.1.0.1"},
        {"subnet": "10.1.3.0/26", "gateway": "10.1.3.1"},
    ]]);
    assert_eq!(plugins[0]["ipam"]["ranges"], ranges);
}

#[test]
fn what_cannot_be_says_why() {
    for (network, options, code, words) in [
        (BLUE.to_string(), &[("colour", "red")][..], Code::InvalidConfig, "has no option \"colour\""),
        (format!("{BLUE}mtu = 1460"), &[], Code::InvalidConfig, "an MTU of 1460 does not fit"),
        (BLUE.replace("blue", "red"), &[], Code::Io, "there is no network blue"),
        (BLUE.replace("10.1", "10.9"), &[], Code::Io, "10.1.0.0/26 is in no subnet of network blue"),
        (BLUE.replace("/16\"", "/16\", \"192.0.0.0/16\""), &[], Code::InvalidConfig, "overlaps the underlay"),
    ] {
        let (_dir, root) = root(&network);
        let failure = compose(&request(options), &root).unwrap_err();
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.msg.contains(words), "{failure}");
    }
    let (_dir, root) = root(BLUE);
    let other = ComposeRequest { name: "green".parse().unwrap(), ..request(&[]) };
    let failure = compose(&other, &root).unwrap_err();
    assert_eq!(failure.code, Code::TryAgainLater);
    assert!(failure.msg.contains("takes no part in overlay network green") && failure.details.is_some());
}

#[test]
fn a_network_of_its_own_namespace_publishes_nothing() {
    let (_dir, root) = root(&format!("{BLUE}isolated = true"));
    assert_eq!(compose(&request(&[]), &root).unwrap().len(), 1);
}

#[test]
fn what_another_host_has_is_given_to_nobody() {
    let (_dir, root) = root(BLUE);
    assert_eq!(compose(&request(&[]), &root).unwrap()[0]["ipam"].get("reserved"), None);
    let Found::Here(mut local) = here::newest(&root, &"blue".parse().unwrap()).unwrap() else { panic!() };
    local.lent = vec!["10.1.0.9".parse().unwrap()];
    assert_eq!(ipam(&local)["reserved"], json!(["10.1.0.9"]));
}
