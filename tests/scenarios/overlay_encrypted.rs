//! Encrypted networks of a cluster, from one container to another: nothing of what they say is on the wire.

use std::net::UdpSocket;

use nix::sys::signal::Signal;
use weft_testkit::{Cluster, does_not_reach, reaches};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_tunnel::{CANARY, transfer};

/// UDP, as an IPv6 header numbers it.
const UDP: u8 = 17;
/// A mesh's first port.
const MESH: [u8; 2] = 51820u16.to_be_bytes();

/// Two hosts that tell each other only their IPv6 addresses.
fn cluster_over_ipv6() -> Cluster {
    let mut cluster = Cluster::unjoined(2);
    for number in [1, 2] {
        cluster.start(number);
        let own = cluster.host(number).ipv6().to_string();
        cluster.join_with(number, &["--underlay-ip", &own]).expect_ok();
    }
    cluster
}

/// Says whether a frame is one of the mesh's, over IPv6 and by Ethernet.
fn is_of_the_mesh(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
        && frame.get(20) == Some(&UDP)
        && frame.get(56..58) == Some(&MESH)
}

#[test]
fn an_encrypted_network_over_ipv6_shows_nothing_on_the_wire() {
    let cluster = cluster_over_ipv6();
    cluster.network(1, &["--ipv6", "-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let there = addresses(&green);
    reaches(&red, &there);
    assert!(there.iter().any(|address| address.contains(':')), "{there:?}");
    let capture = cluster.underlay.capture();
    for address in &there {
        transfer(&red, &green, address);
    }
    let frames = capture.stop();
    assert!(
        frames.iter().any(|frame| is_of_the_mesh(frame)),
        "nothing of the mesh among {} frames",
        frames.len()
    );
    let seen = |frames: &[Vec<u8>]| {
        frames.iter().filter(|frame| frame.windows(CANARY.len()).any(|part| part == CANARY)).count()
    };
    assert_eq!(seen(&frames), 0);
    // The full size of a packet passes, and not a byte more: what the mesh takes is accounted for over IPv6, too.
    assert_eq!(cluster.host(1).link("weftwga")["mtu"], 1420);
    assert_eq!(red.link("eth0")["mtu"], 1350);
    // The same way without encryption: the canary is where it is sought.
    cluster.network(1, &["open"]);
    let (one, two) = (cluster.host(1).connected("open", "one").0, cluster.host(2).connected("open", "two").0);
    let capture = cluster.underlay.capture();
    transfer(&one, &two, &addresses(&two)[0]);
    assert_ne!(seen(&capture.stop()), 0);
}

/// D3 and D4: a stranger sends VXLAN of an encrypted network to the host's own address; and somebody takes the guard away, and the mesh.
#[test]
fn an_encrypted_network_is_entered_and_left_by_the_mesh_alone() {
    let cluster = Cluster::new(2);
    cluster.network(1, &["--subnet", "10.200.0.0/16", "-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    let there = addresses(&green)[0].clone();
    reaches(&red, [&there]);
    let host = cluster.host(2);
    let vni = cluster.status(2)["networks"][0]["vni"].as_u64().unwrap();
    let vxlan = format!("ov{vni:x}");
    let mac = host.link(&vxlan)["address"].as_str().unwrap().to_owned();
    // A device as host 1 has it, on a host that nobody knows. The mesh's addresses are of IPv6, and so is the port.
    let stranger = cluster.underlay.stranger(66);
    for words in [
        format!(
            "link add vx type vxlan id {vni} dstport 8473 local 2001:db8::42 nolearning udp6zerocsumtx udp6zerocsumrx"
        ),
        "link set vx up".into(),
        "address add 10.200.200.1/32 dev vx".into(),
        format!("neigh add 10.200.255.1 lladdr {mac} dev vx nud permanent"),
        format!("route add {there} via 10.200.255.1 dev vx onlink"),
    ] {
        stranger.ip(&words);
    }
    stranger.run("bridge", &format!("fdb append {mac} dev vx dst 2001:db8::2")).expect_ok();
    let ear = green.ear(there.parse().unwrap());
    let inject = || {
        stranger.inside(|| {
            let socket = UdpSocket::bind("10.200.200.1:0").unwrap();
            socket.send_to(CANARY, (there.as_str(), 777)).unwrap();
        });
    };
    let counted = || host.sh("nft list chain inet weft_tunnels secure").stdout;
    assert!(counted().contains("packets 0"), "{}", counted());
    inject();
    assert!(counted().contains("counter") && !counted().contains("packets 0"), "{}", counted());
    assert!(ear.so_far(&green).iter().all(|heard| heard.port != 777), "it was injected");
    // The positive twin: without the guard it arrives. The agent has it back, and then it does not.
    cluster.signal(2, Signal::SIGSTOP);
    host.sh("nft delete table inet weft_tunnels").expect_ok();
    inject();
    assert_eq!(ear.expect(17, 777).source.to_string(), "10.200.200.1");
    cluster.signal(2, Signal::SIGCONT);
    cluster.eventually("the guard is there again", || counted().contains("packets 0"));
    inject();
    assert!(ear.so_far(&green).iter().all(|heard| heard.port != 777));
    // Without guard and mesh nothing leaves: there is no other way.
    let host = cluster.host(1);
    cluster.signal(1, Signal::SIGSTOP);
    host.sh("nft delete table inet weft_tunnels").expect_ok();
    let capture = cluster.underlay.capture();
    transfer(&red, &green, &there);
    host.ip("link set weftwga down");
    let socket = red.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for _ in 0..50 {
        socket.send_to(CANARY, (there.as_str(), 9)).ok();
    }
    does_not_reach(&red, [&there]);
    assert_eq!(capture.stop_and_count(CANARY), 0);
    cluster.signal(1, Signal::SIGCONT);
    cluster.eventually("all is as it was", || {
        host.sh("nft list table inet weft_tunnels").code == 0 && red.ping(&there)
    });
}
