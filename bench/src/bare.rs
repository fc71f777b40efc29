//! The requests of an ADD and of a DEL with nothing around them: no process, no JSON, no files.
//!
//! The steps are those of the `bridge` plugin's plans.

use std::time::Instant;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use weft_firewall::{Backend, Fragment, Masquerade};
use weft_model::{Endpoint, IfName};
use weft_netns::Netns;
use weft_plan::{Address, Conflict, Journal, Kernel, Link, Peer, Place, Plan, Port, Removal, Route, Sysctl};

use crate::host::Ground;
use crate::process::Cost;

/// Connects a container as the plugin would, and says how long it took.
pub(crate) fn add(ground: &Ground, container: usize) -> Result<Cost> {
    let (links, addresses, host_end) = plans(ground, container)?;
    let path = ground.containers[container].netns();

    let start = Instant::now();
    let netns = Netns::open(path)?;
    let mut kernel = Kernel::open(Some(&netns))?;
    let mut journal = Journal::default();
    kernel.ensure(&links, &mut journal)?;
    kernel.ensure(&addresses, &mut journal)?;
    kernel.wait_up(&host_end)?;
    Ok(Cost { wall: start.elapsed(), ..Cost::default() })
}

/// Disconnects a container as the plugin would, and says how long it took.
pub(crate) fn del(ground: &Ground, container: usize) -> Result<Cost> {
    let (links, _, _) = plans(ground, container)?;
    let path = ground.containers[container].netns();

    let start = Instant::now();
    let netns = Netns::open(path)?;
    let mut kernel = Kernel::open(Some(&netns))?;
    let problems = kernel.remove(&links, Removal::Announced);
    let wall = start.elapsed();
    anyhow::ensure!(problems.is_empty(), "{problems:?}");
    Ok(Cost { wall, ..Cost::default() })
}

fn plans(ground: &Ground, container: usize) -> Result<(Plan, Plan, IfName)> {
    let bridge: IfName = "bench0".parse()?;
    let endpoint = Endpoint {
        network: "bench".parse()?,
        container: ground.containers[container].name().parse()?,
        ifname: "eth0".parse()?,
    };
    let number = u16::try_from(container).context("too many containers")? + 2;
    let [high, low] = number.to_be_bytes();
    let address = IpNetwork::new([10, 90, high, low].into(), 16)?;
    let gateway = IpNetwork::new([10, 90, 0, 1].into(), 16)?;
    let host_end = endpoint.host_ifname();

    let mut links = Plan::new();
    links.network(Link::bridge(&bridge).up(true));
    let port = Port { hairpin: true, ..Port::of(&bridge) };
    links.host(Link::veth(&host_end, Peer::container(&endpoint.ifname)).port(port).up(true));

    let mut addresses = Plan::new();
    addresses.container(Link::existing(&endpoint.ifname).link_local(false).up(true));
    addresses.container(Address::on(&endpoint.ifname, address));
    addresses
        .container(Route::to(IpNetwork::new([0; 4].into(), 0)?, &endpoint.ifname).via(Some(gateway.ip())));
    addresses.network(Address::on(&bridge, gateway).conflict(Conflict::Refuse));
    addresses.network(Sysctl::set("net/ipv4/ip_forward", "1"));
    addresses.network(Fragment::Masquerade(Masquerade {
        network: endpoint.network.clone(),
        subnets: vec![address],
        endpoint: Some(endpoint.clone()),
        addresses: vec![address],
        backend: Backend::Weft,
        claims: ground.lab.path("run/weft/masquerade"),
    }));
    debug_assert!(addresses.raises(Place::Container, &endpoint.ifname));
    Ok((links, addresses, host_end))
}
