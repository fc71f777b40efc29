//! Ports of the host that lead to a container.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use weft_model::port::{Protocol, Publication, is_same_family};
use weft_model::{Endpoint, GatewayMode, Gateways, IfName, NetworkName};
use weft_state::ports::{Asked, Books, Choice, Chosen, Mark, Owner};

use crate::claim::Claims;
use crate::entry::{Entry, Family};
use crate::weft::Demand;
use crate::{Backend, FirewallError};

/// Connections to ports of the host go to a container, and, in a routed network, connections to these ports of the
/// container are let in.
///
/// It speaks for one attachment as a whole: ensuring it brings the attachment from whatever it published to exactly this,
/// in one transaction, and what stays the same is not touched. Removing it needs the endpoint alone; the
/// books tell the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The attachment.
    pub endpoint: Endpoint,
    /// What is published. May be empty when removing.
    pub publications: Vec<Publication>,
    /// What is published besides, at ports of our choice. What was chosen stays as long as the same is asked for.
    pub choices: Vec<Choice>,
    /// Which of the publications were chosen some time before, where they are written as they were.
    pub chosen: Vec<Chosen>,
    /// Which of the publications are not translated and would have done with other ports of the host: for the books.
    pub open: Vec<Asked>,
    /// What a choice passes over.
    pub occupied: Vec<Occupied>,
    /// The container's addresses, where what is in no books is taken back. May be empty then, too.
    pub addresses: Vec<IpAddr>,
    /// The container's subnets: connections from there get the host's address, so that the
    /// answers come back this way.
    pub subnets: Vec<IpNetwork>,
    /// Whether they do.
    pub snat: bool,
    /// Whether all connections get the host's address.
    pub masquerade_all: bool,
    /// The network's gateway modes. A family that is routed is not translated: host address and ports mean nothing.
    pub gateways: Gateways,
    /// Who carries the rules.
    pub backend: Backend,
    /// Further matches, in the language of iptables or nft. Our own backend has none.
    pub conditions: Conditions,
    /// How iptables marks what needs the host's address.
    pub mark: Mark,
    /// The books of published ports, `/run/weft/ports`.
    pub ports: PathBuf,
    /// The directory of lock files, `/run/weft/locks`.
    pub locks: PathBuf,
    /// The directory for what the network needs, as for [`crate::Masquerade`].
    pub claims: PathBuf,
}

/// A port at which a process of the host waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// The protocol.
    pub protocol: Protocol,
    /// The address; the unspecified one of a family for all of the host's.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// Further matches of one attachment's rules, a word each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// For IPv4.
    pub v4: Vec<String>,
    /// For IPv6.
    pub v6: Vec<String>,
}

impl Publish {
    /// Returns what takes back everything an attachment publishes.
    pub fn nothing(
        endpoint: Endpoint,
        backend: Backend,
        ports: PathBuf,
        locks: PathBuf,
        claims: PathBuf,
    ) -> Self {
        Self {
            endpoint,
            publications: Vec::new(),
            choices: Vec::new(),
            open: Vec::new(),
            chosen: Vec::new(),
            occupied: Vec::new(),
            addresses: Vec::new(),
            subnets: Vec::new(),
            snat: false,
            masquerade_all: false,
            gateways: Gateways::default(),
            backend,
            conditions: Conditions::default(),
            mark: Mark::default(),
            ports,
            locks,
            claims,
        }
    }

    /// Returns what publishes for an attachment what it published before, down to what was chosen for it; the
    /// books are those of `self`.
    pub(crate) fn again(&self, before: Owner) -> Self {
        let nothing = Self::nothing(
            before.endpoint,
            Backend::named(&before.backend),
            self.ports.clone(),
            self.locks.clone(),
            self.claims.clone(),
        );
        Self {
            publications: [before.publications, before.elsewhere].concat(),
            chosen: before.chosen,
            open: before.open,
            subnets: before.subnets,
            snat: before.snat,
            masquerade_all: before.masquerade_all,
            gateways: before.gateways,
            conditions: Conditions { v4: before.conditions_v4, v6: before.conditions_v6 },
            mark: before.mark,
            ..nothing
        }
    }

    /// Tells whether no process of the host waits at a port.
    pub(crate) fn is_free(&self, protocol: Protocol, host: IpAddr, port: u16) -> bool {
        let in_the_way = |other: &Occupied| {
            (other.protocol, other.port) == (protocol, port)
                && other.address.is_ipv4() == host.is_ipv4()
                && (other.address == host || other.address.is_unspecified() || host.is_unspecified())
        };
        !self.occupied.iter().any(in_the_way)
    }

    /// Returns the books of published ports.
    pub(crate) fn books(&self) -> Books {
        Books::at(&self.ports, &self.locks)
    }

    /// Returns what the books are to say, but for what is yet to be chosen.
    pub(crate) fn owner(&self) -> Result<Owner, FirewallError> {
        let owner = Owner::new(self.endpoint.clone(), &self.backend.to_string())?;
        Ok(Owner {
            publications: self.publications.clone(),
            open: self.open.clone(),
            chosen: self.chosen.clone(),
            subnets: self.subnets.clone(),
            snat: self.snat,
            masquerade_all: self.masquerade_all,
            gateways: self.gateways,
            conditions_v4: self.conditions.v4.clone(),
            conditions_v6: self.conditions.v6.clone(),
            mark: self.mark.clone(),
            ..owner
        })
    }
}

