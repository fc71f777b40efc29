//! Parameters of links on the real kernel, inside a private namespace: netlink and `/proc/sys` say the same.

#![cfg(test)]

use weft_model::IfName;
use weft_netlink::{Batch, Socket, link, netconf};
use weft_netns::isolate;

fn file(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_string()
}

#[expect(clippy::disallowed_methods, reason = "a file of the kernel's takes its value in one write")]
fn write(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{key}"), value).unwrap();
}

#[test]
fn what_comes_with_a_link_is_what_the_files_say() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let lo: IfName = "lo".parse().unwrap();
    for (family, name, values) in [
        ("ipv4", "arp_notify", ["1", "0"]),
        ("ipv6", "accept_ra", ["2", "0"]),
        ("ipv6", "accept_dad", ["1", "-1"]),
        ("ipv6", "disable_ipv6", ["1", "0"]),
    ] {
        for value in values {
            let key = format!("{family}/conf/lo/{name}");
            write(&key, value);
            let found = socket.link(link::get(&lo)).unwrap().unwrap();
            assert_eq!(
                found.parameters.get(family, name).map(|value| value.to_string()),
                Some(file(&key)),
                "{key}"
            );
            assert_eq!(file(&key), value);
        }
    }
}

#[test]
fn an_ipv4_parameter_is_set_without_its_file() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    assert_eq!(file("ipv4/conf/lo/arp_notify"), "0");
    let mut batch = Batch::new();
    batch.push(netconf::set(1, "ipv4", "arp_notify", 1).unwrap());
    socket.call(&mut batch).unwrap().all().unwrap();
    assert_eq!(file("ipv4/conf/lo/arp_notify"), "1");
    assert!(netconf::set(1, "ipv6", "accept_dad", 1).is_none());
    assert!(netconf::set(1, "ipv4", "no_such_name", 1).is_none());
}

#[test]
fn whether_packets_are_forwarded_is_what_the_files_say() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    for (v4, key) in [(true, "ipv4/ip_forward"), (false, "ipv6/conf/all/forwarding")] {
        for (value, expected) in [("1", true), ("0", false)] {
            write(key, value);
            assert_eq!(netconf::forwards(&mut socket, v4).unwrap(), Some(expected), "{key} {value}");
        }
    }
}
