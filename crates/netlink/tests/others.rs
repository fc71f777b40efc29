//! Whether others have a say about packets, asked of the real kernel. Each test makes and leaves namespaces of its own.

#![cfg(test)]

use std::process::Command;
use std::time::Duration;

use weft_netlink::bpf::{Gate, Links, tcx_received};
use weft_netlink::{Socket, link, rule, tc, xfrm};
use weft_netns::isolate;

#[expect(clippy::disallowed_methods, reason = "the tests' own tools, in a namespace of their own")]
fn sh(line: &str) {
    let said = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(said.status.success(), "{line}: {}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn ipsec_is_heard_of() {
    isolate().unwrap();
    assert_eq!(xfrm::demands().unwrap(), xfrm::Demands::default());
    sh("ip xfrm policy add src 10.1.0.0/24 dst 10.2.0.0/24 dir fwd action block");
    assert_eq!(xfrm::demands().unwrap(), xfrm::Demands { policies: 1, blocks: false });
    sh("ip xfrm policy flush");
    sh("ip xfrm policy setdefault fwd block");
    assert_eq!(xfrm::demands().unwrap(), xfrm::Demands { policies: 0, blocks: true });
    sh("ip xfrm policy setdefault fwd accept");
    assert_eq!(xfrm::demands().unwrap(), xfrm::Demands::default());
}

#[test]
fn filters_on_what_a_link_receives_are_heard_of() {
    isolate().unwrap();
    sh("ip link add br0 type bridge && ip link set br0 up");
    let mut socket = Socket::open().unwrap();
    let bridge = socket.link(link::get(&"br0".parse().unwrap())).unwrap().unwrap();
    let mut filters = || tc::filters_received(&mut socket, bridge.index).unwrap();
    assert!(filters().is_empty());
    sh("tc qdisc add dev br0 clsact");
    assert!(filters().is_empty());
    sh("tc filter add dev br0 egress protocol all u32 match u32 0 0 classid 1:1");
    assert!(filters().is_empty(), "what it sends is not meant");
    sh("tc filter add dev br0 ingress protocol all u32 match u32 0 0 classid 1:1");
    assert!(filters().iter().any(|filter| filter.contains("u32")), "{:?}", filters());
    sh("tc qdisc del dev br0 clsact");
    assert!(filters().is_empty());
    sh(
        "tc qdisc add dev br0 ingress_block 7 ingress && tc filter add block 7 protocol all u32 match u32 0 0 classid 1:1",
    );
    assert!(!filters().is_empty(), "those of a shared block are meant");
    assert_eq!(tcx_received(bridge.index).unwrap(), 0);
    assert!(!bridge.xdp);
}

#[test]
fn rules_that_ask_for_ports_are_told() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let mut asked = || rule::all(&mut socket).unwrap().iter().filter(|rule| rule.asks_more).count();
    assert_eq!(asked(), 0);
    sh("ip rule add fwmark 1 lookup 100");
    assert_eq!(asked(), 0);
    sh("ip rule add dport 80 lookup 100");
    assert_eq!(asked(), 1);
    sh("ip -6 rule add sport 1-80 lookup 100");
    assert_eq!(asked(), 2);
}

#[test]
fn a_gate_is_opened_and_shut_or_not_permitted() {
    let gate = match Gate::new() {
        Ok(gate) => gate,
        // Without the right to make maps (CAP_BPF) it is this, and nothing else.
        Err(error) => return assert!(error.is_not_permitted(), "{error}"),
    };
    assert_ne!(Gate::new().unwrap().id(), gate.id());
    gate.open_until(Gate::now().unwrap() + Duration::from_secs(3)).unwrap();
    gate.shut().unwrap();
    // Whatever others have attached on this machine, each is told once.
    let mut links = Links::default();
    let found = links.netfilter().unwrap();
    assert_eq!(links.netfilter().unwrap(), found);
}

/// What this kernel was built with decides; a kernel with neither says so without an error.
#[test]
fn the_old_filter_of_bridges_is_asked_for_without_being_loaded() {
    let before = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    let found = weft_netlink::ebtables::modules().unwrap();
    let has = |module: &str| std::path::Path::new("/sys/module").join(module).exists();
    assert!(found.iter().all(|module| has(module) || module == "ebtables"), "{found:?}");
    let after = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    let loaded = |list: &str| list.matches("ebtable").count();
    assert_eq!(loaded(&before), loaded(&after));
}
