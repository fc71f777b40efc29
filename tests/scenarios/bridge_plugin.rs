//! The `bridge` plugin against the kernel: what it leaves, what it undoes, what it lets through.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Snapshot};

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "bridge", "bridge": "br0",
        "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]},
    })
}

/// Brings the network to life and takes everybody off it again: what is there now is what DEL keeps.
fn quiet_network(lab: &Lab, conf: &Value) -> Snapshot {
    let first = lab.container("first");
    lab.plugin("bridge").json(conf).add(&first).expect_ok();
    lab.plugin("bridge").json(conf).del(&first).expect_ok();
    lab.snapshot()
}

#[test]
fn del_leaves_the_host_exactly_as_it_was() {
    let lab = Lab::new();
    let red = lab.container("red");
    let before = quiet_network(&lab, &conf());

    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    assert_ne!(lab.snapshot(), before, "ADD did nothing, so DEL proves nothing");

    lab.plugin("bridge").json(&conf()).del(&red).expect_ok();
    lab.assert_restored(&before);
    assert!(!red.has_link("eth0"));
}

/// DEL in every situation a runtime gets into leaves the host as it was.
fn del_restores(extra: &Value, lose: fn(&Container), netns: Option<&str>) {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut conf = conf();
    for (key, value) in extra.as_object().unwrap() {
        conf[key] = value.clone();
    }
    let before = quiet_network(&lab, &conf);
    lab.plugin("bridge").json(&conf).add(&red).expect_ok();
    assert_ne!(lab.snapshot(), before, "ADD did nothing, so DEL proves nothing");

    lose(&red);

    let call = lab.plugin("bridge").json(&conf);
    let call = if let Some(path) = netns { call.netns(path) } else { call };
    call.del(&red).expect_ok();
    lab.assert_restored(&before);
    call.del(&red).expect_ok();
    lab.assert_restored(&before);
}

#[test]
fn del_restores_without_a_namespace() {
    del_restores(&json!({}), Container::vanish, None);
}

#[test]
fn del_restores_when_no_namespace_is_given() {
    del_restores(&json!({}), Container::vanish, Some(""));
}

#[test]
fn del_restores_when_no_namespace_is_given_though_it_exists() {
    del_restores(&json!({}), |_| (), Some(""));
}

#[test]
fn del_restores_when_a_plain_file_is_left() {
    del_restores(&json!({}), Container::vanish_leaving_a_file, None);
}

#[test]
fn del_restores_when_the_link_is_gone() {
    del_restores(&json!({}), |red| drop(red.ip("link delete eth0")), None);
}

#[test]
fn del_restores_when_it_waits_for_the_kernel() {
    del_restores(&json!({"syncDelete": true}), |_| (), None);
}

#[test]
fn del_restores_the_spoof_check() {
    del_restores(&json!({"macspoofchk": true}), Container::vanish, Some(""));
}

#[test]
fn del_restores_masquerading_by_iptables() {
    del_restores(&json!({"ipMasqBackend": "iptables"}), Container::vanish, Some(""));
}

#[test]
fn del_restores_masquerading_by_upstream_nftables() {
    del_restores(&json!({"ipMasqBackend": "nftables"}), Container::vanish, Some(""));
}

#[test]
fn del_needs_no_record_of_ours() {
    let lab = Lab::new();
    let red = lab.container("red");
    let before = quiet_network(&lab, &conf());
    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    std::fs::remove_dir_all(lab.path("run/weft/attachments")).unwrap();
    lab.plugin("bridge").json(&conf()).netns("").del(&red).expect_ok();
    lab.assert_restored(&before);
}

#[test]
fn del_survives_a_truncated_record() {
    let lab = Lab::new();
    let red = lab.container("red");
    let before = quiet_network(&lab, &conf());
    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    let record = lab.path("run/weft/attachments/red/eth0.json");
    assert!(record.is_file(), "there is no record to truncate");
    std::fs::File::create(&record).unwrap();
    lab.plugin("bridge").json(&conf()).del(&red).expect_ok();
    lab.assert_restored(&before);
}

#[test]
fn a_failure_half_way_is_undone() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut bad = conf();
    bad["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.9"}]);
    let before = quiet_network(&lab, &conf());
    let refused = lab.plugin("bridge").json(&bad).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("198.51.100.0/24"), "the error names the route: {refused}");
    lab.assert_restored(&before);
    assert!(!red.has_link("eth0"));

    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    assert!(red.ping("10.1.2.1"));
}

#[test]
fn a_first_add_that_fails_takes_the_bridge_back() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut bad = conf();
    bad["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.9"}]);
    assert_ne!(lab.plugin("bridge").json(&bad).add(&red).code, 0);
    assert!(!lab.has_link("br0"), "the bridge stayed");
    assert!(!lab.ip("-brief link").contains("veth"));
    assert!(!red.has_link("eth0"));
}

#[test]
fn an_interface_name_that_is_taken_is_named() {
    let lab = Lab::new();
    let red = lab.container("red");
    red.ip("link add eth0 type bridge");
    let before = quiet_network(&lab, &conf());
    let refused = lab.plugin("bridge").json(&conf()).add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("eth0") && refused.stdout.contains("already exists"), "{refused}");
    lab.assert_restored(&before);
    assert_eq!(red.link("eth0")["linkinfo"]["info_kind"], "bridge", "what was there stays");
}

