//! Many at once, and one too many.

use std::fmt::Write as _;
use std::thread;

use serde_json::json;
use weft_testkit::{Lab, Program};

#[test]
fn twenty_containers_connect_in_parallel() {
    let lab = Lab::new();
    lab.weft(["network", "create", "--subnet", "10.90.0.0/24", "blue"]).expect_ok();
    let containers: Vec<_> = (0..20).map(|number| lab.container(&format!("c{number}"))).collect();
    thread::scope(|scope| {
        for container in &containers {
            let call = lab.weft_program(["network", "connect", "blue", container.name()]);
            scope.spawn(move || drop(call.run().expect_ok().to_string()));
        }
    });
    let mut addresses: Vec<String> =
        containers.iter().flat_map(|container| container.addresses("eth0")).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20, "{addresses:?}");
    for container in &containers {
        assert!(container.ping("10.90.0.1"), "{}", container.name());
    }
    thread::scope(|scope| {
        for container in &containers {
            let call = lab.weft_program(["network", "disconnect", "blue", container.name()]);
            scope.spawn(move || drop(call.run().expect_ok().to_string()));
        }
    });
    lab.weft(["network", "rm", "blue"]).expect_ok();
}

#[test]
fn parallel_creates_take_different_subnets() {
    let lab = Lab::new();
    thread::scope(|scope| {
        for number in 0..8 {
            let call = lab.weft_program(["network", "create", &format!("n{number}")]);
            scope.spawn(move || drop(call.run().expect_ok().to_string()));
        }
    });
    let names: Vec<String> = (0..8).map(|number| format!("n{number}")).collect();
    let line = ["network", "inspect"].into_iter().chain(names.iter().map(String::as_str));
    let inspected = lab.weft(line).expect_json();
    let subnets = inspected
        .as_array()
        .unwrap()
        .iter()
        .map(|network| network["IPAM"]["Config"][0]["Subnet"].to_string());
    let different: std::collections::HashSet<String> = subnets.collect();
    assert_eq!(different.len(), 8, "{inspected}");
}

#[test]
fn a_bridge_takes_1023_ports_and_the_next_is_told_so() {
    let lab = Lab::new();
    let red = lab.container("red");
    lab.ip("link add br0 type bridge");
    let mut batch = String::new();
    for number in 0..512 {
        let _ = writeln!(batch, "link add name p{number} type veth peer name q{number}");
    }
    for number in 0..512 {
        let _ = writeln!(batch, "link set p{number} master br0");
    }
    for number in 0..511 {
        let _ = writeln!(batch, "link set q{number} master br0");
    }
    Program::new("ip").args(["-batch", "-"]).stdin(batch).run().expect_ok();

    let conf = json!({
        "cniVersion": "1.1.0", "name": "n1", "type": "bridge", "bridge": "br0",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]},
    });
    let refused = lab.plugin("bridge").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("br0") && refused.stdout.contains("1023"), "{refused}");
    assert!(!red.has_link("eth0"));
    assert!(!lab.path("var/lib/cni/networks/n1/10.1.0.2").exists(), "the address stayed");
}
