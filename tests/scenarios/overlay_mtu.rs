//! Hosts whose underlay differs in MTU: what does not fit is told, and what fits arrives.

use weft_testkit::{StaticNetwork, Underlay, reaches};

const BLUE: StaticNetwork = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");

#[test]
fn the_limit_is_each_ways_own() {
    each_way_has_its_limit(BLUE);
}

/// A host whose MTU is smaller is told of less than the others.
pub(crate) fn each_way_has_its_limit(blue: StaticNetwork) {
    let net = Underlay::new(3);
    net.host(2).set_mtu(net.lab(), 1400);
    net.statics(&[blue], "v4");
    let (one, _) = net.host(1).connected("blue", "c");
    let (_two, to_two) = net.host(2).connected("blue", "c");
    let (_three, to_three) = net.host(3).connected("blue", "c");
    assert_eq!(one.link("eth0")["mtu"], 1450);
    assert_eq!(net.host(2).link("ov1388")["mtu"], 1350);
    // An ICMP message of n bytes is a packet of n + 28 (IPv4), n + 48 (IPv6).
    let sized = |to: &str, size: u32| one.run("ping", &format!("-n -c 1 -W 2 -M do -s {size} {to}"));
    for (to, mtu) in [(&to_three, 1450), (&to_two, 1350)] {
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
    let net = Underlay::new(2);
    net.host(2).set_mtu(net.lab(), 1400);
    net.statics(&[BLUE], "v4");
    let (one, to_one) = net.host(1).connected("blue", "c");
    let (two, to_two) = net.host(2).connected("blue", "c");
    for (server, client, to) in [(&two, &one, &to_two[0]), (&one, &two, &to_one[0])] {
        let copied = copy(server, client, to);
        assert_eq!(copied, 20 << 20);
    }
}

/// Sends 20 MiB over one connection and returns how many bytes arrived.
pub(crate) fn copy(server: &weft_testkit::Container, client: &weft_testkit::Container, to: &str) -> usize {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    let listener = server.inside(|| TcpListener::bind((to, 5201)).unwrap());
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap()
    });
    let mut stream = client.inside(|| TcpStream::connect((to, 5201)).unwrap());
    stream.write_all(&vec![7; 20 << 20]).unwrap();
    drop(stream);
    reader.join().unwrap()
}
