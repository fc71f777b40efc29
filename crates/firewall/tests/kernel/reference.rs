//! Beside the CNI reference plugins themselves: what they leave we remove, and the other way round.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use weft_firewall::{Backend, Fragment, SpoofCheck, ensure, remove};
use weft_netns::{create, isolate};

use crate::lab::{attachment, claims, endpoint, has, ruleset, sh};

const BRIDGE: &str = "/usr/lib/cni/bridge";
const CONF: &str = r#"{"cniVersion":"0.4.0","name":"test","type":"bridge","bridge":"br0","isGateway":true,
    "ipMasq":true,"macspoofchk":true,
    "ipam":{"type":"host-local","subnet":"10.0.0.0/24","dataDir":"/run/ipam"}}"#;

/// Runs the reference bridge plugin.
fn plugin(verb: &str) {
    #[expect(clippy::disallowed_methods, reason = "a test plays the runtime")]
    let mut child = Command::new(BRIDGE)
        .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", "1234"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", "/run/netns/c1"), ("CNI_PATH", "/usr/lib/cni")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(CONF.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stdout));
}

fn nat() -> String {
    sh("iptables -t nat -S")
}

#[test]
fn hosts_can_switch_both_ways() {
    weft_testkit::skip_unless!(Path::new(BRIDGE).exists(), "the CNI reference plugins");
    if !has("iptables-restore") || !has("nft") {
        return;
    }
    isolate().unwrap();
    create("c1").unwrap();
    let before = nat();
    let attachment =
        |addresses: &[&str]| attachment(Backend::Iptables, &endpoint("test", "1234", "eth0"), addresses);
    plugin("ADD");
    let theirs = nat();
    assert_ne!(theirs, before);
    assert!(ruleset().contains("chain cni-br-iface-1234-eth0"));

    remove(&attachment(&[])).unwrap();
    remove(&Fragment::SpoofCheck(SpoofCheck {
        host_ifname: "veth1234".parse().unwrap(),
        mac: None,
        endpoint: endpoint("test", "1234", "eth0"),
        claims: claims(),
    }))
    .unwrap();
    assert_eq!(nat(), before, "what they made is gone");
    assert!(!ruleset().contains("cni-br-iface"), "{}", ruleset());

    ensure(&attachment(&["10.0.0.2/24"])).unwrap();
    assert_eq!(nat(), theirs, "we make what they made");

    plugin("DEL");
    assert_eq!(nat(), before, "they remove what we made");
}
