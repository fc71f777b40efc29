//! What every backend must do to packets.

use std::time::{Duration, Instant};

use weft_firewall::{Backend, Change, ensure, observe, remove};

use crate::lab::{
    BLUE, GROUP, Lab, OWN, RED, SERVER, UPLINK, attachment, cover, endpoint, has, run, seen_source,
};

const PLAIN: fn(&std::net::UdpSocket) = |_| {};

/// The source that the server, or the other container, sees.
fn red_to_server(lab: &Lab, family: usize) -> String {
    seen_source((&lab.red, RED[family]), (&lab.server, SERVER[family]), PLAIN).to_string()
}

fn red_to_blue(lab: &Lab, family: usize) -> String {
    seen_source((&lab.red, RED[family]), (&lab.blue, BLUE[family]), PLAIN).to_string()
}

fn own_to_server(lab: &Lab, family: usize) -> String {
    seen_source((&lab.host, OWN[family]), (&lab.server, SERVER[family]), PLAIN).to_string()
}

fn own_to_group(lab: &Lab, family: usize) -> String {
    let join = |socket: &std::net::UdpSocket| {
        let index = lab.server.run(|| nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
        match family {
            0 => socket.join_multicast_v4(&GROUP[0].parse().unwrap(), &SERVER[0].parse().unwrap()),
            _ => socket.join_multicast_v6(&GROUP[1].parse().unwrap(), index),
        }
        .unwrap();
    };
    seen_source((&lab.host, OWN[family]), (&lab.server, GROUP[family]), join).to_string()
}

fn masquerades(backend: Backend) {
    let lab = Lab::new();
    let red = attachment(backend, &endpoint("n1", "red", "eth0"), &["10.1.0.2/24", "fd00:1::2/64"]);
    let own = attachment(backend, &endpoint("n1", "own", "eth0"), &["10.1.0.9/24", "fd00:1::9/64"]);
    for family in [0, 1] {
        assert_eq!(red_to_server(&lab, family), RED[family], "before: the container's own address");
        assert_eq!(own_to_group(&lab, family), OWN[family], "the group is reached at all");
    }
    assert!(!observe(&red).unwrap().is_empty());

    assert_eq!(ensure(&red).unwrap(), Change::Made);
    ensure(&own).unwrap();
    assert_eq!(observe(&red).unwrap(), Vec::<String>::new());
    ensure(&red).unwrap();

    for family in [0, 1] {
        assert_eq!(red_to_server(&lab, family), UPLINK[family], "outside the subnet: the host's address");
        assert_eq!(red_to_blue(&lab, family), RED[family], "inside the subnet: the container's own");
        assert_eq!(own_to_server(&lab, family), UPLINK[family], "twin of the next line");
        assert_eq!(own_to_group(&lab, family), OWN[family], "multicast keeps its source");
    }

    remove(&red).unwrap();
    remove(&red).unwrap();
    if backend.is_per_attachment() {
        assert!(!observe(&red).unwrap().is_empty());
        for family in [0, 1] {
            assert_eq!(red_to_server(&lab, family), RED[family], "after: its own address again");
            assert_eq!(own_to_server(&lab, family), UPLINK[family], "the other attachment is untouched");
        }
    } else {
        remove(&crate::lab::network("n1")).unwrap();
        // An expired element stops to match with the kernel's next tick.
        let limit = Instant::now() + Duration::from_secs(5);
        while [0, 1].into_iter().any(|family| red_to_server(&lab, family) != RED[family]) {
            assert!(Instant::now() < limit, "after: its own address again");
        }
    }
}

#[test]
fn our_table_masquerades() {
    masquerades(Backend::Weft);
}

#[test]
fn upstreams_table_masquerades() {
    masquerades(Backend::UpstreamNftables);
}

#[test]
fn iptables_masquerades() {
    if has("iptables-restore") && has("ip6tables-restore") {
        masquerades(Backend::Iptables);
    }
}

#[test]
fn iptables_legacy_masquerades() {
    if !has("xtables-legacy-multi") || !has("xtables-nft-multi") {
        return;
    }
    weft_netns::isolate().unwrap();
    // Both programs tell by the name they are called by what to do.
    cover("/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi");
    for program in ["iptables", "ip6tables"] {
        let output = run(&format!("{program} -t nat -S"));
        if !output.status.success() {
            weft_testkit::skipped(format_args!("kernel support for {program}-legacy nat"));
            return;
        }
    }
    masquerades(Backend::Iptables);
}