/// Connections from a network's subnets to ports that it publishes itself get the host's address.
///
/// [`Publish`] ensures it along with the ports. It stays for the network: removing it drops what
/// the network claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hairpin {
    /// The network.
    pub network: NetworkName,
    /// Its subnets. Removal does not need them.
    pub subnets: Vec<IpNetwork>,
    /// Who carries the rules.
    pub backend: Backend,
    /// The directory for our ownership records.
    pub claims: PathBuf,
}

/// What reaches a network through its bridge from outside, and whether its containers reach each other.
///
/// New connections that were not translated are let in from other bridges of ours, and from elsewhere only as the gateway
/// mode says. It belongs to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The network.
    pub network: NetworkName,
    /// The interface that routes for the network.
    pub bridge: IfName,
    /// Its gateway modes.
    pub gateways: Gateways,
    /// Whether containers reach each other through the host's IP layer: bridged frames that
    /// `bridge-nf-call-iptables` hands to it. If not, ports of the group [`crate::APART`] are kept from each other, too.
    pub icc: bool,
    /// Who carries the rules.
    pub backend: Backend,
    /// The directory for our ownership records.
    pub claims: PathBuf,
}

/// Traffic that leaves a network and is masqueraded gets these addresses of the host's instead of those of the interface it
/// leaves by. It belongs to the network, beside [`crate::Masquerade`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAddress {
    /// The network.
    pub network: NetworkName,
    /// The network's subnets. Removal does not need them.
    pub subnets: Vec<IpNetwork>,
    /// At most one address of each family.
    pub addresses: Vec<IpAddr>,
    /// Who carries the rules.
    pub backend: Backend,
    /// The directory for our ownership records.
    pub claims: PathBuf,
}

impl Hairpin {
    /// Returns what the network wants of our own backend.
    pub(crate) fn demand(&self) -> Demand<'_> {
        let entries = self.subnets.iter().copied().map(Entry::Hairpin).collect();
        Demand { network: &self.network, claims: Claims(&self.claims), entries }
    }
}

impl Guard {
    /// Returns what the network wants of our own backend.
    pub(crate) fn demand(&self) -> Demand<'_> {
        let mut entries = vec![Entry::Inside(self.bridge.clone())];
        for family in Family::BOTH {
            let mode = self.gateways.of(family.any());
            if matches!(mode, GatewayMode::Nat | GatewayMode::Routed) {
                entries.push(Entry::Guarded(family, self.bridge.clone()));
            }
            if mode == GatewayMode::Routed {
                entries.push(Entry::Routed(family, self.bridge.clone()));
            }
        }
        if !self.icc {
            entries.push(Entry::NoIcc(self.bridge.clone()));
        }
        Demand { network: &self.network, claims: Claims(&self.claims), entries }
    }

    /// Tells whether ports of the bridge are kept apart by a rule. With iptables alone they have to be isolated.
    pub(crate) fn keeps_ports_apart(&self) -> bool {
        !self.icc && self.backend != Backend::Iptables
    }
}

impl SourceAddress {
    /// Returns what the network wants of our own backend.
    pub(crate) fn demand(&self) -> Demand<'_> {
        let entry = |subnet: &IpNetwork| {
            let address = self.addresses.iter().find(|address| is_same_family(subnet.ip(), **address))?;
            Some(Entry::Source(*subnet, *address))
        };
        let entries = self.subnets.iter().filter_map(entry).collect();
        Demand { network: &self.network, claims: Claims(&self.claims), entries }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "publish")?;
        for (index, publication) in self.publications.iter().enumerate() {
            write!(out, "{} {publication}", if index == 0 { "" } else { "," })?;
        }
        for choice in &self.choices {
            write!(out, "{}", if self.publications.is_empty() { "" } else { "," })?;
            match choice.among {
                Some(among) => write!(out, " {} one of {among}", choice.protocol)?,
                None => write!(out, " {} any free port", choice.protocol)?,
            }
            for (index, binding) in choice.bindings.iter().enumerate() {
                let and = if index == 0 { "" } else { " and" };
                write!(out, "{and} on {} -> {} port {}", binding.host, binding.target, choice.target_port)?;
            }
        }
        write!(out, " for {} by {}", self.endpoint, self.backend)?;
        if self.masquerade_all {
            out.write_str(" masquerading all")?;
        } else if !self.snat {
            out.write_str(" without hairpin")?;
        }
        if self.gateways == Gateways::default() { Ok(()) } else { write!(out, " ({})", self.gateways) }
    }
}

impl fmt::Display for Hairpin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("hairpin")?;
        self.subnets.iter().try_for_each(|subnet| write!(out, " {subnet}"))?;
        write!(out, " of {} by {}", self.network, self.backend)
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "guard {} of {}: {}", self.bridge, self.network, self.gateways)?;
        if !self.icc {
            out.write_str(", containers apart")?;
        }
        if self.backend == Backend::Iptables { write!(out, " by {}", self.backend) } else { Ok(()) }
    }
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("source")?;
        self.subnets.iter().try_for_each(|subnet| write!(out, " {subnet}"))?;
        out.write_str(" as")?;
        self.addresses.iter().try_for_each(|address| write!(out, " {address}"))?;
        write!(out, " of {} by {}", self.network, self.backend)
    }
}
