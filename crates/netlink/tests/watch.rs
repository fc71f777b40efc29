//! Announcements on the real kernel, inside a private namespace.

#![cfg(test)]

use std::process::Command;

use weft_model::IfName;
use weft_netlink::link::{self, NewVeth};
use weft_netlink::{Interest, Socket, Watch};
use weft_netns::isolate;

#[expect(clippy::disallowed_methods, reason = "somebody else changes things, with ip(8)")]
fn ip(words: &str) {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_others_do_to_our_things_is_heard_and_nothing_else() {
    isolate().unwrap();
    let mut socket = Socket::open().unwrap();
    let (ours, other): (IfName, IfName) = ("ours".parse().unwrap(), "other".parse().unwrap());
    let new = NewVeth {
        name: &ours,
        mac: None,
        mtu: None,
        master: None,
        up: true,
        peer: &other,
        peer_mac: None,
        peer_netns: None,
    };
    let reply = socket.request(link::create_veth(&new)).unwrap();
    let index = socket.created(&reply, &ours).unwrap().index;
    ip("link set other up");
    ip("address add 10.1.0.1/24 dev ours");

    let mut watch = Watch::open().unwrap();
    watch.concern(Interest { links: [index].into(), neighbours: [index].into(), protocols: [201].into() });
    assert!(!watch.changed().unwrap(), "nothing has happened");

    ip("route add 10.2.0.0/24 dev other proto 3");
    ip("neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev other");
    assert!(!watch.changed().unwrap(), "what is not ours");
    for words in [
        "route add 10.3.0.0/24 via 10.1.0.7 dev ours onlink proto 201 metric 1; route del 10.3.0.0/24",
        "neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev ours",
        "neigh del 10.1.0.9 dev ours",
        "address del 10.1.0.1/24 dev ours",
        "link set ours address 02:00:00:00:00:77",
        "link set ours mtu 1400",
        "link del ours",
    ] {
        words.split("; ").for_each(ip);
        assert!(watch.changed().unwrap(), "ip {words}");
        assert!(!watch.changed().unwrap(), "once is enough");
    }
}
