//! The first thing anybody does: a network, two containers, a ping.

use weft_testkit::Lab;

#[test]
fn two_containers_talk() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    let created = lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]);
    let id = created.expect_ok().trim();
    assert!(
        id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit()),
        "create prints the id alone: {created}"
    );

    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "blue", "green"]).expect_ok();
    assert_eq!(red.addresses("eth0"), ["10.90.0.2/24"]);
    assert_eq!(green.addresses("eth0"), ["10.90.0.3/24"]);
    assert!(red.ping("10.90.0.3"), "the first packet was lost");
    assert!(green.ping("10.90.0.2"));
    assert!(red.ping("127.0.0.1"), "loopback is up");
}

#[test]
fn a_container_reaches_outside_through_masquerading() {
    let lab = Lab::new();
    let outside = lab.uplink();
    let red = lab.container("red");
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert_ne!(
        outside.run("ip", "route get 10.90.0.2").code,
        0,
        "the outside knows a way back, so an answer proves nothing"
    );
    assert!(red.ping("192.0.2.2"));
    let service = outside.serve_tcp(0);
    let seen = red.call_tcp("192.0.2.2".parse().unwrap(), service.port()).unwrap();
    assert_eq!(seen.to_string(), "192.0.2.1");
}

#[test]
fn everything_goes_when_the_network_goes() {
    let lab = Lab::new();
    lab.weft(["network", "ls"]).expect_ok();
    lab.set_sysctl("ipv4/ip_forward", "1");
    let before = lab.snapshot();
    let red = lab.container("red");
    lab.weft(["network", "create", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    assert_ne!(lab.snapshot(), before, "nothing was made, so nothing is proved");
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert!(!red.has_link("eth0"));
    lab.weft(["network", "rm", "blue"]).expect_ok();
    lab.assert_restored(&before);
}

#[test]
fn disconnect_leaves_the_others_connected() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "red"]).expect_ok();
    lab.weft(["network", "connect", "blue", "green"]).expect_ok();
    lab.weft(["network", "disconnect", "blue", "red"]).expect_ok();
    assert!(!red.has_link("eth0"));
    assert!(green.ping("10.90.0.1"));
}

#[test]
fn the_namespace_can_be_given_as_a_path_or_a_process() {
    let lab = Lab::new();
    let red = lab.container("red");
    let green = lab.container("green");
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "/run/netns/red"]).expect_ok();
    assert_eq!(red.addresses("eth0"), ["10.90.0.2/24"]);

    let sleeper = green.inside(|| weft_testkit::Program::new("sleep").args(["600"]).background());
    lab.weft(["network", "connect", "blue", &format!("pid:{}", sleeper.id())]).expect_ok();
    assert_eq!(green.addresses("eth0"), ["10.90.0.3/24"]);
}

#[test]
fn the_default_network_is_there_from_the_start() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    lab.weft(["network", "connect", "bridge", "red"]).expect_ok();
    lab.weft(["network", "connect", "bridge", "green"]).expect_ok();
    let address = green.addresses("eth0")[0].split('/').next().unwrap().to_string();
    assert!(red.ping(&address));
    for name in ["bridge", "host", "none"] {
        assert_ne!(lab.weft(["network", "rm", name]).code, 0, "{name} was removed");
    }
}

#[test]
fn ps_and_inspect_say_who_is_where() {
    let lab = Lab::new();
    lab.container("red");
    let id =
        lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok().trim().to_string();
    lab.weft(["network", "connect", "--name", "web", "blue", "red"]).expect_ok();
    let table = lab.weft(["ps"]);
    for word in ["red", "blue", "10.90.0.2"] {
        assert!(table.expect_ok().contains(word), "{word}: {table}");
    }
    let listing = lab.weft(["network", "ls"]);
    assert!(listing.expect_ok().contains(&id[..12]) && !listing.stdout.contains(&id), "{listing}");
    let inspected = lab.weft(["network", "inspect", "blue"]).expect_json();
    assert_eq!(inspected[0]["Name"], "blue");
    assert_eq!(inspected[0]["Id"], id.as_str());
    assert_eq!(inspected[0]["Driver"], "bridge");
    assert_eq!(inspected[0]["IPAM"]["Config"][0]["Subnet"], "10.90.0.0/24");
    assert_eq!(inspected[0]["IPAM"]["Config"][0]["Gateway"], "10.90.0.1");
    let attached = inspected[0]["Containers"].as_object().unwrap();
    assert_eq!(attached.len(), 1, "{inspected}");
    assert_eq!(attached.values().next().unwrap()["IPv4Address"], "10.90.0.2/24");
}
