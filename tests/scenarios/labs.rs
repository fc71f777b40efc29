//! The shell labs for people do what they say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weft_testkit::{Lab, Output, unpacked, until};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../netns-scripts").join(name)
}

fn script(lab: &Lab, name: &str, words: &str) -> Output {
    // What some of them need may be there without being installed.
    let peers = unpacked().join("usr/bin");
    lab.sh(&format!("PATH=$PATH:{} {} {words}", peers.display(), path(name).display()))
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
    });
}

/// Returns what `show.sh` says, by its headings.
fn shown(lab: &Lab) -> BTreeMap<String, String> {
    let said = script(lab, "show.sh", "");
    let sections = said.expect_ok().split("\n# ").skip(1).map(|section| section.split_once('\n').unwrap());
    sections.map(|(heading, text)| (heading.to_string(), even(text))).collect()
}

/// Returns a listing without the spaces that ip(8) and we leave at the ends of lines.
fn even(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_string()
}

#[test]
fn show_says_what_there_is() {
    const HEADINGS: [&str; 5] = ["attachments", "bridges", "firewall", "networks", "ports"];
    let lab = Lab::new();
    let nothing = shown(&lab);
    assert_eq!(nothing.keys().collect::<Vec<_>>(), HEADINGS);
    assert!(nothing["bridges"].is_empty() && nothing["ports"].is_empty() && nothing["firewall"].is_empty());
    assert!(nothing["networks"].contains("bridge") && !nothing["networks"].contains("blue"), "{nothing:?}");

    script(&lab, "two-networks-isolated.sh", "").expect_ok();
    let all = shown(&lab);

    let inside: Vec<&String> = all.keys().filter(|heading| heading.starts_with("inside ")).collect();
    assert_eq!(inside, ["inside brown", "inside green", "inside red"]);
    assert_eq!(all.len(), HEADINGS.len() + inside.len());
    let said = |output: Output| even(output.expect_ok());
    assert_eq!(all["networks"], said(lab.weft(["network", "ls"])));
    assert_eq!(all["attachments"], said(lab.weft(["ps"])));
    assert_eq!(all["bridges"], said(lab.sh("ip -brief link show type bridge")));
    assert_eq!(all["bridges"].lines().count(), 2, "one for each network");
    assert_eq!(all["ports"], said(lab.sh("bridge link")));
    assert_eq!(all["firewall"], said(lab.sh("nft list ruleset")));
    for word in ["blue", "pink"] {
        assert!(all["networks"].contains(word) && all["attachments"].contains(word), "{word}: {all:?}");
    }
    for name in ["red", "green", "brown"] {
        let text = &all[&format!("inside {name}")];
        let addresses = said(lab.sh(&format!("ip -n {name} -brief address")));
        let routes = said(lab.sh(&format!("ip -n {name} route")));
        assert_eq!(*text, format!("{addresses}\n{routes}"), "{name}");
        assert!(routes.contains("default via ") && addresses.contains("eth0"), "{name}");
    }
    script(&lab, "two-networks-isolated.sh", "--down").expect_ok();
    assert_eq!(shown(&lab).keys().collect::<Vec<_>>(), HEADINGS);
}

#[test]
fn show_says_when_nothing_is_built() {
    let lab = Lab::new();
    let elsewhere = lab.path("netns-scripts/show.sh");
    lab.write("netns-scripts/show.sh", std::fs::read(path("show.sh")).unwrap());
    let line = format!("PATH=/usr/sbin:/usr/bin:/sbin:/bin bash {}", elsewhere.display());
    let said = lab.sh(&line);
    assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said}");
    assert!(said.stderr.contains("cargo xtask stage"), "{said}");
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
    /// What is sought on the wire, and how ping(8) is told to send it.
    const CANARY: &[u8] = b"canary";
    const PATTERN: &str = "63616e617279";
    let on = |number: u8, line: &str| {
        format!("WEFT_ROOT=/run/weft-encrypted/h{number} ip netns exec h{number} {line}")
    };
    let ping = |address: &str| format!("ip netns exec c1 ping -n -c 3 -W 5 -p {PATTERN} {address}");
    up_and_down("overlay-encrypted.sh", |lab, said| {
        assert!(said.contains("--down"), "it says what to try: {said}");
        let there = said.split_once("c2 on h2, at ").and_then(|(_, rest)| rest.split_once(". "));
        let (there, _) = there.unwrap_or_else(|| panic!("it says where: {said}"));
        assert!(lab.sh(&on(1, "nft list table inet weft_tunnels")).expect_ok().contains("weftwg*"));
        lab.sh(&on(1, &format!("weft overlay diag {there}"))).expect_ok();
        let capture = lab.capture();
        lab.sh(&ping(there)).expect_ok();
        assert_eq!(capture.stop_and_count(CANARY), 0);
        // The positive twin: a network that is not encrypted.
        lab.sh(&on(1, "weft network create -d overlay --subnet 10.93.0.0/16 open")).expect_ok();
        until("h2 has it", || lab.sh(&on(2, "weft network exists open")).code == 0);
        for number in [1, 2] {
            lab.sh(&on(number, &format!("weft network connect open c{number}"))).expect_ok();
        }
        let line = "ip -n c2 -4 -o address | sed -n 's/.*inet \\(10.93[0-9.]*\\).*/\\1/p'";
        let open = lab.sh(line).expect_ok().trim().to_string();
        let capture = lab.capture();
        lab.sh(&ping(&open)).expect_ok();
        assert_ne!(capture.stop_and_count(CANARY), 0);
        // Who carries the packets is killed, or the device is taken, and both come back.
        let broken = match lab.has_link_type("wireguard") {
            true => on(1, "ip link delete weftwga"),
            false => {
                let line = said.lines().find_map(|line| line.trim().strip_prefix("kill -9 "));
                let line = line.unwrap_or_else(|| panic!("it says who carries the packets: {said}"));
                let ids = line.split_whitespace().take_while(|word| word.parse::<u32>().is_ok());
                format!("kill -9 {}", ids.collect::<Vec<_>>().join(" "))
            }
        };
        lab.sh(&broken).expect_ok();
        until("they reach each other again", || lab.sh(&ping(there)).code == 0);
    });
}
