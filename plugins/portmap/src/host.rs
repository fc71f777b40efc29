//! What of the host is in the way of a publication.

use std::net::{IpAddr, Ipv4Addr};

use weft_cni::NetworkResult;
use weft_firewall::{APART, Firewall, FirewallError, Occupied};
use weft_model::IfName;
use weft_model::port::{PortRange, Protocol, Publication};
use weft_netlink::sockets::{Listener, listeners};
use weft_netlink::{Error, Socket, link, route};

use weft_plan::Port;
use weft_state::ports::{Choice, ephemeral_ports};

use crate::resolve::Wanted;

/// Why a port of the host cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The address is another host's.
    #[error("hostIP {0} is not an address of this host")]
    Foreign(IpAddr),
    /// A process of the host waits there.
    #[error("port {port}/{protocol} of {host} is in use: {holder} listens on {}", socket(*at, *port))]
    Taken {
        /// The protocol.
        protocol: Protocol,
        /// The address that was asked for.
        host: IpAddr,
        /// The port.
        port: u16,
        /// The process.
        holder: String,
        /// Where it listens.
        at: IpAddr,
    },
    /// The kernel could not be asked.
    #[error("cannot find out about {what}")]
    Kernel {
        /// What was asked about.
        what: String,
        /// What the kernel said.
        source: Error,
    },
    /// The firewall could not be asked.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

impl HostError {
    /// Returns what the user can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign(_) => {
                let how = "weft network create -o allow_foreign_host_ip, or \"allowForeignHostIP\": true";
                Some(format!("name an address of this host, or allow others for the network: {how}"))
            }
            Self::Taken { .. } => Some("stop it, or publish another port of the host".into()),
            Self::Kernel { .. } | Self::Firewall(_) => None,
        }
    }

    fn kernel(what: impl Into<String>) -> impl FnOnce(Error) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Refuses addresses that are not the host's.
///
/// # Errors
///
/// When there is one, or the kernel cannot be asked.
pub(crate) fn refuse_foreign(wanted: &Wanted) -> Result<(), HostError> {
    let mut hosts: Vec<IpAddr> = wanted.targets().map(|(host, _)| host).collect();
    hosts.retain(|host| !host.is_unspecified());
    hosts.sort_unstable();
    hosts.dedup();
    if hosts.is_empty() {
        return Ok(());
    }
    let asking = || HostError::kernel("the host's addresses");
    let mut socket = Socket::open().map_err(asking())?;
    for host in hosts {
        let path = route::get(&mut socket, host).map_err(asking())?;
        if !path.is_some_and(|path| path.local) {
            return Err(HostError::Foreign(host));
        }
    }
    Ok(())
}

/// Refuses ports at which a process of the host waits: from the moment they are published it would hear nothing. At a
/// port that `is_deaf` names, it hears nothing already.
///
/// # Errors
///
/// When there is one, or the kernel cannot be asked.
pub(crate) fn refuse_listeners(
    publications: &[&Publication],
    is_deaf: impl Fn(&Publication, u16) -> bool,
) -> Result<(), HostError> {
    for protocol in Protocol::ALL {
        let ours: Vec<_> = publications.iter().filter(|one| one.protocol == protocol).collect();
        let Some(ports) = hull(ours.iter().map(|one| one.host_ports)) else { continue };
        let listening = at(protocol, ports)?;
        let in_the_way = |one: &&&&Publication, listener: &Listener| {
            one.host_ports.contains(listener.port) && listener.is_in_the_way_of(one.host)
        };
        for listener in listening {
            let found = ours.iter().find(|one| in_the_way(one, &listener));
            if let Some(one) = found.filter(|one| !is_deaf(one, listener.port)) {
                let holder = match listener.process() {
                    Some((name, id)) => format!("{name} (process {id})"),
                    None => "a process of the host".into(),
                };
                let Listener { address: at, port, .. } = listener;
                return Err(HostError::Taken { protocol, host: one.host, port, holder, at });
            }
        }
    }
    Ok(())
}