#[test]
fn the_first_packet_is_not_lost() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    for number in 0..20 {
        let next = lab.container(&format!("c{number}"));
        let result = lab.plugin("bridge").json(&conf()).add(&next).expect_json();
        let targets = [
            ("10.1.2.2", "IPv4 neighbour"),
            ("2001:db8:1::2", "IPv6 neighbour"),
            ("2001:db8:1::1", "gateway"),
        ];
        for (address, what) in targets {
            assert!(next.ping(address), "container {number} lost its first packet to the {what}: {result}");
        }
    }
}

#[test]
fn several_ranges_and_families_give_an_address_each() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut conf = conf();
    conf["ipam"]["ranges"] = json!([
        [{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}], [{"subnet": "2001:db8:1::/64"}], [{"subnet": "2001:db8:2::/64"}],
    ]);
    lab.plugin("bridge").json(&conf).add(&red).expect_ok();
    let mut addresses = red.addresses("eth0");
    addresses.sort();
    assert_eq!(addresses, ["10.1.2.2/24", "10.1.3.2/24", "2001:db8:1::2/64", "2001:db8:2::2/64"]);
    for gateway in ["10.1.2.1", "10.1.3.1", "2001:db8:1::1", "2001:db8:2::1"] {
        assert!(red.ping(gateway), "{gateway}");
    }
}

#[test]
fn the_mtu_follows_the_uplink() {
    let lab = Lab::new();
    lab.uplink();
    lab.ip("link set uplink0 mtu 1420");
    let red = lab.container("red");
    let result = lab.plugin("bridge").json(&conf()).add(&red).expect_json();
    assert_eq!(red.link("eth0")["mtu"], 1420);
    assert_eq!(lab.ip_json("link show dev br0")[0]["mtu"], 1420);
    assert_eq!(result["interfaces"][2]["mtu"], 1420);
}

#[test]
fn a_hairpin_lets_a_container_call_itself_through_the_bridge() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut plain = conf();
    plain["hairpinMode"] = json!(false);
    let dnat = "nft 'add table ip t; add chain ip t c { type nat hook prerouting priority -100; }; \
                add rule ip t c ip daddr 10.1.2.1 tcp dport 8080 dnat to 10.1.2.2:80; \
                add chain ip t p { type nat hook postrouting priority 90; }; \
                add rule ip t p ip saddr 10.1.2.2 ip daddr 10.1.2.2 masquerade'";
    let reaches_itself = |conf: &Value| {
        lab.plugin("bridge").json(conf).args("IgnoreUnknown=1;IP=10.1.2.2").add(&red).expect_ok();
        let service = red.serve_tcp(80);
        let reached = red.call_tcp("10.1.2.1".parse().unwrap(), 8080).is_ok();
        drop(service);
        lab.plugin("bridge").json(conf).del(&red).expect_ok();
        reached
    };
    lab.sh(dnat).expect_ok();
    let routed_by_the_bridge = lab.sysctl("ipv4/ip_forward") == "1" && reaches_itself(&plain);
    assert!(!routed_by_the_bridge, "it works without a hairpin, so it proves nothing");
    assert!(reaches_itself(&conf()));
}

#[test]
fn an_error_is_one_json_object_with_the_right_code() {
    let lab = Lab::new();
    let red = lab.container("red");
    let cases = [
        (json!({"mtu": 10}), 7, "MTU 10"),
        (json!({"bridge": "a-name-that-is-far-too-long"}), 7, "a-name-that-is-far-too-long"),
        (json!({"vlan": 5000}), 7, "5000"),
        (json!({"ipMasqBackend": "pigeons"}), 7, "pigeons"),
    ];
    for (extra, code, word) in cases {
        let mut conf = conf();
        for (key, value) in extra.as_object().unwrap() {
            conf[key] = value.clone();
        }
        let before = lab.snapshot();
        let error = lab.plugin("bridge").json(&conf).add(&red).expect_error(code);
        assert!(error["msg"].as_str().unwrap().contains(word), "{error}");
        assert_eq!(error["cniVersion"], "1.1.0");
        lab.assert_restored(&before);
    }
}

#[test]
fn without_the_right_to_change_networks_it_says_so() {
    let lab = Lab::new();
    let red = lab.container("red");
    let wrapper = lab.path("powerless/bridge");
    lab.write(
        "powerless/bridge",
        format!(
            "#!/bin/sh\nexec setpriv --bounding-set -net_admin --inh-caps -net_admin {} \"$@\"\n",
            weft_testkit::staged("bridge").display()
        ),
    );
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = weft_testkit::staged_folder().display().to_string();
    let before = lab.snapshot();
    let call = lab
        .plugin_in(&lab.path("powerless"), "bridge")
        .json(&conf())
        .env("CNI_PATH", folder)
        .env("PATH", "/usr/bin:/bin");
    let refused = call.add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("ermi") || refused.stdout.contains("CAP_NET_ADMIN"), "{refused}");
    lab.assert_restored(&before);
}

