//! What the tests of this folder share: one host, one bridge, one container.

#![allow(dead_code, reason = "each test file uses its part")]

use ipnetwork::IpNetwork;
use weft_model::{IfName, Mac, Mtu};
use weft_netns::Netns;
use weft_plan::{Address, Conflict, Journal, Kernel, Link, Peer, Plan, Port, Route, Sysctl};
use weft_testkit::{Container, Lab};

pub(crate) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub(crate) const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

/// A container on `br0`, as the bridge plugin plans it, with both families.
pub(crate) fn plan() -> Plan {
    let (bridge, near, far) = (name("br0"), name("veth7"), name("eth0"));
    let mtu = Mtu::try_from(1400).ok();
    let mut plan = Plan::new();
    plan.network(Link::bridge(&bridge).mtu(mtu).promisc(true).up(true));
    plan.network(Sysctl::attempt("net/ipv6/conf/br0/accept_ra", "0"));
    let port = Port { isolated: true, ..Port::of(&bridge) };
    plan.host(Link::veth(&near, Peer::container(&far).mac(Some(MAC))).mtu(mtu).port(port).up(true));
    plan.container(Sysctl::set("net/ipv4/conf/eth0/arp_notify", "1"));
    plan.container(Link::existing(&IfName::loopback()).up(true));
    plan.container(Link::existing(&far).up(true));
    plan.container(Address::on(&far, net("10.90.0.7/24")));
    plan.container(Address::on(&far, net("fd00:90::7/64")));
    plan.container(
        Route::to(net("0.0.0.0/0"), &far).via("10.90.0.1".parse().ok()).metric(Some(100)).mtu(Some(1300)),
    );
    plan.container(Route::to(net("10.1.0.0/16"), &far).via("10.90.0.2".parse().ok()).table(Some(500)));
    plan.container(Route::to(net("::/0"), &far).via("fd00:90::1".parse().ok()));
    plan.network(Address::on(&bridge, net("10.90.0.1/24")).conflict(Conflict::Refuse));
    plan.network(Address::on(&bridge, net("fd00:90::1/64")).conflict(Conflict::Refuse));
    plan.network(Sysctl::set("net/ipv4/ip_forward", "1"));
    plan
}

/// The same for another container, so that the network is in use.
pub(crate) fn neighbour() -> Plan {
    let mut plan = Plan::new();
    plan.network(Link::bridge(&name("br0")).up(true));
    plan.host(
        Link::veth(&name("veth8"), Peer::container(&name("eth0"))).port(Port::of(&name("br0"))).up(true),
    );
    plan.container(Link::existing(&name("eth0")).up(true));
    plan.container(Address::on(&name("eth0"), net("10.90.0.8/24")));
    plan
}

pub(crate) fn kernel(container: &Container) -> Kernel {
    Kernel::open(Some(&Netns::open(container.netns()).unwrap())).unwrap()
}

/// Makes a plan so, for good.
pub(crate) fn make(container: &Container, plan: &Plan) -> Kernel {
    let mut kernel = kernel(container);
    kernel.ensure(plan, &mut Journal::default()).unwrap();
    kernel
}

pub(crate) fn differences(kernel: &mut Kernel, plan: &Plan) -> Vec<String> {
    kernel.observe(plan).unwrap().iter().map(ToString::to_string).collect()
}

/// The container's links, addresses, routes and the sysctls that plans touch.
pub(crate) fn inside(container: &Container) -> String {
    let mut text = String::new();
    for words in
        ["-o link show", "-o address show scope global", "route show table all", "-6 route show table all"]
    {
        let listing = container.ip(words);
        // Link-local routes come a little later than what we ask for, and are the kernel's.
        let ours = listing.lines().filter(|line| !line.contains("fe80::") && !line.contains("ff00::"));
        ours.for_each(|line| text.extend([line, "\n"]));
    }
    for key in ["ipv4/conf/default/arp_notify", "ipv6/conf/lo/disable_ipv6"] {
        text.push_str(&container.sysctl(key));
    }
    text
}

/// A host and a container whose `lo` was up once: the kernel then leaves it its address for good.
pub(crate) fn lab() -> (Lab, Container) {
    let lab = Lab::new();
    let red = lab.container("red");
    red.ip("link set lo up");
    red.ip("link set lo down");
    (lab, red)
}