/// Returns where processes of the host wait among the ports that are chosen from.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub(crate) fn occupied(choices: &[Choice]) -> Result<Vec<Occupied>, HostError> {
    let mut occupied = Vec::new();
    for protocol in Protocol::ALL {
        let ours = choices.iter().filter(|one| one.protocol == protocol);
        let among = ours.map(|one| one.among.unwrap_or_else(|| ephemeral_ports().0));
        let Some(ports) = hull(among) else { continue };
        for Listener { address, port, both_families, .. } in at(protocol, ports)? {
            occupied.push(Occupied { protocol, address, port });
            if both_families {
                occupied.push(Occupied { protocol, address: Ipv4Addr::UNSPECIFIED.into(), port });
            }
        }
    }
    Ok(occupied)
}

fn at(protocol: Protocol, ports: PortRange) -> Result<Vec<Listener>, HostError> {
    listeners(protocol, ports).map_err(HostError::kernel(format!("the {protocol} sockets of the host")))
}

/// Returns the smallest range that holds all of these.
fn hull(ranges: impl Iterator<Item = PortRange>) -> Option<PortRange> {
    ranges.reduce(|one, other| {
        let (first, last) = (one.first().min(other.first()), one.last().max(other.last()));
        PortRange::new(first, last).unwrap_or(one)
    })
}

/// Returns the names of the links by which the host reaches these addresses.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub(crate) fn links_to<const N: usize>(
    addresses: [Option<IpAddr>; N],
) -> Result<[Option<IfName>; N], HostError> {
    let mut links = [const { None }; N];
    if addresses.iter().all(Option::is_none) {
        return Ok(links);
    }
    let mut known: Option<(u32, IfName)> = None;
    let asking = || HostError::kernel("the way to the container");
    let mut socket = Socket::open().map_err(asking())?;
    for (found, address) in links.iter_mut().zip(addresses) {
        let Some(address) = address else { continue };
        let path = route::get(&mut socket, address).map_err(asking())?;
        let Some(path) = path.filter(|path| !path.local) else { continue };
        // One link leads to both of a container's families, as a rule.
        if known.as_ref().is_none_or(|(index, _)| *index != path.index) {
            let link = socket.link(link::get_index(path.index)).map_err(asking())?;
            known = link.and_then(|link| Some((path.index, link.name.parse().ok()?)));
        }
        *found = known.as_ref().map(|(_, name)| name.clone());
    }
    Ok(links)
}

/// Returns the bridge port, if any, that has to send frames back where they came from for the container to reach its own
/// published ports, with the bridge it belongs to.
///
/// KERNEL: where `bridge-nf-call-iptables` is on, addresses are translated while a frame is still being bridged
/// (br_nf_pre_routing_finish), so it is to leave by the port it came in by, or by one that is isolated as this one is: where a
/// rule of the firewall keeps them apart as well, this one need not be. Otherwise it is routed and comes back.
///
/// # Errors
///
/// When the kernel cannot be asked.
pub(crate) fn hairpin_port(result: &NetworkResult) -> Result<Option<(IfName, Port)>, HostError> {
    if !["iptables", "ip6tables"].iter().any(|program| is_bridged_traffic_seen_by(program)) {
        return Ok(None);
    }
    let asking = || HostError::kernel("the container's bridge port");
    let mut socket = Socket::open().map_err(asking())?;
    let outside = result.interfaces.iter().filter(|link| link.sandbox.as_deref().is_none_or(str::is_empty));
    for name in outside.filter_map(|link| link.name.parse::<IfName>().ok()) {
        let Some(found) = socket.link(link::get(&name)).map_err(asking())? else { continue };
        let (Some(options), Some(master)) = (found.port, found.master) else { continue };
        let Some(bridge) = socket.link(link::get_index(master)).map_err(asking())? else { continue };
        let Ok(bridge) = bridge.name.parse() else { continue };
        let by_group = options.isolated && found.group == APART && Firewall::new().keeps_ports_apart()?;
        let isolated = options.isolated && !by_group;
        return Ok(Some((name, Port { hairpin: true, isolated, ..Port::of(&bridge) })));
    }
    Ok(None)
}

fn is_bridged_traffic_seen_by(program: &str) -> bool {
    let switch = std::fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{program}"));
    switch.is_ok_and(|switch| switch.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hull_holds_all_ranges() {
        let ranges = ["80", "8000-8010", "443"].map(|text| text.parse::<PortRange>().unwrap());
        assert_eq!(hull(ranges.into_iter()).unwrap().to_string(), "80-8010");
        assert_eq!(hull([].into_iter()), None);
    }
}
