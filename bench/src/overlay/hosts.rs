//! Hosts that others have set up: as flannel does it, without any encapsulation, and with docker's daemon.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_testkit::{Container, Host, Underlay};

use super::traffic::Way;
use crate::docker::Docker;

/// A VXLAN device set up by hand: what it sends with, and to.
#[derive(Clone, Copy)]
pub(super) struct Vxlan {
    /// What comes before a host's number in its address, and what the address of the device is looked for by.
    pub(super) prefix: &'static str,
    /// The MTU inside.
    pub(super) mtu: u32,
    /// More words of `ip link add`.
    pub(super) more: &'static str,
}

/// A bridge on each of two hosts, and a container on it: what is measured has them in common.
pub(super) fn bridged(net: &Underlay, numbers: [u8; 2], mtu: u32) -> [Container; 2] {
    numbers.map(|number| {
        let host = net.host(number);
        let container = host.container("bench");
        let name = container.name().to_string();
        host.ip(&format!("link add cni0 mtu {mtu} type bridge"));
        host.ip(&format!("address add 10.7.{number}.1/24 dev cni0"));
        host.ip("link set cni0 up");
        host.ip(&format!("link add vbench mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"));
        host.ip("link set vbench master cni0 up");
        container.ip(&format!("address add 10.7.{number}.2/24 dev eth0"));
        container.ip("link set eth0 up");
        container.ip(&format!("route add default via 10.7.{number}.1"));
        host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward").expect_ok();
        container
    })
}

/// Connects two hosts' containers as flannel does: one device, a route, a neighbour and a forwarding entry for the other
/// host.
pub(super) fn vxlan(net: &Underlay, numbers: [u8; 2], vxlan: Vxlan) -> [Container; 2] {
    let Vxlan { prefix, mtu, more } = vxlan;
    let containers = bridged(net, numbers, mtu);
    let mac = |number: u8| format!("02:00:00:00:00:{number:02x}");
    let [one, two] = numbers;
    for (number, other) in [(one, two), (two, one)] {
        let host = net.host(number);
        host.ip(&format!(
            "link add flannel.1 address {} mtu {mtu} type vxlan id 1 local {prefix}{number} dstport 8472 nolearning {more}",
            mac(number)
        ));
        host.ip(&format!("address add 10.7.{number}.0/32 dev flannel.1"));
        host.ip("link set flannel.1 up");
        host.ip(&format!("neigh add 10.7.{other}.0 lladdr {} dev flannel.1 nud permanent", mac(other)));
        host.run("bridge", &format!("fdb add {} dev flannel.1 dst {prefix}{other}", mac(other))).expect_ok();
        host.ip(&format!("route add 10.7.{other}.0/24 via 10.7.{other}.0 dev flannel.1 onlink"));
    }
    containers
}

/// What flannel itself adds to that on every host, with nf_tables: forwarding is allowed, and what leaves is masqueraded.
const FLANNEL: &str = "table ip flannel-ipv4 {
    chain postrtg {
        type nat hook postrouting priority srcnat;
        meta mark & 0x4000 == 0x4000 return
        ip saddr 10.7.0.0/16 ip daddr 10.7.0.0/16 return
        ip saddr 10.7.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
        ip saddr != 10.7.0.0/16 ip daddr 10.7.0.0/16 masquerade fully-random
    }
    chain forward {
        type filter hook forward priority filter;
        ip saddr 10.7.0.0/16 accept
        ip daddr 10.7.0.0/16 accept
    }
}";

/// VXLAN by hand, bare or with flannel's rules.
pub(super) fn by_hand(net: &Underlay, numbers: [u8; 2], with_rules: bool) -> Result<Way> {
    let plain = Vxlan { prefix: "192.0.2.", mtu: 1450, more: "dev u0" };
    let [from, to] = vxlan(net, numbers, plain);
    let address = format!("10.7.{}.2", numbers[1]);
    if !with_rules {
        return Way::between("VXLAN by hand, as flannel's", &from, &to, &address);
    }
    for number in numbers {
        net.host(number).program("nft").args(["-f", "-"]).stdin(FLANNEL).run().expect_ok();
    }
    Way::between("the same with flannel's rules", &from, &to, &address)
}

/// The same hops without encapsulation.
pub(super) fn routed(net: &Underlay, numbers: [u8; 2]) -> Result<Way> {
    let [from, to] = bridged(net, numbers, 1500);
    let [one, two] = numbers;
    for (number, other) in [(one, two), (two, one)] {
        net.host(number).ip(&format!("route add 10.7.{other}.0/24 via 192.0.2.{other}"));
    }
    Way::between("no encapsulation", &from, &to, &format!("10.7.{two}.2"))
}

/// Two daemons that form a swarm, and an attachable overlay of theirs.
pub(super) struct Swarm {
    daemons: [Docker; 2],
}

impl Swarm {
    const NETWORK: &str = "bench";

    /// Starts it on two hosts.
    pub(super) fn start(net: &Underlay, numbers: [u8; 2]) -> Result<Self> {
        crate::docker::surround(net.lab())?;
        let start = |host: &Host| host.inside(|| Docker::launch(net.lab(), host.name()));
        let daemons = [start(net.host(numbers[0]))?, start(net.host(numbers[1]))?];
        let [manager, worker] = &daemons;
        let address = |number: u8| net.host(number).ipv4().to_string();
        let (first, second) = (address(numbers[0]), address(numbers[1]));
        manager.said(&["swarm", "init", "--advertise-addr", &first, "--listen-addr", &first])?;
        let token = manager.said(&["swarm", "join-token", "--quiet", "worker"])?;
        worker.said(&["swarm", "join", "--token", &token, "--advertise-addr", &second, &first])?;
        manager.said(&["network", "create", "--driver", "overlay", "--attachable", Self::NETWORK])?;
        Ok(Self { daemons })
    }

    /// Runs a container on each host.
    pub(super) fn way(&self) -> Result<Way> {
        let limit = Instant::now() + Duration::from_secs(30);
        for (number, daemon) in self.daemons.iter().enumerate() {
            // A worker hears of the network some time after it was created.
            while let Err(error) = daemon.run_on(Self::NETWORK, number) {
                ensure!(Instant::now() < limit, "{error:#}");
                daemon.remove(number);
            }
        }
        let [one, two] = &self.daemons;
        let address = two.address(1).context("docker tells no address")?;
        Way::open("docker's overlay", one.netns(0)?, two.netns(1)?, &address)
    }
}
