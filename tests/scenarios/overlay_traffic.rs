//! What containers of a cluster say to each other, from the first packet on.

use weft_testkit::{Cluster, Container, does_not_reach, reaches, until};

use crate::overlay_mtu::copy;

/// A network without protection, and one with.
const NETWORKS: [(&str, &[&str]); 2] = [("blue", &[]), ("dark", &["-o", "encrypted"])];

/// Two hosts with both networks, to whose blocks everybody knows the way.
fn two_hosts() -> Cluster {
    let cluster = Cluster::new(2);
    for (name, options) in NETWORKS {
        cluster.network(1, &[&["--ipv6"], options, &[name]].concat());
    }
    let ways = |number: u8| {
        let said = cluster.host(number).sh("ip -4 route show proto 201; ip -6 route show proto 201").stdout;
        said.lines().filter(|line| line.contains("via")).count()
    };
    // One for each network and family.
    cluster.eventually("all ways are there", || [1, 2].iter().all(|number| ways(*number) == 4));
    cluster
}

/// One packet, for whose answer there is time. It is not sent again.
fn one_packet(from: &Container, to: &str) -> bool {
    from.run("ping", &format!("-n -c 1 -W 20 {to}")).code == 0
}

/// A3: whoever comes last is known to everybody already, so nothing of what is said first is lost.
#[test]
fn the_first_packet_to_a_new_container_is_answered() {
    let cluster = two_hosts();
    let [here, there] = [1, 2].map(|number| cluster.host(number));
    for (name, _) in NETWORKS {
        // Nobody has said anything in this network yet, and nobody through a tunnel.
        let (red, to_red) = here.connected(name, &format!("red-{name}"));
        let (green, to_green) = there.connected(name, &format!("green-{name}"));
        assert!(one_packet(&red, &to_green[0]), "the first packet of {name}");
        // A new bridge needs a second or two until it asks for neighbours of IPv6.
        reaches(&red, &to_green);
        reaches(&green, &to_red);
        for nth in 0..4 {
            let (late, to_late) = there.connected(name, &format!("late-{name}-{nth}"));
            for address in &to_late {
                assert!(one_packet(&red, address), "the first packet to {address} of {name}");
            }
            let (next, to_next) = there.connected(name, &format!("next-{name}-{nth}"));
            for address in &to_red {
                assert!(one_packet(&next, address), "the first packet to {address} from {name}");
            }
            // The twin: an address that nobody has.
            there.weft(["network", "disconnect", name, next.name()]).expect_ok();
            does_not_reach(&red, &to_next);
            drop(late);
        }
    }
}

/// How many answers to pings a container has had, in both families (RFC 4293).
fn replies(container: &Container) -> u64 {
    let counts = container.run("cat", "/proc/net/snmp /proc/net/snmp6");
    let lines: Vec<Vec<&str>> =
        counts.expect_ok().lines().map(|line| line.split_whitespace().collect()).collect();
    let v4: Vec<&Vec<&str>> = lines.iter().filter(|line| line.first() == Some(&"Icmp:")).collect();
    let place = v4[0].iter().position(|name| *name == "InEchoReps").unwrap();
    let v6 = lines.iter().find(|line| line.first() == Some(&"Icmp6InEchoReplies")).unwrap();
    [v4[1][place], v6[1]].iter().map(|count| count.parse::<u64>().unwrap()).sum()
}

/// A2: each way, in each family, without protection and with it.
#[test]
fn all_that_is_sent_arrives() {
    let cluster = two_hosts();
    for (name, _) in NETWORKS {
        let (red, to_red) = cluster.host(1).connected(name, &format!("red-{name}"));
        let (green, to_green) = cluster.host(2).connected(name, &format!("green-{name}"));
        reaches(&red, &to_green);
        reaches(&green, &to_red);
        assert!(to_red.len() == 2 && to_red[1].contains(':'), "{to_red:?}");
        for (server, client, to) in [(&green, &red, &to_green), (&red, &green, &to_red)] {
            for address in to {
                // What comes later than ping waits for has arrived all the same: the kernel counts it.
                let before = replies(client);
                client.run("ping", &format!("-n -q -i 0.01 -c 50 {address}"));
                until(&format!("50 answers of {address} on {name}"), || replies(client) - before == 50);
                assert_eq!(copy(server, client, address), 20 << 20, "{name}: {address}");
            }
        }
    }
}
