//! What a network may claim in `table inet weft`, each thing with one element.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_nft::{Element, Key, Set};

use crate::admission;
use crate::layout::masquerade::{self, Kind};
use crate::layout::{ANY, forward, loopback, published};
use crate::part::Part;

const SUBNETS: &str = "subnets";
const HAIRPINS: &str = "hairpin";
const SOURCES: &str = "source";
const ISOLATED: &str = "isolated";
const INTERNAL: &str = "internal";
const BETWEEN: &str = "between";
const NO_ICC: &str = "no_icc";
const INSIDES: &str = "inside";
const GUARDED: [&str; 2] = ["guarded4", "guarded6"];
const ROUTED: [&str; 2] = ["routed4", "routed6"];
const ADMITTED: &str = "admitted";
const LOOPBACKS: &str = "loopback";
const PASSES: &str = "passing";
const LOCALNETS: [&str; 2] = ["localnet", "localnet_iptables"];
const OUTWARD: &str = "outward";
/// The kinds of entries that masquerading claims.
pub(crate) const MASQUERADING: [&str; 1] = [SUBNETS];
/// The kinds of entries that publishing claims for the network.
pub(crate) const HAIRPIN: [&str; 1] = [HAIRPINS];
/// The kinds of entries that answers to `::1` claim.
pub(crate) const LOOPBACK: [&str; 1] = [LOOPBACKS];
/// The kinds of entries that links which route loopback addresses claim: in our own table, whoever carries the network's
/// other rules, or in chains of iptables.
pub(crate) const LOCALNET: [&str; 2] = LOCALNETS;
/// The first of them, which is in our own table.
pub(crate) const OWN_LOCALNET: &str = LOCALNETS[0];
/// The second, which is not.
pub(crate) const IPTABLES_LOCALNET: [&str; 1] = [LOCALNETS[1]];
/// The kinds of entries that a source address claims.
pub(crate) const SOURCE: [&str; 1] = [SOURCES];
/// The kinds of entries that isolation claims.
pub(crate) const ISOLATION: [&str; 3] = [ISOLATED, INTERNAL, BETWEEN];
/// The kinds of entries that a guard claims.
pub(crate) const GUARD: [&str; 8] =
    [INSIDES, NO_ICC, GUARDED[0], GUARDED[1], ROUTED[0], ROUTED[1], PASSES, OUTWARD];
/// The kind of entry that keeps containers of a network apart.
pub(crate) const APART: [&str; 1] = [NO_ICC];
/// The kinds of entries that an attachment claims with an admission.
pub(crate) const ADMISSION: [&str; 4] = [ADMITTED, ISOLATED, NO_ICC, OUTWARD];
/// The kinds of entries that say which interfaces are networks of ours.
pub(crate) const INSIDE: [&str; 1] = [INSIDES];
/// The kinds of entries that need other filters to let something pass.
pub(crate) const PASSAGE: [&str; 2] = [ADMITTED, PASSES];
/// Every kind of entry that our own table can have.
pub(crate) const ALL: [&str; 17] = [
    SUBNETS,
    HAIRPINS,
    SOURCES,
    ISOLATED,
    INTERNAL,
    BETWEEN,
    NO_ICC,
    INSIDES,
    GUARDED[0],
    GUARDED[1],
    ROUTED[0],
    ROUTED[1],
    ADMITTED,
    PASSES,
    OUTWARD,
    LOOPBACKS,
    OWN_LOCALNET,
];

/// Something that one element of a set says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// Packets from this subnet leave with the host's address.
    Subnet(IpNetwork),
    /// Packets within this subnet to ports it publishes get the host's address.
    Hairpin(IpNetwork),
    /// Packets from this subnet leave with this address.
    Source(IpNetwork, IpAddr),
    /// Packets between this interface and others that say the same are dropped.
    Isolated(IfName),
    /// Packets between this interface and any other are dropped.
    Internal(IfName),
    /// Packets from the first interface to the second stay within a network.
    Between(IfName, IfName),
    /// Packets from this bridge to itself are dropped.
    NoIcc(IfName),
    /// This interface is a network of ours.
    Inside(IfName),
    /// Packets of this family enter by this interface only if they are expected.
    Guarded(Family, IfName),
    /// And those of ICMP are.
    Routed(Family, IfName),
    /// Answers to the host's `::1` come in by this interface.
    Loopback(IfName),
    /// This interface routes loopback addresses.
    Localnet(IfName),
    /// The same, and iptables keeps others from the host's.
    LocalnetByIptables(IfName),
    /// Forwarded packets from this address, and answers to it, pass other filters.
    Admitted(IpAddr),
    /// Forwarded packets that come in or leave by this interface pass other filters.
    Passing(IfName),
    /// This bridge is nobody's network, but the way outside.
    Outward(IfName),
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address.
    pub(crate) const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Returns an address of the family.
    pub(crate) const fn any(self) -> IpAddr {
        ANY[self as usize]
    }
}

