//! The shell labs for people do what they say.

use std::path::{Path, PathBuf};

use weft_testkit::{Lab, Output};

fn script(lab: &Lab, name: &str, words: &str) -> Output {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netns-scripts").join(name);
    lab.sh(&format!("{} {words}", path.display()))
}

/// Builds a lab, lets `look` see it, and takes it down again without a trace.
fn up_and_down(name: &str, look: impl Fn(&Lab, &str)) {
    let lab = Lab::new();
    lab.weft(["network", "ls"]).expect_ok();
    lab.set_sysctl("ipv4/ip_forward", "1");
    let before = lab.snapshot();
    let up = script(&lab, name, "");
    look(&lab, up.expect_ok());
    script(&lab, name, "--down").expect_ok();
    lab.assert_restored(&before);
    script(&lab, name, "--down").expect_ok();
}

#[test]
fn bridge_two_containers() {
    up_and_down("bridge-two-containers.sh", |lab, said| {
        assert!(said.contains("--down"), "it says how to take it down: {said}");
        lab.sh("ip netns exec red ping -n -c 1 -W 2 10.90.0.20").expect_ok();
    });
}

#[test]
fn published_ports() {
    up_and_down("published-ports.sh", |lab, said| {
        assert!(said.contains("--down") && said.contains("weft port ls"), "it says what to look at: {said}");
        let listed = lab.weft(["port", "ls"]);
        assert!(listed.expect_ok().contains("0.0.0.0:8080->80/tcp"), "{listed}");
        let elements = lab.sh("nft list map inet weft publish4");
        assert!(elements.expect_ok().contains("0.0.0.0 . tcp . 8080 : 10.90.0.2 . 80"), "{elements}");
        lab.sh("ip netns exec green ping -n -c 1 -W 2 10.90.0.2").expect_ok();
    });
}

#[test]
fn two_networks_isolated() {
    up_and_down("two-networks-isolated.sh", |lab, said| {
        assert!(said.contains("green ping -c1 -W1 10.91.0.3"), "it says what to try: {said}");
        lab.sh("ip netns exec red ping -n -c 1 -W 2 10.90.0.3").expect_ok();
        lab.sh("ip netns exec red ping -n -c 1 -W 2 10.91.0.3").expect_ok();
        let across = lab.sh("ip netns exec green ping -n -c 1 -W 1 10.91.0.3");
        assert_ne!(across.code, 0, "green reaches brown: {across}");
        let show = script(lab, "show.sh", "");
        for word in ["red", "blue", "pink", "10.90.0."] {
            assert!(show.expect_ok().contains(word), "{word}: {show}");
        }
    });
}

#[test]
fn overlay_three_hosts() {
    up_and_down("overlay-three-hosts.sh", |lab, said| {
        assert!(
            said.contains("--down") && said.contains("weft overlay apply"),
            "it says what to try: {said}"
        );
        for address in ["10.1.0.66", "10.1.0.130"] {
            lab.sh(&format!("ip netns exec c1 ping -n -c 1 -W 2 {address}")).expect_ok();
        }
        let routes = lab.sh("ip netns exec h1 ip route show proto 201");
        assert_eq!(routes.expect_ok().matches("dev ov1388").count(), 2, "{routes}");
        lab.sh("ip netns exec h1 ip link delete ov1388").expect_ok();
        lab.sh("WEFT_ROOT=/run/weft-three-hosts/h1 ip netns exec h1 weft overlay apply").expect_ok();
        lab.sh("ip netns exec c1 ping -n -c 1 -W 2 10.1.0.66").expect_ok();
    });
}

#[test]
fn overlay_encrypted() {
    up_and_down("overlay-encrypted.sh", |lab, said| {
        assert!(said.contains("--down") && said.contains("kill -9"), "it says what to try: {said}");
        lab.sh("ip netns exec h1 ping -n -c 1 -W 5 10.92.0.2").expect_ok();
        lab.sh("ip netns exec h1 ip link set weftwga down").expect_ok();
        assert_ne!(lab.sh("ip netns exec h1 ping -n -c 1 -W 1 10.92.0.2").code, 0);
    });
}
