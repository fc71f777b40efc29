//! Networks with a namespace of their own, when that is taken away.

use weft_testkit::{Cluster, Container, Host, reaches, skip_unless};

use crate::overlay_agent::{addresses, connected};
use crate::overlay_fastpath::{NEEDS, is_capable};

/// How many packets a network's own namespace has passed on by its routing; nothing if there is none.
fn forwarded(host: &Host) -> Option<u64> {
    let inside = format!("nsenter --net={}", host.path("run/weft/overlay/netns/blue").display());
    let shown = host.sh(&format!("{inside} awk '/^Ip:/ {{ if (n++) print $7 }}' /proc/self/net/snmp"));
    (shown.code == 0).then(|| shown.stdout.trim().parse().unwrap())
}

fn is_fast(host: &Host, from: &Container, to: &Container) -> bool {
    let before = forwarded(host);
    addresses(to).iter().all(|to| from.ping(to)) && before.is_some() && forwarded(host) == before
}

#[test]
fn a_namespace_that_was_taken_away_is_made_anew() {
    let cluster = Cluster::new(2);
    skip_unless!(is_capable(cluster.underlay.lab()), NEEDS);
    cluster.network(1, &["-o", "isolated", "-o", "fastpath=auto", "blue"]);
    let (mut here, there) = (connected(&cluster, 1, "one"), connected(&cluster, 2, "two"));
    let host = cluster.host(1);
    let pin = host.path("run/weft/overlay/netns/blue").display().to_string();
    cluster.eventually("packets take the fast path", || is_fast(host, &here, &there));
    // By hand; as a reboot leaves it; and while nobody is told before a container comes.
    let ways = [
        ("umount -l PIN && rm PIN", true),
        ("umount -l PIN", true),
        ("umount -l PIN && rm PIN", false),
        ("umount -l PIN", false),
    ];
    for (number, (way, waits)) in ways.into_iter().enumerate() {
        host.sh(&way.replace("PIN", &pin)).expect_ok();
        if waits {
            let device = format!("nsenter --net={pin} ip -o link show type vxlan");
            cluster.eventually("the devices are there again", || {
                let shown = host.sh(&device);
                shown.code == 0 && !shown.stdout.is_empty()
            });
        }
        // An ADD waits for the kernel to take the old one apart, but not for ever.
        let next = host.container(&format!("again-{number}"));
        cluster.eventually("it is connected", || {
            host.weft(["network", "connect", "blue", next.name()]).code == 0
        });
        let before = std::mem::replace(&mut here, next);
        reaches(&here, addresses(&there));
        reaches(&there, addresses(&here));
        cluster.eventually("packets take the fast path again", || is_fast(host, &here, &there));
        // Whoever was there has lost the network with its namespace, and gets another place in it.
        host.weft(["network", "disconnect", "blue", before.name()]).expect_ok();
        host.weft(["network", "connect", "blue", before.name()]).expect_ok();
        cluster.eventually("it reaches others again", || before.ping(&addresses(&there)[0]));
    }
}
