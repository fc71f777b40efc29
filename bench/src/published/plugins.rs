//! What each side does to connect a container and to publish its port.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use weft_netns::Netns;
use weft_testkit::Program;

use crate::host::{Ground, Side};
use crate::netavark::{self, Ports};
use crate::process::Cost;

/// The network of the `weft` command.
pub(super) const NETWORK: &str = "blue";
/// The first port of the long range.
pub(super) const RANGE: u16 = 40_000;
/// The first of the ports that the measured containers publish.
const FIRST: u16 = 30_000;

/// The port that a container publishes.
pub(super) fn port(container: usize) -> Result<u16> {
    Ok(FIRST + u16::try_from(container)?)
}

impl Ground {
    /// Connects a container and publishes its port 80, in as many processes as a runtime would start.
    pub(super) fn connect(&mut self, container: usize) -> Result<Cost> {
        let port = port(container)?;
        match self.side {
            Side::Weft | Side::Debian => Ok(self.link(container)? + self.publish(container)?),
            Side::Command => {
                let published = format!("{port}:80");
                let name = self.containers[container].name();
                self.weft(&["network", "connect", "-p", &published, NETWORK, name])
            }
            Side::Docker => self.docker.as_ref().context("no docker")?.connect(container),
            Side::Netavark => netavark::call(self, "setup", container, Ports::one(port)),
        }
    }

    /// Takes back what connecting did.
    pub(super) fn disconnect(&mut self, container: usize) -> Result<Cost> {
        match self.side {
            Side::Weft | Side::Debian => Ok(self.withdraw(container)? + self.unlink(container)?),
            Side::Command => {
                self.weft(&["network", "disconnect", NETWORK, self.containers[container].name()])
            }
            Side::Docker => self.docker.as_ref().context("no docker")?.disconnect(container),
            Side::Netavark => netavark::call(self, "teardown", container, Ports::one(port(container)?)),
        }
    }

    /// Connects a container without a port.
    pub(super) fn attach(&mut self, container: usize) -> Result<()> {
        self.link(container).map(drop)
    }

    /// Takes that back.
    pub(super) fn detach(&mut self, container: usize) -> Result<()> {
        self.unlink(container).map(drop)
    }

    /// Publishes the port of a container that is connected.
    pub(super) fn publish(&mut self, container: usize) -> Result<Cost> {
        self.portmap("ADD", container, &one(container)?)
    }

    /// Takes it back.
    pub(super) fn withdraw(&mut self, container: usize) -> Result<Cost> {
        self.portmap("DEL", container, &one(container)?)
    }

    /// Publishes these mappings of a container that is connected.
    pub(super) fn portmap(&self, verb: &str, container: usize, mappings: &Value) -> Result<Cost> {
        let result = self.results.get(&container).context("the container is not connected")?;
        let conf = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "portmap", "snat": true,
            "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": mappings},
            "prevResult": result,
        });
        Ok(self.call("portmap", verb, container, "eth0", &conf)?.0)
    }

    /// Connects a container, publishes a range of it and one port in turn, and counts what that is.
    ///
    /// Returns the costs of the range's ADD and DEL, the processes that one port and the range start, and the range's
    /// elements in the firewall.
    pub(super) fn range(&mut self, container: usize, count: u16) -> Result<([Cost; 2], [u64; 2], usize)> {
        let range = json!([{"hostPort": RANGE, "containerPort": RANGE, "protocol": "tcp", "range": count}]);
        self.attach(container)?;
        let (_, of_one) = counted(|| self.publish(container))?;
        self.withdraw(container)?;
        let (add, of_range) = counted(|| self.portmap("ADD", container, &range))?;
        let elements = elements("publish_ranges4")?;
        let del = self.portmap("DEL", container, &range)?;
        self.detach(container)?;
        Ok(([add, del], [of_one, of_range], elements))
    }

    /// Returns the network namespace of a container.
    pub(super) fn netns(&self, container: usize) -> Result<Netns> {
        match &self.docker {
            Some(docker) => docker.netns(container),
            None => Ok(Netns::open(self.containers[container].netns())?),
        }
    }

    fn link(&mut self, container: usize) -> Result<Cost> {
        let (cost, printed) = self.call("bridge", "ADD", container, "eth0", &self.bridge_conf())?;
        let result = serde_json::from_str(&printed).context("bridge ADD printed no JSON")?;
        self.results.insert(container, result);
        Ok(cost)
    }

    fn unlink(&mut self, container: usize) -> Result<Cost> {
        let mut conf = self.bridge_conf();
        conf["prevResult"] = self.results.remove(&container).context("the container is not connected")?;
        Ok(self.call("bridge", "DEL", container, "eth0", &conf)?.0)
    }
}

fn one(container: usize) -> Result<Value> {
    Ok(json!([{"hostPort": port(container)?, "containerPort": 80, "protocol": "tcp"}]))
}

/// Counts the processes that the machine starts meanwhile. Others only ever add to it.
fn counted(work: impl FnOnce() -> Result<Cost>) -> Result<(Cost, u64)> {
    let before = processes()?;
    let cost = work()?;
    Ok((cost, processes()? - before))
}

fn processes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("processes "));
    line.context("/proc/stat counts no processes")?.parse().context("/proc/stat counts no processes")
}

/// Counts the elements of one of our maps.
fn elements(map: &str) -> Result<usize> {
    let listing = Program::new("nft").args(["-j", "list", "map", "inet", "weft", map]).run();
    if listing.code != 0 {
        bail!("{listing}");
    }
    let listing: Value = serde_json::from_str(&listing.stdout).context("nft printed no JSON")?;
    let objects = listing["nftables"].as_array().into_iter().flatten();
    Ok(objects.filter_map(|object| object["map"]["elem"].as_array()).map(Vec::len).sum())
}
