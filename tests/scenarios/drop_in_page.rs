//! What `docs/drop-in.md` tells an operator to type, typed: a node is switched over, verified, and switched back.

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Output, skip_unless, staged_folder};

const PAGE: &str = include_str!("../../docs/drop-in.md");
const DEBIAN: &str = "/usr/lib/cni";

/// Returns the commands of a section's first block, for a node whose files are below the lab's root.
fn commands(lab: &Lab, section: &str) -> String {
    let block =
        PAGE.split_once(&format!("## {section}\n")).and_then(|(_, rest)| rest.split_once("```console\n"));
    let (_, rest) = block.unwrap_or_else(|| panic!("the page has no commands about {section}"));
    let (block, _) = rest.split_once("```").unwrap();
    let lines = block.lines().filter_map(|line| line.strip_prefix("$ ").or_else(|| line.strip_prefix("> ")));
    let mut script = String::from("set -e\n");
    for line in lines.filter(|line| !line.starts_with("cargo ")) {
        script += line.split("  #").next().unwrap();
        script += "\n";
    }
    assert!(script.lines().count() > 1, "{script}");
    let script = script.replace("sudo ", "").replace("target/stage/bin", staged_folder().to_str().unwrap());
    ["/opt/cni", "/etc/cni", "/usr/local/bin"]
        .iter()
        .fold(script, |script, path| script.replace(path, lab.path(path).to_str().unwrap()))
}

/// A node with a network of two plugins and somebody else's programs.
struct Node {
    lab: Lab,
}

impl Node {
    fn new() -> Self {
        let lab = Lab::new();
        let line = format!(
            "mkdir -p {0}/opt/cni {0}/usr/local/bin && cp -a {DEBIAN} {0}/opt/cni/bin",
            lab.root().display()
        );
        lab.sh(&line).expect_ok();
        lab.set_sysctl("ipv4/ip_forward", "1");
        let node = Self { lab };
        let list = json!({"cniVersion": "1.0.0", "name": "n1", "plugins": node.confs()});
        node.lab.write("etc/cni/net.d/10-n1.conflist", list.to_string());
        node
    }

    fn confs(&self) -> [Value; 2] {
        let bridge = json!({"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0",
            "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": "iptables",
            "ipam": {"type": "host-local", "dataDir": self.lab.path("var/lib/cni/networks"),
                "ranges": [[{"subnet": "10.1.2.0/24"}]]}});
        let tuning = json!({"cniVersion": "1.0.0", "name": "n1", "type": "tuning", "mtu": 1400});
        [bridge, tuning]
    }

    /// Calls whatever is in the node's folder now.
    fn call(&self, verb: &str, conf: &Value, container: &Container, result: Option<&Value>) -> Output {
        let call =
            self.lab.plugin_in(&self.lab.path("opt/cni/bin"), conf["type"].as_str().unwrap()).json(conf);
        let call = result.into_iter().fold(call, weft_testkit::PluginCall::prev_result);
        match verb {
            "ADD" => call.add(container),
            "CHECK" => call.check(container),
            _ => call.del(container),
        }
    }

    /// Connects a container, and keeps the answer where a runtime does.
    #[track_caller]
    fn connect(&self, container: &Container) -> Value {
        let mut result = None;
        for conf in self.confs() {
            result = Some(self.call("ADD", &conf, container, result.as_ref()).expect_json());
        }
        let cached = json!({"kind": "cniCacheV1", "containerId": container.name(), "config": "", "ifName": "eth0",
            "networkName": "n1", "netns": container.netns(), "result": result});
        self.lab.write(&format!("var/lib/cni/results/n1-{}-eth0", container.name()), cached.to_string());
        assert!(container.has_link("eth0"));
        result.unwrap()
    }

    #[track_caller]
    fn disconnect(&self, container: &Container, result: &Value) {
        for conf in self.confs().iter().rev() {
            self.call("DEL", conf, container, Some(result)).expect_ok();
        }
        assert!(!container.has_link("eth0"));
        let lease = self.lab.path("var/lib/cni/networks/n1").join(address(result));
        assert!(!lease.exists(), "{}", lease.display());
    }

    fn is_ours(&self, plugin: &str) -> bool {
        let there = std::fs::read(self.lab.path("opt/cni/bin").join(plugin)).unwrap();
        there == std::fs::read(staged_folder().join(plugin)).unwrap()
    }
}

fn address(result: &Value) -> &str {
    result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap()
}

#[test]
fn a_node_is_switched_over_and_back_as_the_page_has_it() {
    skip_unless!(
        std::path::Path::new(DEBIAN).join("bridge").exists(),
        "Debian's package containernetworking-plugins"
    );
    let node = Node::new();
    let [red, green] = ["red", "green"].map(|name| node.lab.container(name));
    let of_red = node.connect(&red);
    assert!(!node.is_ours("bridge"));

    let said = node.lab.sh(&commands(&node.lab, "Switching a node over"));
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said}");

    assert!(["bridge", "host-local", "tuning", "vrf"].iter().all(|plugin| node.is_ours(plugin)));
    assert!(node.lab.path("usr/local/bin/weft").exists());
    for conf in node.confs() {
        node.call("CHECK", &conf, &red, Some(&of_red)).expect_ok();
    }
    let of_green = node.connect(&green);
    assert_ne!(address(&of_red), address(&of_green));
    node.disconnect(&red, &of_red);

    node.lab.sh(&commands(&node.lab, "Going back")).expect_ok();

    assert!(!node.is_ours("bridge"));
    node.disconnect(&green, &of_green);
    node.lab.sh("rm -r $WEFT_ROOT/run/weft").expect_ok();
    let of_red = node.connect(&red);
    node.disconnect(&red, &of_red);
}