impl Entry {
    /// Returns the kind, which is a directory of claims.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Subnet(_) => SUBNETS,
            Self::Hairpin(_) => HAIRPINS,
            Self::Source(..) => SOURCES,
            Self::Isolated(_) => ISOLATED,
            Self::Internal(_) => INTERNAL,
            Self::Between(..) => BETWEEN,
            Self::NoIcc(_) => NO_ICC,
            Self::Inside(_) => INSIDES,
            Self::Guarded(family, _) => GUARDED[*family as usize],
            Self::Routed(family, _) => ROUTED[*family as usize],
            Self::Admitted(_) => ADMITTED,
            Self::Loopback(_) => LOOPBACKS,
            Self::Localnet(_) => LOCALNETS[0],
            Self::LocalnetByIptables(_) => LOCALNETS[1],
            Self::Passing(_) => PASSES,
            Self::Outward(_) => OUTWARD,
        }
    }

    /// Returns the entry's name among those of its kind, as a file can have it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Subnet(subnet) | Self::Hairpin(subnet) => name_of(subnet),
            Self::Source(subnet, address) => format!("{},{address}", name_of(subnet)),
            Self::Isolated(ifname)
            | Self::Internal(ifname)
            | Self::NoIcc(ifname)
            | Self::Inside(ifname)
            | Self::Guarded(_, ifname)
            | Self::Routed(_, ifname)
            | Self::Loopback(ifname)
            | Self::Localnet(ifname)
            | Self::LocalnetByIptables(ifname)
            | Self::Passing(ifname)
            | Self::Outward(ifname) => ifname.to_string(),
            // No interface's name has a colon (dev_valid_name, net/core/dev.c).
            Self::Between(from, to) => format!("{from}:{to}"),
            Self::Admitted(addr) => addr.to_string(),
        }
    }

    /// Returns the entry of this kind and name, if that is one.
    pub(crate) fn parse(kind: &str, name: &str) -> Option<Self> {
        let subnet = |name: &str| name.replace('_', "/").parse::<IpNetwork>().ok();
        let of = |kinds: [&str; 2]| Family::BOTH.into_iter().find(|family| kinds[*family as usize] == kind);
        let ifname = || name.parse().ok();
        if let Some(family) = of(GUARDED) {
            return ifname().map(|ifname| Self::Guarded(family, ifname));
        }
        if let Some(family) = of(ROUTED) {
            return ifname().map(|ifname| Self::Routed(family, ifname));
        }
        if let Some(by_iptables) = LOCALNETS.iter().position(|known| *known == kind) {
            return ifname().map([Self::Localnet, Self::LocalnetByIptables][by_iptables]);
        }
        match kind {
            SUBNETS => subnet(name).map(Self::Subnet),
            HAIRPINS => subnet(name).map(Self::Hairpin),
            SOURCES => {
                let (name, address) = name.split_once(',')?;
                Some(Self::Source(subnet(name)?, address.parse().ok()?))
            }
            BETWEEN => {
                let (from, to) = name.split_once(':')?;
                Some(Self::Between(from.parse().ok()?, to.parse().ok()?))
            }
            ISOLATED => ifname().map(Self::Isolated),
            INTERNAL => ifname().map(Self::Internal),
            NO_ICC => ifname().map(Self::NoIcc),
            INSIDES => ifname().map(Self::Inside),
            LOOPBACKS => ifname().map(Self::Loopback),
            ADMITTED => name.parse().ok().map(Self::Admitted),
            PASSES => ifname().map(Self::Passing),
            OUTWARD => ifname().map(Self::Outward),
            _ => None,
        }
    }

    /// Returns the set that its element is in.
    pub(crate) fn set(&self) -> Set {
        match self {
            Self::Subnet(subnet) => masquerade::subnet_set(Kind::Masquerade, *subnet),
            Self::Hairpin(subnet) => masquerade::subnet_set(Kind::Hairpin, *subnet),
            Self::Source(subnet, _) => masquerade::subnet_set(Kind::Source, *subnet),
            Self::Isolated(_) => forward::isolated(),
            Self::Between(..) => forward::within(),
            Self::Internal(_) => forward::internal(),
            Self::NoIcc(_) => forward::no_icc(),
            Self::Inside(_) => forward::inside(),
            Self::Loopback(_) => loopback::links(),
            Self::Localnet(_) | Self::LocalnetByIptables(_) => published::localnet(),
            Self::Guarded(family, _) => forward::guarded(family.any()),
            Self::Routed(family, _) => forward::routed(family.any()),
            Self::Admitted(addr) => admission::layout::admitted(*addr),
            Self::Passing(_) => admission::layout::passing(),
            Self::Outward(_) => admission::layout::outward(),
        }
    }

    /// Returns its element.
    pub(crate) fn element(&self) -> Element {
        match self {
            Self::Source(subnet, address) => masquerade::source_element(*subnet, *address),
            Self::Subnet(subnet) | Self::Hairpin(subnet) => Element::new(masquerade::subnet_key(*subnet)),
            Self::Isolated(ifname) | Self::Internal(ifname) | Self::NoIcc(ifname) => {
                Element::new(forward::interface_twice(ifname))
            }
            Self::Between(from, to) => Element::new(forward::interface(from).ifname(to.as_str())),
            Self::Inside(ifname)
            | Self::Guarded(_, ifname)
            | Self::Routed(_, ifname)
            | Self::Loopback(ifname)
            | Self::Localnet(ifname)
            | Self::LocalnetByIptables(ifname)
            | Self::Passing(ifname)
            | Self::Outward(ifname) => Element::new(forward::interface(ifname)),
            Self::Admitted(addr) => Element::new(admission::layout::key(*addr)),
        }
    }

    /// Returns its element's key.
    pub(crate) fn key(&self) -> Key {
        self.element().key().clone()
    }

    /// Returns what has to be there for its element.
    pub(crate) fn part(&self) -> Part {
        match self {
            Self::Subnet(subnet) => Part::length(Kind::Masquerade, *subnet),
            Self::Hairpin(subnet) => Part::length(Kind::Hairpin, *subnet),
            Self::Source(subnet, _) => Part::length(Kind::Source, *subnet),
            Self::Isolated(_)
            | Self::Between(..)
            | Self::Inside(_)
            | Self::Guarded(..)
            | Self::Routed(..) => Part::Forward,
            Self::Internal(_) => Part::Internal,
            Self::NoIcc(_) => Part::NoIcc,
            Self::Loopback(_) => Part::Loopback,
            Self::Localnet(_) | Self::LocalnetByIptables(_) => Part::LocalOnly,
            Self::Admitted(_) | Self::Passing(_) | Self::Outward(_) => Part::Passage,
        }
    }
}

