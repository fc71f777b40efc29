//! The lab of several hosts keeps its promises, so that tests of overlays prove something.

use weft_testkit::{Underlay, does_not_reach, reaches};

#[test]
fn hosts_reach_each_other_and_the_world_and_a_capture_sees_it() {
    let net = Underlay::new(2);
    let (one, two) = (net.host(1), net.host(2));
    let capture = net.capture();
    reaches(one, [two.ipv4(), two.ipv6()].map(|address| address.to_string()));
    reaches(two, Underlay::WORLD);
    // ping(8) fills its packets with what -p says.
    one.run("ping", "-n -c 1 -p 57454654 192.0.2.2").expect_ok();
    assert_ne!(capture.stop_and_count(b"WEFTWEFT"), 0);
    assert_eq!(net.capture().stop_and_count(b"WEFTWEFT"), 0);
}

#[test]
fn a_host_is_cut_off_from_one_other_and_heals() {
    let net = Underlay::new(3);
    let (one, two, three) = (net.host(1), net.host(2), net.host(3));
    reaches(one, ["192.0.2.2", "192.0.2.3", "2001:db8::2"]);
    one.cut_off(two.ipv4());
    does_not_reach(one, ["192.0.2.2"]);
    does_not_reach(two, ["192.0.2.1"]);
    reaches(one, ["192.0.2.3", "2001:db8::2"]);
    reaches(three, ["192.0.2.2"]);
    one.heal();
    reaches(one, ["192.0.2.2"]);
    one.lose(1000);
    does_not_reach(one, ["192.0.2.3"]);
    one.heal();
    reaches(one, ["192.0.2.3"]);
}

#[test]
fn hosts_have_their_own_files_and_their_own_links() {
    let net = Underlay::new(2);
    let (one, two) = (net.host(1), net.host(2));
    let red = one.container("red");
    one.weft(["network", "create", "blue"]).expect_ok();
    one.weft(["network", "connect", "blue", "h1-red"]).expect_ok();
    assert!(red.has_link("eth0"));
    assert!(one.weft(["network", "ls"]).expect_ok().contains("blue"));
    assert!(!two.weft(["network", "ls"]).expect_ok().contains("blue"));
    one.set_mtu(net.lab(), 1400);
    assert_eq!(one.link("u0")["mtu"], 1400);
    assert_eq!(two.link("u0")["mtu"], 1500);
}
