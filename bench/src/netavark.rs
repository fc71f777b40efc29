//! netavark, as podman calls it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use crate::host::Ground;
use crate::peers;
use crate::process::{self, Cost};

const PROGRAM: &str = "/usr/lib/podman/netavark";

/// Returns the program, if it is there.
pub(crate) fn find() -> Option<PathBuf> {
    peers::find(PROGRAM)
}

/// Ports to publish: as many from the host's `first` on as `count` says, to the container's `target` and what follows.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) target: u16,
    pub(crate) count: u16,
}

impl Ports {
    /// One port, to the container's port 80.
    pub(crate) fn one(host: u16) -> Self {
        Self { first: host, target: 80, count: 1 }
    }
}

/// Calls `setup` or `teardown` for a container: its link, its address and its ports in one process.
pub(crate) fn call(ground: &Ground, verb: &str, container: usize, ports: Ports) -> Result<Cost> {
    let program = find().context("no netavark")?;
    let (name, netns) = (ground.containers[container].name(), ground.containers[container].netns());
    // podman chooses the address before it calls netavark.
    let [high, low] = u16::try_from(container + 2)?.to_be_bytes();
    let address = format!("10.90.{high}.{low}");
    let input = json!({
        "container_id": name, "container_name": name,
        "networks": {"bench": {"interface_name": "eth0", "static_ips": [address]}},
        "network_info": {"bench": {
            "name": "bench", "id": "0".repeat(64), "driver": "bridge", "network_interface": "bench0",
            "created": "2026-01-01T00:00:00Z", "ipv6_enabled": false, "internal": false, "dns_enabled": false,
            "subnets": [{"subnet": "10.90.0.0/16", "gateway": "10.90.0.1"}],
            "ipam_options": {"driver": "host-local"},
        }},
        "port_mappings": [{
            "host_ip": "", "host_port": ports.first, "container_port": ports.target, "protocol": "tcp",
            "range": ports.count,
        }],
    });
    let config = ground.lab.path("run/netavark").display().to_string();
    let words = ["--config", &config, verb, &netns.display().to_string()];
    let environment = peers::environment();
    let environment = environment.each_ref().map(|(key, value)| (*key, value.as_str()));
    Ok(process::run(&program, &words, &environment, input.to_string().as_bytes())?.0)
}
