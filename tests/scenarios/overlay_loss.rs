//! Lines that lose one packet in a hundred: what is said by them takes longer, and is complete and right.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use weft_testkit::{Cluster, Container, reaches};

use crate::overlay_agent::{addresses, connected};

/// One in a hundred, each way and at each end.
const LOSS: u16 = 10;

/// Sends 8 MiB that differ from each other, and returns whether the same arrive.
fn arrives_whole(from: &Container, to: &Container, address: &str) -> bool {
    let sent: Vec<u8> = (0..(8_u32 << 20) / 4).flat_map(u32::to_le_bytes).collect();
    let listener = to.inside(|| TcpListener::bind((address, 5201)).unwrap());
    let mut stream = from.inside(|| TcpStream::connect((address, 5201)).unwrap());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut arrived = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut arrived).unwrap();
            arrived
        });
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        reader.join().unwrap() == sent
    })
}

/// D7: from the first word to the store on.
#[test]
fn a_line_that_loses_packets_costs_time_and_nothing_else() {
    let mut cluster = Cluster::unjoined(2);
    for number in [1, 2] {
        cluster.host(number).lose(LOSS);
        cluster.start(number);
        // A request may be lost more often than anybody waits; then people do as they are told.
        cluster.eventually("it joins", || {
            let joined = cluster.join(number);
            assert!(joined.code == 0 || joined.stderr.contains("does not answer"), "{joined}");
            joined.code == 0
        });
    }
    cluster.network(1, &["--ipv6", "blue"]);
    let (red, green) = (connected(&cluster, 1, "red"), connected(&cluster, 2, "green"));
    for (from, to) in [(&red, &green), (&green, &red)] {
        for address in addresses(to) {
            cluster.eventually("a ping arrives", || from.ping(&address));
            assert!(arrives_whole(from, to, &address), "{address}");
        }
    }
    // What the hosts tell each other by the store.
    for nth in 0..10 {
        let name = format!("net{nth}");
        cluster.network(1, &[&name]);
        let removed = || cluster.host(2).weft(["network", "rm", &name]).code == 0;
        cluster.eventually("it can be removed", removed);
        for number in [1, 2] {
            let gone = || cluster.host(number).weft(["network", "exists", &name]).code == 3;
            cluster.eventually("it is gone", gone);
        }
    }
    for number in [1, 2] {
        assert!(cluster.host(number).dropped() > 0, "nothing was lost at h{number}");
        cluster.host(number).heal();
    }
    cluster.eventually("all is well", || {
        [1, 2].iter().all(|number| {
            let status = cluster.status(*number);
            status["state"] == "ready" && status["networks"].as_array().unwrap().len() == 1
        })
    });
    for number in [1, 2] {
        cluster.host(number).weft(["overlay", "peers", "--verify"]).expect_ok();
    }
    reaches(&green, addresses(&red));
}
