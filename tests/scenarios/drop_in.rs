//! `weft doctor --drop-in`: a node whose runtimes call our plugins in place of the reference ones.

use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_testkit::{Lab, staged, staged_folder};

const LIST: &str = r#"{"cniVersion": "1.1.0", "name": "n1", "plugins": [
    {"type": "bridge", "bridge": "br0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]}}
]}"#;

/// A node with a folder of plugins and one of networks.
struct Node {
    lab: Lab,
    plugins: PathBuf,
}

impl Node {
    fn new() -> Self {
        let lab = Lab::new();
        let plugins = lab.path("opt/cni/bin");
        std::fs::create_dir_all(&plugins).unwrap();
        for name in ["bridge", "host-local", "loopback"] {
            std::os::unix::fs::symlink(staged(name), plugins.join(name)).unwrap();
        }
        lab.write("etc/cni/net.d/10-n1.conflist", LIST);
        Self { lab, plugins }
    }

    /// What doctor says, and whether it is content.
    fn findings(&self) -> Vec<(String, String)> {
        let (plugins, networks) = (self.plugins.to_str().unwrap(), self.lab.path("etc/cni/net.d"));
        let words =
            ["doctor", "--drop-in", plugins, "--networks", networks.to_str().unwrap(), "--format", "json"];
        let output = self.lab.weft(words);
        let rows: Vec<Value> =
            output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(output.code, i32::from(!rows.is_empty()), "{output}");
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        rows.iter().map(|row| (text(row, "What"), text(row, "Why"))).collect()
    }
}

#[test]
fn a_node_that_is_switched_over_is_in_order() {
    let node = Node::new();
    assert_eq!(node.findings(), []);
    // Nor does a list in an older version keep it from being asked.
    node.lab.write("etc/cni/net.d/20-old.conflist", LIST.replace("1.1.0", "0.4.0").replace("n1", "old"));
    assert_eq!(node.findings(), []);
}

#[test]
fn a_plugin_of_others_is_named() {
    let node = Node::new();
    weft_testkit::skip_unless!(
        Path::new("/usr/lib/cni/loopback").exists(),
        "Debian's package containernetworking-plugins"
    );
    std::fs::remove_file(node.plugins.join("loopback")).unwrap();
    std::os::unix::fs::symlink("/usr/lib/cni/loopback", node.plugins.join("loopback")).unwrap();
    let found = node.findings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0.ends_with("/opt/cni/bin/loopback") && found[0].1.contains("not weft's"), "{found:?}");
}

#[test]
fn lists_that_cannot_be_used_are_named() {
    let node = Node::new();
    node.lab.write("etc/cni/net.d/20-torn.conflist", "{");
    node.lab
        .write("etc/cni/net.d/30-far.conflist", LIST.replace(r#""bridge", "bridge""#, r#""far", "bridge""#));
    node.lab.write("etc/cni/net.d/40-wrong.conflist", LIST.replace(r#""br0""#, r#""br0", "vlan": 5000"#));
    node.lab.write("etc/cni/net.d/README", "no network");
    let found = node.findings();
    let of = |name: &str| found.iter().find(|(what, _)| what.ends_with(name)).map(|(_, why)| why.as_str());
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(of("20-torn.conflist").is_some());
    assert!(
        of("30-far.conflist").is_some_and(|why| why.contains("failed to find plugin \"far\"")),
        "{found:?}"
    );
    assert!(of("40-wrong.conflist").is_some_and(|why| why.contains("5000")), "{found:?}");
}

#[test]
fn an_address_that_nobody_has_is_named() {
    let node = Node::new();
    let red = node.lab.container("red");
    let conf: Value = serde_json::from_str(LIST).unwrap();
    let mut bridge = conf["plugins"][0].clone();
    bridge["cniVersion"] = "1.1.0".into();
    bridge["name"] = "n1".into();
    node.lab.plugin_in(&staged_folder(), "bridge").json(&bridge).add(&red).expect_ok();
    assert_eq!(node.findings(), [], "it is on record");
    node.lab.write("var/lib/cni/networks/n1/10.1.2.9", "gone\r\neth0");
    let found = node.findings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0 == "10.1.2.9 of network n1" && found[0].1.contains("gone"), "{found:?}");
    node.lab.write("var/lib/cni/results/n1-gone-eth0", "{}");
    assert_eq!(node.findings(), []);
}
