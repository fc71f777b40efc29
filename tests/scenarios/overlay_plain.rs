//! Overlays without encryption: containers on different hosts, with static peers and no daemon.

use weft_testkit::{StaticNetwork, Underlay, reaches};

const BLUE: StaticNetwork = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");

#[test]
fn containers_of_different_hosts_reach_each_other_over_ipv4() {
    two_hosts("v4");
}

#[test]
fn containers_of_different_hosts_reach_each_other_over_ipv6() {
    two_hosts("v6");
}

fn two_hosts(families: &str) {
    let net = Underlay::new(2);
    net.statics(&[BLUE], families);
    let (one, to_one) = net.host(1).connected("blue", "c");
    let (two, to_two) = net.host(2).connected("blue", "c");
    assert!(to_one[0].starts_with("10.1.0.6") && to_two[0].starts_with("10.1.0.13"), "{to_one:?} {to_two:?}");
    // The first packet arrives: nobody asks for anything first.
    for (from, to) in [(&one, &to_two), (&two, &to_one)] {
        for address in to {
            assert!(from.ping(address), "the first packet from {} to {address} ({families})", from.name());
        }
    }
    // It is the container that is seen, not its host.
    for (own, other) in to_one.iter().zip(&to_two) {
        let server = two.serve_tcp(80);
        let caller = one.call_tcp(other.parse().unwrap(), server.port()).unwrap();
        assert_eq!(caller.to_string(), *own);
    }
    // Hosts reach containers of others, and containers the outside.
    reaches(net.host(1), &to_two);
    reaches(&one, Underlay::WORLD);
}
