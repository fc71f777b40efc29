//! Hosts whose underlay differs in MTU: what does not fit is told, and what fits arrives.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use weft_testkit::{Container, StaticNetwork, Underlay, reaches, until};

const BLUE: StaticNetwork = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");

/// The families of the underlay, and what the outer headers take.
const OUTER: [(&str, u32); 2] = [("v4", 50), ("v6", 70)];

#[test]
fn the_limit_is_each_ways_own() {
    for (outer, taken) in OUTER {
        each_way_has_its_limit(BLUE, outer, taken);
    }
}

/// A host whose MTU is smaller is told of less than the others.
pub(crate) fn each_way_has_its_limit(blue: StaticNetwork, outer: &str, taken: u32) {
    let net = Underlay::new(3);
    net.host(2).set_mtu(net.lab(), 1400);
    net.statics(&[blue], outer);
    let (large, small) = (1500 - taken, 1400 - taken);
    let (one, _) = net.host(1).connected("blue", "c");
    let (_two, to_two) = net.host(2).connected("blue", "c");
    let (_three, to_three) = net.host(3).connected("blue", "c");
    assert_eq!(one.link("eth0")["mtu"], large);
    assert_eq!(net.host(2).link("ov1388")["mtu"], small);
    // An ICMP message of n bytes is a packet of n + 28 (IPv4), n + 48 (IPv6).
    let sized = |to: &str, size: u32| one.run("ping", &format!("-n -c 1 -W 2 -M do -s {size} {to}"));
    for (to, mtu) in [(&to_three, large), (&to_two, small)] {
        for (address, headers) in to.iter().zip([28, 48]) {
            reaches(&one, [address]);
            assert_eq!(sized(address, mtu - headers).code, 0, "{address}: {mtu} bytes fit");
            // The first is answered with what fits, the second is not even sent.
            let tells = |_| {
                let told = sized(address, mtu - headers + 1);
                assert_ne!(told.code, 0, "{told}");
                let text = format!("{}{}", told.stdout, told.stderr).replace(": ", "=").replace(" = ", "=");
                text.contains(&format!("mtu={mtu}")) || text.contains(&format!("mtu {mtu}"))
            };
            assert!((0..2).any(tells), "{address}: nobody says that {mtu} is the limit");
        }
    }
}

#[test]
fn tcp_does_not_stall_where_the_mtu_differs() {
    for (outer, _) in OUTER {
        let net = Underlay::new(2);
        net.host(2).set_mtu(net.lab(), 1400);
        net.statics(&[BLUE], outer);
        let (one, to_one) = net.host(1).connected("blue", "c");
        let (two, to_two) = net.host(2).connected("blue", "c");
        for (server, client, to) in [(&two, &one, &to_two), (&one, &two, &to_one)] {
            reaches(client, to);
            for address in to {
                assert_eq!(copy(server, client, address), 20 << 20, "{address} over {outer}");
            }
        }
    }
}

/// The twin: a way whose limit somebody has taken away. What is sent is too long for it and nobody is told, so nothing arrives until the
/// limit is there again.
#[test]
fn tcp_stalls_where_a_way_has_lost_its_limit() {
    for (outer, taken) in OUTER {
        let net = Underlay::new(2);
        net.host(2).set_mtu(net.lab(), 1400);
        net.statics(&[BLUE], outer);
        let (one, _) = net.host(1).connected("blue", "c");
        let (two, to_two) = net.host(2).connected("blue", "c");
        reaches(&one, &to_two);
        let host = net.host(1);
        // A pair hands on merged segments as they are, whatever their length: only a real link has them cut.
        host.sh("ethtool -K u0 tso off").expect_ok();
        // Whoever is behind the small link tells TCP that it takes more.
        two.ip(&format!("link set eth0 mtu {}", 1500 - taken));
        let way = host.sh("ip -4 route show proto 201 | grep ' via '").expect_ok().trim().to_owned();
        let limit = format!(" mtu {}", 1400 - taken);
        assert!(way.contains(&limit), "{way}");
        assert_eq!(copy(&two, &one, &to_two[0]), 20 << 20, "over {outer}");
        // What was learned of the way meanwhile is forgotten with it.
        host.sh(&format!("ip -4 route del {way} proto 201")).expect_ok();
        host.sh(&format!("ip -4 route add {} proto 201", way.replace(&limit, ""))).expect_ok();
        one.ip("route flush cache");
        let arrived = AtomicUsize::new(0);
        let (stalled, copied) = std::thread::scope(|scope| {
            let copying = scope.spawn(|| copy_counted(&two, &one, &to_two[0], 1 << 20, &arrived));
            let before = resent(&one);
            until("it is sent again and again", || resent(&one) >= before + 3);
            let stalled = arrived.load(Ordering::SeqCst);
            host.sh(&format!("ip -4 route replace {way} proto 201")).expect_ok();
            (stalled, copying.join().unwrap())
        });
        assert_eq!((stalled, copied), (0, 1 << 20), "over {outer}");
    }
}

/// How often TCP has sent something again.
fn resent(container: &Container) -> u64 {
    let page = container.run("cat", "/proc/net/snmp").expect_ok().to_owned();
    let mut lines = page.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (names, counts) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, count) = names.zip(counts).find(|(name, _)| *name == "RetransSegs").unwrap();
    count.parse().unwrap()
}

/// Sends 20 MiB over one connection and returns how many bytes arrived.
pub(crate) fn copy(server: &Container, client: &Container, to: &str) -> usize {
    copy_counted(server, client, to, 20 << 20, &AtomicUsize::new(0))
}

/// As [`copy`]; `arrived` says meanwhile how many bytes there were.
fn copy_counted(
    server: &Container,
    client: &Container,
    to: &str,
    size: usize,
    arrived: &AtomicUsize,
) -> usize {
    let listener = server.inside(|| TcpListener::bind((to, 5201)).unwrap());
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut some = [0; 1 << 16];
            loop {
                match stream.read(&mut some).unwrap() {
                    0 => return arrived.load(Ordering::SeqCst),
                    more => drop(arrived.fetch_add(more, Ordering::SeqCst)),
                }
            }
        });
        let mut stream = client.inside(|| TcpStream::connect((to, 5201)).unwrap());
        stream.write_all(&vec![7; size]).unwrap();
        drop(stream);
        reader.join().unwrap()
    })
}
