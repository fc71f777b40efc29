//! Packets of encrypted networks as large as they may be: each is one packet on the underlay.

use weft_testkit::{Cluster, reaches};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_mtu::copy;

/// Says whether an Ethernet frame has a fragment of an IPv4 or IPv6 packet.
fn is_piece(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => {
            frame.get(20..22).is_some_and(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]) & 0x3fff != 0)
        }
        Some([0x86, 0xdd]) => frame.get(20) == Some(&44),
        _ => false,
    }
}

/// An encrypted network has what its MTU says, in both families and both ways, and not a byte more; nothing is cut to pieces.
fn full_size_is_encrypted(over: &str, mtu: u32) {
    let mut cluster = Cluster::unjoined(2);
    for number in [1, 2] {
        cluster.start(number);
        let own =
            [cluster.host(number).ipv4(), cluster.host(number).ipv6()].map(|address| address.to_string());
        let words = own.iter().filter(|own| own.contains(over));
        let words: Vec<&str> = words.flat_map(|own| ["--underlay-ip", own]).collect();
        cluster.join_with(number, &words).expect_ok();
    }
    cluster.network(1, &["--ipv6", "-o", "encrypted", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    for (from, to) in [(&red, &green), (&green, &red)] {
        assert_eq!(from.link("eth0")["mtu"], mtu);
        for address in addresses(to) {
            reaches(from, [&address]);
            // An ICMP message of n bytes is a packet of n + 28 (IPv4), n + 48 (IPv6).
            let headers = if address.contains(':') { 48 } else { 28 };
            let sized =
                |size: u32| from.run("ping", &format!("-n -c 3 -W 5 -M do -s {} {address}", size - headers));
            let capture = cluster.underlay.capture();
            assert_eq!(sized(mtu).code, 0, "{address}: {mtu} bytes fit");
            let frames = capture.stop();
            // Each packet is one on the underlay, and fills it but for what encryption fills up.
            let longest = frames.iter().map(Vec::len).max().unwrap_or_default();
            assert!((1500..=1514).contains(&longest), "{address}: {longest} bytes with the Ethernet header");
            assert!(!frames.iter().any(|frame| is_piece(frame)), "{address}: it is cut to pieces");
            // The twin: one byte more.
            let told = sized(mtu + 1);
            let text = format!("{}{}", told.stdout, told.stderr).replace([' ', ':', '='], "");
            assert!(told.code != 0 && text.contains(&format!("mtu{mtu}")), "{told}");
            assert_eq!(copy(to, from, &address), 20 << 20);
        }
    }
}

#[test]
fn a_full_packet_is_encrypted_whole_over_ipv4() {
    full_size_is_encrypted("192.0.2.", 1370);
}

#[test]
fn a_full_packet_is_encrypted_whole_over_ipv6() {
    full_size_is_encrypted("2001:db8:", 1350);
}
