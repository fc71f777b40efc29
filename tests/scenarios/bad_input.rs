//! Bad input gets one clear line that names the object, the right exit code, and nothing left behind.

use std::os::unix::fs::PermissionsExt;

use weft_testkit::{Lab, Output};

use crate::bridge_plugin::fill;

/// Runs a line that must fail, and asserts the form of the error and that nothing changed.
#[track_caller]
fn refused(lab: &Lab, line: &str, code: i32, words: &[&str]) -> Output {
    let before = lab.snapshot();
    let output = lab.weft(line.split_whitespace());
    form(&output, code, words);
    lab.assert_restored(&before);
    output
}

#[track_caller]
fn form(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code, code, "{output}");
    assert_eq!(output.stdout, "", "{output}");
    for word in words {
        assert!(output.stderr.contains(word), "does not name {word:?}: {output}");
    }
    let mut lines = output.stderr.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("weft: ")), "{output}");
    assert!(lines.all(|line| line.starts_with("hint: ")), "{output}");
}

fn with_blue() -> Lab {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab
}

#[test]
fn an_unknown_network() {
    let lab = Lab::new();
    lab.container("red");
    refused(&lab, "network connect nowhere red", 3, &["nowhere"]);
    refused(&lab, "network disconnect nowhere red", 3, &["nowhere"]);
    refused(&lab, "network rm nowhere", 3, &["nowhere"]);
    let inspected = lab.weft(["network", "inspect", "nowhere"]);
    inspected.expect_failure(3, &["nowhere"]);
    assert_eq!(inspected.stdout.trim(), "[]");
}

#[test]
fn an_unknown_namespace() {
    let lab = with_blue();
    refused(&lab, "network connect blue ghost", 3, &["ghost"]);
    refused(&lab, "network connect blue /run/netns/ghost", 3, &["/run/netns/ghost"]);
    refused(&lab, "network connect blue pid:999999999", 3, &["999999999"]);
}

#[test]
fn a_path_that_is_no_namespace() {
    let lab = with_blue();
    refused(&lab, "network connect blue /etc/hostname", 3, &["/etc/hostname"]);
}

#[test]
fn a_container_that_is_not_connected() {
    let lab = with_blue();
    lab.container("red");
    refused(&lab, "network disconnect blue red", 3, &["red", "blue"]);
}

#[test]
fn a_name_in_use() {
    let lab = with_blue();
    refused(&lab, "network create blue", 4, &["blue"]);
    refused(&lab, "network create bridge", 4, &["bridge"]);
}

#[test]
fn a_name_that_is_none() {
    let lab = Lab::new();
    for name in ["a/b", ".hidden", "-x", "ü"] {
        let output = lab.weft(["network", "create", "--", name]);
        assert!(output.code == 2 && output.stderr.contains(name), "{output}");
    }
    assert!(!lab.weft(["network", "ls"]).expect_ok().contains("hidden"));
}

#[test]
fn a_bad_cidr() {
    let lab = Lab::new();
    refused(&lab, "network create --subnet 10.0.0.0/99 blue", 2, &["10.0.0.0/99"]);
    refused(&lab, "network create --subnet pigeon blue", 2, &["pigeon"]);
}

#[test]
fn host_bits_set() {
    let lab = Lab::new();
    refused(&lab, "network create --subnet 10.90.0.7/24 blue", 2, &["10.90.0.7/24", "10.90.0.0"]);
}

#[test]
fn a_gateway_outside() {
    let lab = Lab::new();
    refused(&lab, "network create --subnet 10.90.0.0/24 --gateway 10.91.0.1 blue", 2, &["10.91.0.1"]);
}

#[test]
fn a_range_outside() {
    let lab = Lab::new();
    refused(&lab, "network create --subnet 10.90.0.0/24 --ip-range 10.91.0.0/28 blue", 2, &["10.91.0.0/28"]);
}

#[test]
fn an_auxiliary_address_outside() {
    let lab = Lab::new();
    refused(&lab, "network create --subnet 10.90.0.0/24 --aux-address r=10.91.0.5 blue", 2, &["10.91.0.5"]);
}

#[test]
fn an_overlap_with_a_network() {
    let lab = with_blue();
    refused(&lab, "network create --subnet 10.90.0.128/25 pink", 4, &["10.90.0.128/25", "blue"]);
    refused(&lab, "network create --subnet 10.0.0.0/8 pink", 4, &["10.0.0.0/8", "blue"]);
}

#[test]
fn an_overlap_with_a_route() {
    let lab = Lab::new();
    lab.uplink();
    refused(&lab, "network create --subnet 192.0.2.0/25 pink", 4, &["192.0.2.0/25", "192.0.2.0/24"]);
}

