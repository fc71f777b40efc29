//! Overlays: what passes between two hosts beside VXLAN set up by hand, docker's overlay and no VXLAN at all, the same
//! encrypted beside wireguard-go, what an ADD costs beside one on a bridge, and the ways to hundreds of peers.

mod encrypted;
mod hosts;
mod one_host;
mod recovery;
mod traffic;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_testkit::{Cluster, StaticNetwork, Underlay};

use crate::docker::Docker;
use hosts::Swarm;
use traffic::{Way, median};

const BLUE: StaticNetwork = StaticNetwork { name: "blue", vni: 5000, v4: "10.1", v6: None, more: "" };
const FAST: StaticNetwork =
    StaticNetwork { name: "fast", vni: 5001, v4: "10.2", v6: None, more: "fastpath = true" };
/// The hosts with an agent and a network as anybody makes one.
const GATED: [u8; 2] = [13, 14];
/// How long one way is used before the next has its turn, and how often each has: many short turns, since what else the machine
/// does, and which processor a thread wakes up on, comes and goes in seconds.
const STREAM: Duration = Duration::from_millis(300);
const PACKETS: Duration = Duration::from_millis(100);
const ROUNDS: usize = 31;

/// Measures, and says what came out.
pub(crate) fn measure() -> Result<String> {
    let mut page = plain()?;
    page.push_str(&encrypted::measure()?);
    Ok(page)
}

fn plain() -> Result<String> {
    let mut cluster = Cluster::unjoined(14);
    for number in GATED {
        cluster.start(number);
        cluster.join(number).expect_ok();
    }
    let net = &cluster.underlay;
    net.statics_of(net.hosts().get(..12).context("no hosts")?, &[BLUE, FAST], "v4");
    cluster.network(GATED[0], &["usual"]);
    let mut ways = vec![
        ours(net, "weft overlay", "usual", GATED)?,
        ours(net, "weft overlay, fastpath=false", BLUE.name, [1, 2])?,
        ours(net, "weft overlay, fastpath", FAST.name, [11, 12])?,
        hosts::by_hand(net, [3, 4], false)?,
        hosts::by_hand(net, [5, 6], true)?,
        hosts::routed(net, [7, 8])?,
    ];
    let swarm = Docker::is_there().then(|| Swarm::start(net, [9, 10])).transpose()?;
    if let Some(swarm) = &swarm {
        ways.push(swarm.way()?);
    }
    for number in GATED {
        cluster.eventually("the fast path is open", || is_open(&cluster, number));
    }
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.stream(STREAM)?;
            way.round_trips(PACKETS)?;
            way.small_packets(PACKETS)?;
        }
        ways.rotate_left(1);
    }
    ways.sort_by_key(|way| way.name);
    let mut page = String::from(
        "\n| between two hosts | TCP, Gb/s | round trips/s | small packets/s |\n|---|---|---|---|\n",
    );
    for way in &mut ways {
        let [bytes, trips, small] =
            [&mut way.bytes, &mut way.trips, &mut way.small].map(|values| median(values));
        let _ = writeln!(page, "| {} | {:.2} | {trips:.0} | {small:.0} |", way.name, bytes * 8.0 / 1e9);
    }
    page.push_str(&one_host::adds(net.host(1))?);
    page.push_str(&one_host::peers(net.host(1))?);
    Ok(page)
}

/// Whether nobody has a say about what a network made as usual carries on a host.
fn is_open(cluster: &Cluster, number: u8) -> bool {
    cluster.host(number).weft(["overlay", "status"]).stdout.contains("fastpath open")
}

fn ours(net: &Underlay, name: &'static str, network: &str, numbers: [u8; 2]) -> Result<Way> {
    let (from, _) = net.host(numbers[0]).connected(network, "bench");
    let (to, addresses) = net.host(numbers[1]).connected(network, "bench");
    Way::between(name, &from, &to, addresses.first().context("no address")?)
}
