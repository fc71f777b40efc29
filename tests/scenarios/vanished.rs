//! A container's namespace goes first, as it does at every crash and every reboot.

use weft_testkit::{Container, Lab};

fn disconnect_after(lose: fn(&Container)) {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lose(&red);
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert!(!lab.ip("-brief link").contains("veth"));
    assert!(!lab.path("var/lib/cni/networks/blue/10.90.0.2").exists(), "the address stayed");
    assert!(!lab.weft(["ps"]).expect_ok().contains("red"));
    lab.weft(["network", "rm", "blue"]).expect_ok();
}

#[test]
fn disconnect_works_without_the_namespace() {
    disconnect_after(Container::vanish);
}

#[test]
fn disconnect_works_with_a_plain_file_in_its_place() {
    disconnect_after(Container::vanish_leaving_a_file);
}

#[test]
fn disconnect_works_when_the_interface_is_gone() {
    disconnect_after(|red| drop(red.ip("link delete eth0")));
}

#[test]
fn the_same_name_can_connect_again() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    red.vanish();
    let again = lab.container("red");
    lab.weft(["network", "disconnect", "-f", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert!(again.ping("10.90.0.1"));
}

#[test]
fn a_truncated_record_does_not_stand_in_the_way() {
    let lab = Lab::new();
    let _red = lab.container("red");
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    let record = lab.path("run/weft/attachments/red/eth0.json");
    assert!(record.is_file(), "there is no record to truncate");
    std::fs::File::create(&record).unwrap();
    lab.weft(["ps"]).expect_ok();
    lab.weft(["network", "disconnect", "-f", "blue", "red"]).expect_ok();
    assert!(!lab.ip("-brief link").contains("veth"));
    lab.weft(["network", "rm", "blue"]).expect_ok();
}