fn name_of(subnet: &IpNetwork) -> String {
    format!("{}_{}", subnet.network(), subnet.prefix())
}

impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subnet(subnet) | Self::Hairpin(subnet) => subnet.fmt(out),
            Self::Source(subnet, address) => write!(out, "{subnet} as {address}"),
            // Only a subnet cannot be the name of a file as it is.
            other => out.write_str(&other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_known_by_its_kind_and_name() {
        let [v4, v6] = ["10.1.2.0/24", "fd00:1::/64"].map(|text| text.parse::<IpNetwork>().unwrap());
        let bridge: IfName = "10.1.2.0_24".parse().unwrap();
        let entries = [
            Entry::Subnet(v4),
            Entry::Subnet(v6),
            Entry::Hairpin(v6),
            Entry::Source(v4, "192.0.2.1".parse().unwrap()),
            Entry::Source(v6, "2001:db8::1".parse().unwrap()),
            Entry::Isolated(bridge.clone()),
            Entry::Internal(bridge.clone()),
            Entry::Between(bridge.clone(), "ov1".parse().unwrap()),
            Entry::NoIcc(bridge.clone()),
            Entry::Inside(bridge.clone()),
            Entry::Loopback(bridge.clone()),
            Entry::Localnet(bridge.clone()),
            Entry::Guarded(Family::V4, bridge.clone()),
            Entry::Guarded(Family::V6, bridge.clone()),
            Entry::Routed(Family::V6, bridge.clone()),
            Entry::Passing(bridge.clone()),
            Entry::Outward(bridge),
            Entry::Admitted("10.1.2.3".parse().unwrap()),
        ];
        for entry in &entries {
            assert!(ALL.contains(&entry.kind()), "{entry:?}");
            assert_eq!(Entry::parse(entry.kind(), &entry.name()).as_ref(), Some(entry));
        }
        let by_iptables = Entry::LocalnetByIptables("br0".parse().unwrap());
        assert_eq!(Entry::parse(by_iptables.kind(), "br0"), Some(by_iptables));
        assert_eq!(Entry::parse("subnets", "br0"), None);
        assert_eq!(Entry::parse("other", "br0"), None);
    }
}
