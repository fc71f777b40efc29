//! What an overlay costs on one host: an ADD beside one on a bridge, and the ways to hundreds of peers.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_testkit::{Container, Host, staged, staged_folder};

use super::traffic::median;
use crate::process;

const ADDS: usize = 40;
/// The hosts of the cluster whose peers are programmed.
const PEERS: u16 = 500;

/// What an ADD and a DEL cost on both kinds of network, in turns.
pub(super) fn adds(host: &Host) -> Result<String> {
    let container = host.container("adds");
    let bridge = json!({"cniVersion": "1.1.0", "name": "plain", "type": "bridge", "bridge": "br-bench",
        "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "isolate": true, "gatewayMode": {"ipv4": "nat", "ipv6": "nat"},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.8.0.0/26"}]]}});
    let overlay = json!({"cniVersion": "1.1.0", "name": "blue", "type": "overlay",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.64/26", "gateway": "10.1.0.65"}]]}});
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..ADDS {
        for (index, (kind, conf)) in [("bridge", &bridge), ("overlay", &overlay)].into_iter().enumerate() {
            for (offset, verb) in ["ADD", "DEL"].into_iter().enumerate() {
                samples[index * 2 + offset].push(call(host, kind, verb, &container, conf)?);
            }
        }
    }
    let [bridge_add, bridge_del, overlay_add, overlay_del] = samples.each_mut().map(|values| median(values));
    Ok(format!(
        "\n| on one host | ADD, ms | DEL, ms |\n|---|---|---|\n| bridge | {bridge_add:.2} | {bridge_del:.2} |\n\
         | overlay | {overlay_add:.2} | {overlay_del:.2} |\n| overlay / bridge | {:.2} | {:.2} |\n",
        overlay_add / bridge_add,
        overlay_del / bridge_del
    ))
}

fn call(host: &Host, kind: &str, verb: &str, container: &Container, conf: &Value) -> Result<f64> {
    let (netns, folder) = (container.netns(), staged_folder());
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (netns, folder, root) = (text(&netns), text(&folder), text(host.root()));
    let env = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", container.name()),
        ("CNI_NETNS", &netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", &folder),
        ("WEFT_ROOT", &root),
    ];
    let input = conf.to_string();
    let (cost, _) = host.inside(|| process::run(&staged(kind), &[], &env, input.as_bytes()))?;
    Ok(cost.wall.as_secs_f64() * 1e3)
}

/// How long it takes to make the ways to hundreds of hosts, and to find that nothing is to be done.
pub(super) fn peers(host: &Host) -> Result<String> {
    for number in 1..=PEERS {
        let (high, low) = (number / 4, number % 4 * 64);
        let text = format!(
            "name = \"p{number}\"\nunderlay = [\"198.18.{}.{}\"]\n[[block]]\nnetwork = \"blue\"\ncidr = \"10.1.{}.{low}/26\"\n",
            number / 250,
            number % 250 + 1,
            high + 100
        );
        host.write(&format!("etc/weft/overlay/peers.d/p{number}.toml"), text);
    }
    let apply = || -> Result<f64> {
        let start = Instant::now();
        let output = host.weft(["overlay", "apply"]);
        ensure!(output.code == 0, "{output}");
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let (made, again) = (apply()?, apply()?);
    let routes = host.ip("route show proto 201").lines().count();
    ensure!(routes > usize::from(PEERS), "only {routes} routes");
    Ok(format!(
        "\n`weft overlay apply` makes the ways to {PEERS} peers in {made:.0} ms, its two processes and {PEERS} files included; \
         with nothing to do it takes {again:.0} ms.\n"
    ))
}
