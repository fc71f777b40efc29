//! What a plan may ask of the firewall, as data.

mod loopback;
mod publish;

use std::fmt;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use weft_model::{Endpoint, IfName, Mac, NetworkName};

use crate::claim::Claims;
use crate::entry::Entry;
use crate::weft::Demand;
use crate::{Admission, Backend};

pub use loopback::{Localnet, Loopback};
pub use publish::{Conditions, Guard, Hairpin, Occupied, Publish, SourceAddress};

/// One thing the firewall should do for a network or an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Traffic leaving a network gets the host's address.
    Masquerade(Masquerade),
    /// Packets between a network and other interfaces of the host are dropped.
    Isolation(Isolation),
    /// Frames from a bridge port with another source address than the container's are dropped.
    SpoofCheck(SpoofCheck),
    /// Ports of the host lead to a container.
    Publish(Box<Publish>),
    /// A network's containers reach the ports it publishes.
    Hairpin(Hairpin),
    /// The host calls published ports by `::1`.
    Loopback(Loopback),
    /// The host calls published ports by `127.0.0.1`.
    Localnet(Localnet),
    /// A network is not entered from outside but by its published ports.
    Guard(Guard),
    /// Traffic leaving a network gets an address of the host's that was named.
    SourceAddress(SourceAddress),
    /// A container's packets pass the host's firewall.
    Admission(Admission),
}

/// Traffic from a network to anything outside the sender's own subnet, except multicast, gets the
/// address of the interface it leaves by.
///
/// The fragment speaks for one attachment when `endpoint` is given (ADD, CHECK, DEL) and for the
/// whole network when it is not (garbage collection, removal of the network). With
/// [`Backend::Weft`] nothing exists per attachment: removing the fragment of an attachment keeps
/// the network's entries, so that undoing one ADD never takes them from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// The network whose traffic it is.
    pub network: NetworkName,
    /// The network's subnets; host bits are ignored.
    pub subnets: Vec<IpNetwork>,
    /// The attachment, or `None` for the network as a whole.
    pub endpoint: Option<Endpoint>,
    /// The attachment's addresses with their prefix lengths. May be empty when removing.
    pub addresses: Vec<IpNetwork>,
    /// Who carries the rules.
    pub backend: Backend,
    /// The directory for our ownership records, `/run/weft/masquerade`. It need not exist yet.
    pub claims: PathBuf,
}

/// What the host would route between a network's bridge and other interfaces is dropped: to and from other
/// isolated bridges, or anything if the network is internal.
///
/// Packets from the bridge to itself pass, and so do those from and to the host itself. No connection is
/// looked at, so an answer is dropped as the question would have been. It belongs to the network:
/// removing it drops the network's claims, and the bridge is isolated as long as another network
/// claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// The network.
    pub network: NetworkName,
    /// The interface that routes for the network: its bridge, or its link inside a VLAN.
    pub bridge: IfName,
    /// Other interfaces that route for the network, such as its tunnel to other hosts: packets pass between all of
    /// these. For our own backend only.
    pub links: Vec<IfName>,
    /// Whether packets are exchanged with no other interface at all.
    pub internal: bool,
    /// Who carries the rules: iptables, or else our own table, since the reference plugins isolate nothing.
    pub backend: Backend,
    /// The directory for our ownership records, as for [`Masquerade`].
    pub claims: PathBuf,
}

impl Isolation {
    /// Returns what the network wants of our own backend.
    pub(crate) fn demand(&self) -> Demand<'_> {
        Demand { network: &self.network, claims: Claims(&self.claims), entries: self.entries() }
    }

    /// Returns what the network claims.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let one = |link: &IfName| match self.internal {
            true => Entry::Internal(link.clone()),
            false => Entry::Isolated(link.clone()),
        };
        let all: Vec<&IfName> = std::iter::once(&self.bridge).chain(&self.links).collect();
        let ways = all.iter().flat_map(|from| {
            let others = all.iter().filter(move |to| *to != from);
            others.map(move |to| Entry::Between((*from).clone(), (*to).clone()))
        });
        all.iter().map(|link| one(link)).chain(ways).collect()
    }
}