#[test]
fn an_overlap_with_a_route_of_ipv6() {
    let lab = Lab::new();
    lab.uplink();
    let line = "network create --ipv6 --subnet 10.90.0.0/24 --subnet 2001:db8:ffff::/80 pink";
    refused(&lab, line, 4, &["2001:db8:ffff::/80", "2001:db8:ffff::/64"]);
    lab.weft(line.replace(":ffff:", ":fffe:").split(' ')).expect_ok();
}

#[test]
fn an_unknown_driver() {
    let lab = Lab::new();
    refused(&lab, "network create -d pigeon blue", 3, &["pigeon"]);
}

#[test]
fn an_unknown_option() {
    let lab = Lab::new();
    refused(&lab, "network create -o feathers=2 blue", 2, &["feathers", "mtu"]);
}

#[test]
fn an_address_outside_the_network() {
    let lab = with_blue();
    let red = lab.container("red");
    refused(&lab, "network connect --ip 10.91.0.9 blue red", 2, &["10.91.0.9"]);
    assert!(!red.has_link("eth0"));
}

#[test]
fn an_address_that_no_container_may_have() {
    let lab = Lab::new();
    let create = "network create --subnet 10.90.0.0/24 --aux-address printer=10.90.0.5 blue";
    lab.weft(create.split(' ')).expect_ok();
    let red = lab.container("red");
    refused(&lab, "network connect --ip 10.90.0.1 blue red", 4, &["10.90.0.1", "gateway"]);
    refused(&lab, "network connect --ip 10.90.0.5 blue red", 4, &["10.90.0.5", "reserved"]);
    refused(&lab, "network connect --ip 10.90.0.255 blue red", 2, &["10.90.0.255", "broadcast"]);
    assert!(!red.has_link("eth0"));
}

/// Whatever stands in the way, and however far connecting has come by then.
#[test]
fn a_refused_connect_leaves_the_containers_loopback_down() {
    let lab = with_blue();
    let red = lab.container("red");
    let untouched = red.ip("-oneline address show");
    let refused = |line: &str, code: i32, words: &[&str]| {
        form(&lab.weft(line.split(' ')), code, words);
        assert_eq!(red.ip("-oneline address show"), untouched, "after {line}");
        assert!(!red.is_up("lo"), "after {line}");
    };
    refused("network connect --ip 10.90.0.1 blue red", 4, &["10.90.0.1"]);

    let green = lab.container("green");
    lab.weft(["network", "connect", "--ip", "10.90.0.9", "-p", "8080:80", "blue", "green"]).expect_ok();
    refused("network connect --ip 10.90.0.9 blue red", 4, &["10.90.0.9"]);
    refused("network connect -p 8080:80 blue red", 4, &["8080"]);
    assert!(green.is_up("lo"), "who is connected has it up");

    // All plugins were content; what fails is the last thing to be done.
    let results = lab.path("var/lib/cni/results");
    std::fs::remove_dir_all(&results).unwrap();
    lab.write("var/lib/cni/results", "");
    refused("network connect blue red", 1, &["results"]);
    std::fs::remove_file(&results).unwrap();

    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert!(red.is_up("lo"));
}

/// It is up already and has what no loopback interface should have: the refusal is no reason to lower it.
#[test]
fn a_loopback_that_is_refused_stays_as_it_is() {
    let lab = with_blue();
    let red = lab.container("red");
    red.ip("link set lo up");
    red.ip("address add 192.0.2.9/32 dev lo");
    let before = red.ip("-oneline address show");
    form(&lab.weft(["network", "connect", "blue", "red"]), 1, &["lo", "192.0.2.9"]);
    assert_eq!(red.ip("-oneline address show"), before);
    assert!(red.is_up("lo") && !red.has_link("eth0"));
    assert!(!lab.path("var/lib/cni/networks/blue/10.90.0.2").exists(), "the address stayed");
    assert!(!lab.weft(["ps"]).expect_ok().contains("red"));
}

#[test]
fn an_interface_name_that_is_none() {
    let lab = with_blue();
    lab.container("red");
    refused(&lab, "network connect --interface a-name-far-too-long blue red", 2, &["a-name-far-too-long"]);
}

#[test]
fn an_interface_name_that_somebody_elses_link_has() {
    let lab = with_blue();
    let red = lab.container("red");
    red.ip("link add eth0 type veth peer name other");
    let before = red.ip("-oneline address show");
    for line in ["network connect --interface eth0 blue red", "network connect blue red"] {
        let output = refused(&lab, line, 4, &["eth0", "already exists", "hint: ", "--interface"]);
        assert_eq!(red.ip("-oneline address show"), before, "{output}");
    }
    assert!(!lab.path("var/lib/cni/networks/blue/10.90.0.2").exists(), "the address stayed");
    // The hint is right.
    lab.weft(["network", "connect", "--interface", "eth1", "blue", "red"]).expect_ok();
    assert!(red.ping("10.90.0.1"));
    assert!(red.has_link("other"), "whose link it is stays his");
}

