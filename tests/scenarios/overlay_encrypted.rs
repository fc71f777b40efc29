//! Encrypted networks of a cluster, from one container to another: nothing of what they say is on the wire.

use weft_testkit::{Cluster, reaches};

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
