//! Who owns what: nobody's DEL takes what is another's, and nobody's leaves what is its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Lab, skip_unless};

const REFERENCE: &str = "/usr/lib/cni";

fn conf(name: &str, subnet: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]},
    })
}

#[test]
fn del_for_the_network_that_lost_the_name_leaves_the_interface() {
    let lab = Lab::new();
    let red = lab.container("red");
    let (first, second) = (
        conf("first", "10.1.0.0/24"),
        json!({
            "cniVersion": "1.0.0", "name": "second", "type": "bridge", "bridge": "br1",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.2.0.0/24"}]]},
        }),
    );
    lab.plugin("bridge").json(&first).add(&red).expect_ok();
    assert!(red.ping("10.1.0.1"));

    // A runtime calls DEL after an ADD that was refused.
    lab.plugin("bridge").json(&second).add(&red).expect_error(101);
    lab.plugin("bridge").json(&second).del(&red).expect_ok();

    assert!(red.ping("10.1.0.1"), "the second network's DEL took the first one's interface");
    lab.plugin("bridge").json(&first).del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
}

#[test]
fn del_takes_a_pair_that_the_reference_plugin_made() {
    let lab = Lab::new();
    skip_unless!(Path::new(REFERENCE).join("bridge").exists(), "containernetworking-plugins");
    let (red, blue) = (lab.container("red"), lab.container("blue"));
    let mut conf = conf("net", "10.1.0.0/24");
    // The reference plugin knows no root of ours: without this it writes to the machine's own folder.
    conf["ipam"]["dataDir"] = json!(lab.path("leases"));
    let reference = lab.plugin_in(Path::new(REFERENCE), "bridge").json(&conf);
    reference.add(&red).expect_ok();
    reference.add(&blue).expect_ok();
    assert!(red.ping("10.1.0.1") && blue.ping("10.1.0.1"));

    lab.plugin("bridge").json(&conf).del(&red).expect_ok();
    assert!(!red.has_link("eth0"), "the address is free and the interface still has it");
    assert!(blue.ping("10.1.0.1"), "another container's interface went along");
}

#[test]
fn del_leaves_an_interface_that_is_on_no_bridge_of_ours() {
    let lab = Lab::new();
    let red = lab.container("red");
    red.ip("link add eth0 type veth peer name other");
    lab.plugin("bridge").json(&conf("net", "10.1.0.0/24")).del(&red).expect_ok();
    assert!(red.has_link("eth0"));
}

#[test]
fn a_spoof_check_goes_with_a_configuration_that_forgot_it() {
    let lab = Lab::new();
    let red = lab.container("red");
    let plain = conf("net", "10.1.0.0/24");
    let mut guarded = plain.clone();
    guarded["macspoofchk"] = json!(true);
    lab.plugin("bridge").json(&guarded).add(&red).expect_ok();
    lab.plugin("bridge").json(&plain).del(&red).expect_ok();

    // With the old guard in place, the new MAC address would be a forged one.
    lab.plugin("bridge").json(&plain).add(&red).expect_ok();
    assert!(red.ping("10.1.0.1"));
}

#[test]
fn del_with_a_broken_configuration_takes_the_rules_too() {
    for backend in ["nftables", "iptables"] {
        let lab = Lab::new();
        let (red, blue) = (lab.container("red"), lab.container("blue"));
        let mut good = conf("net", "10.1.0.0/24");
        good["macspoofchk"] = json!(true);
        good["ipMasq"] = json!(true);
        good["ipMasqBackend"] = json!(backend);
        lab.plugin("bridge").json(&good).add(&blue).expect_ok();
        lab.plugin("bridge").json(&good).del(&blue).expect_ok();
        let before = lab.snapshot();
        lab.plugin("bridge").json(&good).add(&red).expect_ok();
        assert_ne!(lab.snapshot(), before, "ADD did nothing, so DEL proves nothing");

        let mut broken = good.clone();
        broken["mtu"] = json!(-1);
        lab.plugin("bridge").json(&broken).args("junk").del(&red).expect_ok();
        lab.assert_restored(&before);
    }
}

#[test]
fn an_address_is_not_free_while_its_interface_has_it() {
    let lab = Lab::new();
    let red = lab.container("red");
    let conf = conf("net", "10.1.0.0/24");
    lab.plugin("bridge").json(&conf).add(&red).expect_ok();

    let real = weft_testkit::staged("bridge");
    let script = format!(
        "#!/bin/sh\nexec setpriv --bounding-set -net_admin --inh-caps -net_admin {} \"$@\"\n",
        real.display()
    );
    lab.write("powerless/bridge", script);
    let powerless = lab.path("powerless");
    std::fs::set_permissions(powerless.join("bridge"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let call = lab.plugin_in(&powerless, "bridge").json(&conf);
    call.env("CNI_PATH", weft_testkit::staged_folder().display().to_string()).del(&red).expect_error(999);

    assert!(lab.path("var/lib/cni/networks/net/10.1.0.2").exists(), "the lease is gone and the link is not");
    lab.plugin("bridge").json(&conf).del(&red).expect_ok();
    assert!(!lab.path("var/lib/cni/networks/net/10.1.0.2").exists());
}

#[test]
fn several_gateways_of_one_destination_stand_side_by_side() {
    let lab = Lab::new();
    let red = lab.container("red");
    let mut conf = conf("net", "10.1.0.0/24");
    conf["isDefaultGateway"] = json!(false);
    conf["ipam"]["routes"] =
        json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.5"}, {"dst": "0.0.0.0/0", "gw": "10.1.0.6"}]);
    lab.plugin("bridge").json(&conf).add(&red).expect_ok();
    let routes = red.ip("-4 route show default");
    assert!(routes.contains("10.1.0.5") && routes.contains("10.1.0.6"), "{routes}");
}