/// Frames entering a bridge from `host_ifname` must carry the source address `mac`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoofCheck {
    /// The host's end of the container's interface, a bridge port.
    pub host_ifname: IfName,
    /// The container's address. Removal does not need it and may leave it out.
    pub mac: Option<Mac>,
    /// The attachment.
    pub endpoint: Endpoint,
    /// The directory for our records, as for [`Masquerade`].
    pub claims: PathBuf,
}

impl Masquerade {
    /// Returns what the network wants of our own backend.
    pub(crate) fn demand(&self) -> Demand<'_> {
        Demand {
            network: &self.network,
            claims: Claims(&self.claims),
            entries: self.subnets.iter().copied().map(Entry::Subnet).collect(),
        }
    }
}

impl fmt::Display for Fragment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masquerade(masquerade) => masquerade.fmt(out),
            Self::Isolation(isolation) => isolation.fmt(out),
            Self::SpoofCheck(check) => check.fmt(out),
            Self::Publish(publish) => publish.fmt(out),
            Self::Hairpin(hairpin) => hairpin.fmt(out),
            Self::Loopback(loopback) => loopback.fmt(out),
            Self::Localnet(localnet) => localnet.fmt(out),
            Self::Guard(guard) => guard.fmt(out),
            Self::SourceAddress(source) => source.fmt(out),
            Self::Admission(admission) => admission.fmt(out),
        }
    }
}

impl fmt::Display for Masquerade {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_address = self.backend.is_per_attachment() && self.endpoint.is_some();
        let sources = if per_address { &self.addresses } else { &self.subnets };
        out.write_str("masquerade")?;
        for source in sources {
            write!(out, " {source}")?;
        }
        write!(out, " of {} by {}", self.network, self.backend)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.internal { "everything" } else { "other networks" };
        write!(out, "isolate {}", self.bridge)?;
        for link in &self.links {
            write!(out, " and {link}")?;
        }
        write!(out, " of {} from {from}", self.network)?;
        if self.backend == Backend::Iptables { write!(out, " by {}", self.backend) } else { Ok(()) }
    }
}

impl fmt::Display for SpoofCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "spoof check {}", self.host_ifname)?;
        match self.mac {
            Some(mac) => write!(out, " only from {mac}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_print_as_a_line_of_a_plan() {
        let endpoint = Endpoint {
            network: "n1".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let masquerade = |backend, endpoint| {
            let addresses = ["10.1.0.5/16".parse().unwrap(), "fd00::5/64".parse().unwrap()];
            Fragment::Masquerade(Masquerade {
                network: "n1".parse().unwrap(),
                subnets: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
                endpoint,
                addresses: addresses.to_vec(),
                backend,
                claims: "/run/weft/masquerade".into(),
            })
        };
        let spoof = Fragment::SpoofCheck(SpoofCheck {
            host_ifname: "veth1".parse().unwrap(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            endpoint: endpoint.clone(),
            claims: "/run/weft/masquerade".into(),
        });
        let isolation = |internal, backend| {
            Fragment::Isolation(Isolation {
                network: "n1".parse().unwrap(),
                bridge: "br0".parse().unwrap(),
                links: Vec::new(),
                internal,
                backend,
                claims: "/run/weft/masquerade".into(),
            })
        };
        let printed = [
            masquerade(Backend::Weft, Some(endpoint.clone())).to_string(),
            masquerade(Backend::Iptables, Some(endpoint)).to_string(),
            masquerade(Backend::Iptables, None).to_string(),
            isolation(false, Backend::Weft).to_string(),
            isolation(true, Backend::Iptables).to_string(),
            spoof.to_string(),
        ];
        assert_eq!(
            printed,
            [
                "masquerade 10.1.0.0/16 fd00::/64 of n1 by weft",
                "masquerade 10.1.0.5/16 fd00::5/64 of n1 by iptables",
                "masquerade 10.1.0.0/16 fd00::/64 of n1 by iptables",
                "isolate br0 of n1 from other networks",
                "isolate br0 of n1 from everything by iptables",
                "spoof check veth1 only from 02:00:00:00:00:01",
            ]
        );
    }
}