#[test]
fn a_link_in_the_bridges_place() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.ip("link add mybr type veth peer name mybrpeer");
    lab.weft(["network", "create", "-o", "bridge=mybr", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    let before = lab.snapshot();
    let output = lab.weft(["network", "connect", "blue", "red"]);
    form(&output, 1, &["mybr", "not a bridge"]);
    assert!(!red.has_link("eth0"));
    lab.assert_restored(&before);
    // The network never had its bridge: that must not keep it, and whose link it is stays his.
    lab.weft(["network", "rm", "blue"]).expect_ok();
    assert!(!lab.path("etc/weft/networks.d/blue.conflist").exists());
    assert!(lab.has_link("mybr"));
}

#[test]
fn a_malformed_list() {
    let lab = Lab::new();
    lab.container("red");
    let list = r#"{"cniVersion": "1.0.0", "name": "odd", "plugins": [{"type": 7}]}"#;
    lab.write("etc/weft/networks.d/odd.conflist", list);
    let output = refused(&lab, "network connect odd red", 1, &["odd", "plugins[0]"]);
    assert!(output.stderr.contains("type"), "{output}");
    // One bad file does not hide the others.
    lab.weft(["network", "create", "blue"]).expect_ok();
    assert!(lab.weft(["network", "ls"]).stdout.contains("blue"));
}

#[test]
fn a_truncated_list() {
    let lab = with_blue();
    lab.container("red");
    let text = lab.read("etc/weft/networks.d/blue.conflist");
    lab.write("etc/weft/networks.d/blue.conflist", &text[..text.len() / 2]);
    refused(&lab, "network connect blue red", 1, &["blue"]);
}

#[test]
fn no_right_to_change_networks() {
    let lab = with_blue();
    lab.container("red");
    let before = lab.snapshot();
    let weft = weft_testkit::staged("weft");
    let line = format!(
        "setpriv --bounding-set -net_admin --inh-caps -net_admin {} network connect blue red",
        weft.display()
    );
    let output = lab.sh(&format!("CNI_PATH={} {line}", weft_testkit::staged_folder().display()));
    form(&output, 1, &["ermi"]);
    lab.assert_restored(&before);
}

#[test]
fn a_full_disk_at_create() {
    let lab = Lab::new();
    lab.small_disk("etc/weft", 32 * 1024);
    fill(&lab, "etc/weft/ballast");
    let output = lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]);
    form(&output, 1, &["blue", "pace left"]);
    std::fs::remove_file(lab.path("etc/weft/ballast")).unwrap();
    assert!(!lab.weft(["network", "ls"]).expect_ok().contains("blue"));
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
}

#[test]
fn a_full_disk_at_connect() {
    let lab = with_blue();
    let red = lab.container("red");
    lab.small_disk("run/weft", 32 * 1024);
    fill(&lab, "run/weft/ballast");
    let output = lab.weft(["network", "connect", "blue", "red"]);
    form(&output, 1, &["pace left"]);
    assert!(!red.has_link("eth0"));
    assert!(!lab.ip("-brief link").contains("veth"));
    assert!(!lab.path("var/lib/cni/networks/blue/10.90.0.2").exists(), "the address stayed");
    std::fs::remove_file(lab.path("run/weft/ballast")).unwrap();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert!(red.ping("10.90.0.1"));
}

#[test]
fn a_folder_that_cannot_be_written() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.path("etc/weft")).unwrap();
    std::fs::set_permissions(lab.path("etc/weft"), std::fs::Permissions::from_mode(0o555)).unwrap();
    lab.sh("mount --bind \"$WEFT_ROOT/etc/weft\" \"$WEFT_ROOT/etc/weft\" && mount -o remount,ro,bind \"$WEFT_ROOT/etc/weft\"").expect_ok();
    let output = lab.weft(["network", "create", "blue"]);
    form(&output, 1, &["ead-only"]);
}

#[test]
fn a_pipe_in_place_of_a_file_keeps_nobody_waiting() {
    let lab = with_blue();
    let red = lab.container("red");
    let pipe = |path: &str| {
        let path = lab.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    };
    let odd = pipe("etc/weft/networks.d/odd.conflist");
    // A snapshot would read the pipe.
    form(&lab.weft(["network", "connect", "odd", "red"]), 1, &["odd", "it is no file"]);
    assert!(lab.weft(["network", "ls"]).stdout.contains("blue"), "it hides no other");
    std::fs::remove_file(odd).unwrap();

    // What ADD records of this container stands in the way of nobody else.
    pipe("run/weft/attachments/green/eth0.json");
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert!(lab.weft(["ps"]).expect_ok().contains("red"));
    assert!(red.ping("10.90.0.1"));

    pipe("etc/weft/weft.toml");
    form(&lab.weft(["network", "ls"]), 1, &["weft.toml", "it is no file"]);
}
