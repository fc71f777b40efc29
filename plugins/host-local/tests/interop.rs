//! One data directory, served by us and by the reference plugin in turn and at once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;
use support::{Data, OURS, REFERENCE, call, has_reference, ours};

#[test]
fn each_reads_and_removes_what_the_other_wrote() {
    if !has_reference() {
        return;
    }
    for (one, other) in [(OURS, REFERENCE), (REFERENCE, OURS)] {
        let data = Data::new();
        let conf =
            data.conf(json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]]}));
        let result = call(one, &conf, "red").add().json();
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
        assert_eq!(result["ips"][1]["address"], "2001:db8:1::2/64");

        let theirs = call(other, &conf, "red");
        theirs.run("CHECK").expect_silence();
        let (_, msg) = theirs.add().error();
        assert_eq!(
            msg,
            "failed to allocate for range 0: 10.1.2.2 has been allocated to red, duplicate allocation is not allowed"
        );
        assert_eq!(data.leases().len(), 2);
        theirs.del();
        assert!(data.leases().is_empty());
        assert!(
            call(one, &conf, "red")
                .run("CHECK")
                .error()
                .1
                .contains("Failed to find address added by container red")
        );
    }
}

#[test]
fn the_files_are_the_same_byte_for_byte() {
    // Their mode is not looked at: the reference plugin made it stricter over time, to what ours is.
    if !has_reference() {
        return;
    }
    let tree = |program: &str| {
        let data = Data::new();
        let conf =
            data.conf(json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:0:0:1::/80"}]]}));
        for container in ["a", "b", "c"] {
            call(program, &conf, container).add().json();
        }
        call(program, &conf, "b").del();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut files: Vec<_> = fs::read_dir(data.path(""))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (fs::read_to_string(entry.path()).unwrap(), name(entry)))
            .collect();
        files.sort();
        files
    };
    assert_eq!(tree(OURS), tree(REFERENCE));
}

#[test]
fn the_round_goes_on_across_both() {
    if !has_reference() {
        return;
    }
    let data = Data::new();
    let conf = data.conf(
        json!({"ranges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.98", "rangeEnd": "10.1.2.101"}]]}),
    );
    let mut seen = Vec::new();
    for (round, program) in [OURS, REFERENCE, REFERENCE, OURS, OURS, REFERENCE, OURS].into_iter().enumerate()
    {
        let call = call(program, &conf, &format!("c{round}"));
        seen.extend(call.add().ips());
        call.del();
    }
    assert_eq!(
        seen,
        [
            "10.1.2.98/24",
            "10.1.2.99/24",
            "10.1.2.100/24",
            "10.1.2.101/24",
            "10.1.2.98/24",
            "10.1.2.99/24",
            "10.1.2.100/24"
        ]
    );
}

#[test]
fn both_at_once_give_every_address_once() {
    if !has_reference() {
        return;
    }
    let data = Data::new();
    let conf = data.subnet("10.1.2.0/24");
    let program = |number: usize| if number.is_multiple_of(2) { OURS } else { REFERENCE };
    let running: Vec<_> =
        (0..40).map(|number| call(program(number), &conf, &format!("c{number}")).start("ADD")).collect();
    let mut seen = BTreeSet::new();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(seen.insert(result["ips"][0]["address"].as_str().unwrap().to_string()), "{seen:?}");
    }
    assert_eq!(seen.len(), 40);
    assert_eq!(data.leases().len(), 40);

    // Each removes what the other made, while new ones arrive.
    let mut running = Vec::new();
    for number in 0..40 {
        running.push(call(program(number + 1), &conf, &format!("c{number}")).start("DEL"));
        running.push(call(program(number), &conf, &format!("d{number}")).start("ADD"));
    }
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let holders: BTreeSet<String> = data.leases().into_values().collect();
    assert_eq!(holders, (0..40).map(|number| format!("d{number}\r\neth0")).collect());
    for number in 0..40 {
        call(OURS, &conf, &format!("d{number}")).run("CHECK").expect_silence();
    }
}

#[test]
fn a_lease_of_the_oldest_format_belongs_to_any_interface() {
    let data = Data::new();
    let conf = data.subnet("10.1.2.0/24");
    fs::create_dir_all(data.path("")).unwrap();
    let write = |name: &str, content: &str| {
        use std::io::Write;
        fs::File::create(data.path(name)).unwrap().write_all(content.as_bytes()).unwrap();
    };
    write("10.1.2.2", "red\n");
    ours(&conf, "red").run("CHECK").expect_silence();
    assert!(
        ours(&conf, "red")
            .with("CNI_IFNAME", "eth1")
            .add()
            .error()
            .1
            .contains("10.1.2.2 has been allocated to red")
    );
    ours(&conf, "red").with("CNI_IFNAME", "eth7").del();
    assert!(data.leases().is_empty());

    write("10.1.2.3", "red");
    write("10.1.2.4", " red\r\neth0 \r\n");
    ours(&conf, "red").del();
    assert_eq!(data.addresses(), ["10.1.2.3"], "the container's old lease is not this interface's");
}
