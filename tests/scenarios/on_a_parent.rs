//! Networks whose containers are straight on a link of the host, through `weft`.

use weft_testkit::{Lab, does_not_reach, reaches, skip_unless};

fn story(driver: &str, mode: &str, probe: &str) {
    let lab = Lab::new();
    let _far = lab.wire();
    skip_unless!(lab.has_link_type_on("up0", probe), "a kernel with links of type macvlan and ipvlan");
    lab.weft(["network", "ls"]).expect_ok();
    let before = lab.snapshot();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let words = ["network", "create", "-d", driver, "-o", "parent=up0", "-o", mode];
    let subnets = ["--subnet", "10.1.2.0/24", "--subnet", "2001:db8:1::/64", "wire"];
    lab.weft(words.into_iter().chain(subnets)).expect_ok();
    lab.weft(["network", "connect", "wire", "red"]).expect_ok();
    lab.weft(["network", "connect", "--ip", "10.1.2.77", "wire", "green"]).expect_ok();
    assert!(green.addresses("eth0").contains(&"10.1.2.77/24".to_string()));
    reaches(&red, ["10.1.2.1", "2001:db8:1::1", "10.1.2.77"]);
    assert!(red.ip("route").contains("default via 10.1.2.1 dev eth0"));
    assert!(red.ip("-6 route").contains("default via 2001:db8:1::1 dev eth0"));
    let doctor = lab.weft(["doctor"]);
    assert!(!doctor.stdout.contains("red/eth0"), "{doctor}");

    lab.weft(["network", "disconnect", "wire", "red"]).expect_ok();
    assert!(!red.has_link("eth0"));
    lab.weft(["network", "disconnect", "wire", "green"]).expect_ok();
    lab.weft(["network", "rm", "wire"]).expect_ok();
    lab.assert_restored(&before);
}

#[test]
fn a_macvlan_network_from_beginning_to_end() {
    story("macvlan", "macvlan_mode=bridge", "macvlan mode bridge");
}

#[test]
fn an_ipvlan_network_from_beginning_to_end() {
    story("ipvlan", "ipvlan_mode=l2", "ipvlan mode l2");
}

#[test]
fn private_containers_do_not_reach_each_other() {
    let lab = Lab::new();
    let _far = lab.wire();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let words = ["network", "create", "-d", "macvlan", "-o", "parent=up0", "-o", "mode=private"];
    lab.weft(words.into_iter().chain(["--subnet", "10.1.2.0/24", "wire"])).expect_ok();
    lab.weft(["network", "connect", "wire", "red"]).expect_ok();
    lab.weft(["network", "connect", "wire", "green"]).expect_ok();
    reaches(&red, ["10.1.2.1"]);
    reaches(&green, ["10.1.2.1"]);
    does_not_reach(&red, ["10.1.2.3"]);
}

#[test]
fn a_parent_that_is_not_there_is_named() {
    let lab = Lab::new();
    let _red = lab.container("red");
    lab.weft(["network", "create", "-d", "macvlan", "-o", "parent=up9", "--subnet", "10.1.2.0/24", "wire"])
        .expect_ok();
    let refused = lab.weft(["network", "connect", "wire", "red"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("up9"), "{refused}");
}
