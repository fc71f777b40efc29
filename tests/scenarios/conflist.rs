//! A network is a file that any CNI runtime can read.

use serde_json::Value;
use weft_testkit::Lab;

/// Runs the chain of a network's file as a runtime does: each plugin with the result of the one before.
fn chain(lab: &Lab, verb: &str, name: &str, red: &weft_testkit::Container) -> Value {
    let list: Value =
        serde_json::from_str(&lab.read(&format!("etc/weft/networks.d/{name}.conflist"))).unwrap();
    let mut plugins = list["plugins"].as_array().unwrap().clone();
    if verb == "DEL" {
        plugins.reverse();
    }
    let mut result = Value::Null;
    for mut conf in plugins {
        conf["name"] = list["name"].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        if verb == "ADD" && !result.is_null() {
            conf["prevResult"] = result.clone();
        }
        let call = lab.plugin(conf["type"].as_str().unwrap()).json(&conf);
        match verb {
            "ADD" => result = call.add(red).expect_json(),
            _ => drop(call.del(red).expect_ok().to_string()),
        }
    }
    result
}

#[test]
fn a_plain_runtime_can_use_a_network_of_ours() {
    let lab = Lab::new();
    let (red, green) = (lab.container("red"), lab.container("green"));
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    lab.weft(["network", "connect", "blue", "green"]).expect_ok();
    let result = chain(&lab, "ADD", "blue", &red);
    assert_eq!(result["ips"][0]["address"], "10.90.0.3/24");
    assert!(red.ping("10.90.0.2"), "side by side with what weft connected");
    chain(&lab, "DEL", "blue", &red);
    assert!(!red.has_link("eth0"));
    assert!(green.ping("10.90.0.1"));
}

#[test]
fn what_a_plain_runtime_connected_is_seen_and_keeps_the_network() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    chain(&lab, "ADD", "blue", &red);
    assert!(lab.weft(["ps"]).expect_ok().contains("red"));
    lab.weft(["network", "rm", "blue"]).expect_failure(4, &["red"]);
}

#[test]
fn a_list_written_by_hand_is_a_network() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.write(
        "etc/weft/networks.d/mine.conflist",
        r#"{"cniVersion": "1.0.0", "name": "mine", "plugins": [
            {"type": "bridge", "bridge": "mine0", "isGateway": true,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]]}}]}"#,
    );
    assert!(lab.weft(["network", "ls"]).expect_ok().contains("mine"));
    lab.weft(["network", "connect", "mine", "red"]).expect_ok();
    assert_eq!(red.addresses("eth0"), ["10.77.0.2/24"]);
    lab.weft(["network", "disconnect", "mine", "red"]).expect_ok();
    assert!(!red.has_link("eth0"));
}