#[test]
fn a_full_disk_undoes_the_add() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.small_disk("var/lib/cni", 64 * 1024);
    fill(&lab, "var/lib/cni/ballast");
    let refused = lab.plugin("bridge").json(&conf()).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(
        refused.stdout.contains("No space left") || refused.stdout.contains("no space left"),
        "{refused}"
    );
    assert!(!red.has_link("eth0"));
    assert!(!lab.ip("-brief link").contains("veth"));
    std::fs::remove_file(lab.path("var/lib/cni/ballast")).unwrap();
    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    assert!(red.ping("10.1.2.1"));
}

/// Fills the file system under `below` to the last block.
pub(crate) fn fill(lab: &Lab, below: &str) {
    let mut file = std::fs::File::create(lab.path(below)).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok() {}
}

#[test]
fn gc_takes_the_network_down_when_nobody_is_left() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    assert!(lab.has_link("br0") && lab.ruleset().contains("10.1.2.0"));
    red.vanish();
    lab.plugin("bridge").json(&conf()).gc(&[]).expect_ok();
    assert!(!lab.has_link("br0"), "the bridge stayed");
    assert!(!lab.ip("-brief link").contains("veth"));
    let rules = lab.ruleset();
    assert!(!rules.contains("10.1.2.0"), "{rules}");
}

#[test]
fn gc_leaves_other_networks_alone() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let mut other = conf();
    other["name"] = json!("n2");
    other["bridge"] = json!("br9");
    other["ipam"]["ranges"] = json!([[{"subnet": "10.9.9.0/24"}]]);
    lab.plugin("bridge").json(&conf()).add(&red).expect_ok();
    lab.plugin("bridge").json(&other).add(&green).expect_ok();
    lab.plugin("bridge").json(&conf()).gc(&[]).expect_ok();
    assert!(!red.has_link("eth0"), "GC left what is not valid");
    assert!(green.ping("10.9.9.1"), "GC took another network's attachment");
}

#[test]
fn check_looks_for_a_route_in_the_table_it_is_in() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut conf = conf();
    conf["ipam"]["routes"] = json!([{"dst": "10.9.0.0/16", "gw": "10.1.2.1", "table": 1001}]);
    let call = lab.plugin("bridge").json(&conf);
    let result = call.add(&red).expect_json();
    assert_eq!(red.ip("route show table 1001").trim(), "10.9.0.0/16 via 10.1.2.1 dev eth0");
    let call = call.prev_result(&result);
    call.check(&red).expect_ok();
    red.ip("route delete 10.9.0.0/16 table 1001");
    let told = call.check(&red);
    assert!(told.code != 0 && told.stdout.contains("10.9.0.0/16"), "{told}");
}

/// The configuration with IPv6 alone, and whether addresses are probed for duplicates.
fn probing(dad: bool) -> Value {
    let mut conf = conf();
    conf["ipam"]["ranges"] = json!([[{"subnet": "2001:db8:1::/64"}]]);
    conf["enabledad"] = json!(dad);
    conf
}

#[test]
fn addresses_are_probed_for_duplicates_when_asked_for() {
    let lab = Lab::new();
    for (name, dad, expected) in [("red", true, ["1", "1"]), ("green", false, ["0", "0"])] {
        let container = lab.container(name);
        // Neither value is what the kernel would have given.
        container.set_sysctl("ipv6/conf/default/accept_dad", if dad { "0" } else { "1" });
        container.set_sysctl("ipv6/conf/default/enhanced_dad", "0");
        lab.plugin("bridge").json(&probing(dad)).add(&container).expect_ok();
        let found =
            ["accept_dad", "enhanced_dad"].map(|key| container.sysctl(&format!("ipv6/conf/eth0/{key}")));
        assert_eq!(found, expected, "{name}");
        let tentative = container.ip("-6 address show dev eth0 tentative");
        assert!(!tentative.contains("2001:db8:1::"), "{tentative}");
    }
}

#[test]
fn a_duplicate_is_refused_and_leaves_no_link() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    // Somebody on the bridge's network has what is the first container's.
    lab.ip("link add br0 type bridge");
    lab.ip("link set br0 up");
    lab.ip("link add other type veth peer name eth0 netns green");
    lab.ip("link set other master br0 up");
    green.ip("address add 2001:db8:1::2/64 dev eth0 nodad");
    green.ip("link set eth0 up");
    let told = lab.plugin("bridge").json(&probing(true)).add(&red).expect_error(999);
    let text = "link eth0 has address 2001:db8:1::2/64 in DADFAILED state";
    assert!(told["msg"].as_str().unwrap().contains(text), "{told}");
    assert!(!red.has_link("eth0"));
    assert!(!lab.ip("-brief link").contains("veth"), "the host's end stayed");
    assert!(!lab.path("var/lib/cni/networks/n1/2001:db8:1::2").exists(), "the address stayed");
    assert!(!lab.path("run/weft/attachments/red").exists());
    // Unasked, nobody looks.
    lab.plugin("bridge").json(&probing(false)).add(&red).expect_ok();
}
