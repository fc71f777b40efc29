//! What `docs/drop-in.md` tells an operator to type, typed: a node is switched over, verified, and switched back.

use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, DhcpServer, Lab, Output, skip_unless, staged_folder, until};

const PAGE: &str = include_str!("../../docs/drop-in.md");
const DEBIAN: &str = "/usr/lib/cni";

/// Returns the commands of a section's blocks, for a node whose files are below the lab's root.
fn commands(lab: &Lab, section: &str) -> Vec<String> {
    let section = PAGE.split("\n## ").find(|text| text.starts_with(&format!("{section}\n")));
    let blocks = section.unwrap_or_default().split("```console\n").skip(1);
    blocks.map(|rest| script(lab, rest.split_once("```").unwrap().0)).collect()
}

/// Returns the commands of a block.
fn script(lab: &Lab, block: &str) -> String {
    let lines = block.lines().filter_map(|line| line.strip_prefix("$ ").or_else(|| line.strip_prefix("> ")));
    let mut script = String::from("set -e\n");
    for line in lines.filter(|line| !line.starts_with("cargo ")) {
        script += line.split("  #").next().unwrap();
        script += "\n";
    }
    assert!(script.lines().count() > 1, "{script}");
    let script = script.replace("sudo ", "").replace("target/stage/bin", staged_folder().to_str().unwrap());
    ["/opt/cni", "/etc/cni", "/usr/local/bin", "/run/weft"]
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
fn every_command_of_the_page_is_typed_here() {
    let lab = Lab::new();
    let typed = ["Switching a node over", "Going back", "The dhcp daemon"];
    let blocks: usize = typed.iter().map(|section| commands(&lab, section).len()).sum();
    assert_eq!(blocks, PAGE.matches("```console\n").count());
}

#[test]
fn a_node_is_switched_over_and_back_as_the_page_has_it() {
    skip_unless!(Path::new(DEBIAN).join("bridge").exists(), "Debian's package containernetworking-plugins");
    let node = Node::new();
    let [red, green] = ["red", "green"].map(|name| node.lab.container(name));
    let of_red = node.connect(&red);
    assert!(!node.is_ours("bridge"));

    let [switch] = &commands(&node.lab, "Switching a node over")[..] else { panic!("other blocks") };
    let said = node.lab.sh(switch);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said}");

    assert!(["bridge", "host-local", "tuning", "vrf"].iter().all(|plugin| node.is_ours(plugin)));
    assert!(node.lab.path("usr/local/bin/weft").exists());
    for conf in node.confs() {
        node.call("CHECK", &conf, &red, Some(&of_red)).expect_ok();
    }
    let of_green = node.connect(&green);
    assert_ne!(address(&of_red), address(&of_green));
    node.disconnect(&red, &of_red);
    // One whose rules are in our own table, and which has gone before.
    let conf = json!({"cniVersion": "1.0.0", "name": "n2", "type": "bridge", "bridge": "br2", "isGateway": true,
        "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.3.0/24"}]]}});
    let blue = node.lab.container("blue");
    let of_blue = node.call("ADD", &conf, &blue, None).expect_json();
    node.call("DEL", &conf, &blue, Some(&of_blue)).expect_ok();

    let [back, clear] = &commands(&node.lab, "Going back")[..] else { panic!("other blocks") };
    node.lab.sh(back).expect_ok();

    assert!(!node.is_ours("bridge"));
    node.disconnect(&green, &of_green);
    assert!(node.lab.ruleset().contains("table inet weft"));
    node.lab.sh(clear).expect_ok();
    assert!(!node.lab.ruleset().contains("table inet weft") && !node.lab.path("run/weft").exists());
    let of_red = node.connect(&red);
    node.disconnect(&red, &of_red);
}

/// A node of which some containers have their addresses from a server.
struct Leasing {
    server: DhcpServer,
    node: Node,
}

impl Leasing {
    /// Starts the server and the reference's daemon; nothing when there is no server on this machine.
    fn new() -> Option<Self> {
        let node = Node::new();
        let server = DhcpServer::start(&node.lab, &[])?;
        // Ours keeps to the lab's root, and the reference knows of none.
        let line = "mkdir -p /run/cni $WEFT_ROOT/run/cni && mount --bind $WEFT_ROOT/run/cni /run/cni";
        node.lab.sh(line).expect_ok();
        let leasing = Self { server, node };
        let daemon = leasing.node.lab.path("opt/cni/bin/dhcp");
        let words = "daemon -pidfile /run/cni/dhcp.pid > /run/cni/dhcp.log 2>&1 &";
        leasing.node.lab.sh(&format!("exec {} {words}", daemon.display())).expect_ok();
        leasing.listens(false);
        Some(leasing)
    }

    /// Waits until a daemon listens, and asserts whose it is.
    #[track_caller]
    fn listens(&self, ours: bool) {
        until("the daemon's start", || UnixStream::connect("/run/cni/dhcp.sock").is_ok());
        until("the daemon's number", || {
            let number = std::fs::read_to_string("/run/cni/dhcp.pid").unwrap_or_default();
            let program = std::fs::read(format!("/proc/{}/exe", number.trim())).unwrap_or_default();
            let is_ours = program == std::fs::read(staged_folder().join("dhcp")).unwrap();
            !program.is_empty() && is_ours == ours
        });
    }

    fn call(&self, verb: &str, container: &Container, result: Option<&Value>) -> Output {
        let conf = json!({"cniVersion": "1.0.0", "name": "leased", "type": "bridge", "bridge": "br0",
            "ipam": {"type": "dhcp"}});
        self.node.call(verb, &conf, container, result)
    }

    /// Types the first commands of these sections.
    #[track_caller]
    fn typed(&self, sections: &[&str]) {
        for section in sections {
            self.node.lab.sh(&commands(&self.node.lab, section)[0]).expect_ok();
        }
    }
}

#[test]
fn the_daemon_follows_the_plugins_both_ways_as_the_page_has_it() {
    skip_unless!(Path::new(DEBIAN).join("dhcp").exists(), "Debian's package containernetworking-plugins");
    let Some(leasing) = Leasing::new() else { return };
    let [red, green] = ["red", "green"].map(|name| leasing.node.lab.container(name));
    let of_red = leasing.call("ADD", &red, None).expect_json();

    leasing.typed(&["Switching a node over", "The dhcp daemon"]);
    leasing.listens(true);

    // The lease that the reference's daemon got is ours now, and so are new ones.
    leasing.call("CHECK", &red, Some(&of_red)).expect_ok();
    let kept = |name: &str| leasing.node.lab.path("run/weft/dhcp").join(name).exists();
    assert!(kept("red") && !kept("green"));
    let of_green = leasing.call("ADD", &green, None).expect_json();
    let held = leasing.server.given();
    assert!(kept("green") && held.len() == 2, "{held:?}");

    leasing.typed(&["Going back", "The dhcp daemon"]);
    leasing.listens(false);

    assert_eq!(leasing.server.given(), held, "the server was told nothing");
    for (container, result) in [(&red, &of_red), (&green, &of_green)] {
        assert_eq!(container.addresses("eth0").len(), 1);
        leasing.call("CHECK", container, Some(result)).expect_ok();
        assert!(
            held.iter().all(|address| leasing.server.given().contains(address)),
            "the same address again"
        );
        leasing.call("DEL", container, Some(result)).expect_ok();
        assert!(!container.has_link("eth0"));
    }
}
