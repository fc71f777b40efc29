//! What a network may claim in `table inet weft`, each thing with one element.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_nft::{Element, Key, Set, Transaction};

use crate::{admission, layout};

const SUBNETS: &str = "subnets";
const ISOLATED: &str = "isolated";
const INTERNAL: &str = "internal";
const ADMITTED: &str = "admitted";
/// The kinds of entries that masquerading claims.
pub(crate) const MASQUERADING: [&str; 1] = [SUBNETS];
/// The kinds of entries that isolation claims.
pub(crate) const ISOLATION: [&str; 2] = [ISOLATED, INTERNAL];
pub(crate) const HAIRPIN: [&str; 0] = [];
pub(crate) const GUARD: [&str; 0] = [];
pub(crate) const SOURCE: [&str; 0] = [];
/// Every kind of entry.
pub(crate) const ALL: [&str; 4] = [SUBNETS, ISOLATED, INTERNAL, ADMITTED];
/// The kinds of entries that an attachment claims with an admission.
pub(crate) const ADMISSION: [&str; 2] = [ADMITTED, ISOLATED];

/// Something that one element of a set says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// Packets from this subnet leave with the host's address.
    Subnet(IpNetwork),
    /// Packets between this interface and others that say the same are dropped.
    Isolated(IfName),
    /// Packets between this interface and any other are dropped.
    Internal(IfName),
    /// Forwarded packets from this address, and answers to it, pass other filters.
    Admitted(IpAddr),
}

/// The rules and the set that an element needs. They are made together with the first such element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Masquerading for subnets of this family and length.
    Length {
        /// Whether it is IPv4.
        v4: bool,
        /// The prefix length.
        prefix: u8,
    },
    /// Isolation.
    Isolation,
    /// What lets packets pass other filters.
    Passage,
}

impl Entry {
    /// Returns the kind, which is a directory of claims.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Subnet(_) => SUBNETS,
            Self::Isolated(_) => ISOLATED,
            Self::Internal(_) => INTERNAL,
            Self::Admitted(_) => ADMITTED,
        }
    }

    /// Returns the entry's name among those of its kind, as a file can have it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Subnet(subnet) => format!("{}_{}", subnet.network(), subnet.prefix()),
            Self::Isolated(ifname) | Self::Internal(ifname) => ifname.to_string(),
            Self::Admitted(addr) => addr.to_string(),
        }
    }

    /// Returns the entry of this kind and name, if that is one.
    pub(crate) fn parse(kind: &str, name: &str) -> Option<Self> {
        match kind {
            SUBNETS => name.replace('_', "/").parse().ok().map(Self::Subnet),
            ISOLATED => name.parse().ok().map(Self::Isolated),
            INTERNAL => name.parse().ok().map(Self::Internal),
            ADMITTED => name.parse().ok().map(Self::Admitted),
            _ => None,
        }
    }

    /// Returns the set that its element is in.
    pub(crate) fn set(&self) -> Set {
        match self {
            Self::Subnet(subnet) => layout::subnet_set(*subnet),
            Self::Isolated(_) => layout::isolated(),
            Self::Internal(_) => layout::internal(),
            Self::Admitted(addr) => admission::layout::admitted(*addr),
        }
    }

    /// Returns its element's key.
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Subnet(subnet) => layout::subnet_key(*subnet),
            Self::Isolated(ifname) | Self::Internal(ifname) => layout::interface_key(ifname),
            Self::Admitted(addr) => admission::layout::key(*addr),
        }
    }

    /// Returns its element.
    pub(crate) fn element(&self) -> Element {
        Element::new(self.key())
    }

    /// Returns what has to be there for its element.
    pub(crate) fn part(&self) -> Part {
        match self {
            Self::Subnet(subnet) => Part::Length { v4: subnet.is_ipv4(), prefix: subnet.prefix() },
            Self::Isolated(_) | Self::Internal(_) => Part::Isolation,
            Self::Admitted(_) => Part::Passage,
        }
    }

    /// Adds what has to be there for its element. That must be new.
    pub(crate) fn create_part(&self, transaction: &mut Transaction) {
        match self {
            Self::Subnet(subnet) => layout::create_length(transaction, *subnet),
            Self::Isolated(_) | Self::Internal(_) => layout::create_isolation(transaction),
            Self::Admitted(_) => admission::layout::create(transaction),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subnet(subnet) => subnet.fmt(out),
            Self::Isolated(ifname) | Self::Internal(ifname) => ifname.fmt(out),
            Self::Admitted(addr) => addr.fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_known_by_its_kind_and_name() {
        let subnets = ["10.1.2.0/24", "fd00:1::/64"].map(|text| Entry::Subnet(text.parse().unwrap()));
        let bridge: IfName = "10.1.2.0_24".parse().unwrap();
        let [v4, v6] = &subnets;
        for entry in [v4, v6, &Entry::Isolated(bridge.clone()), &Entry::Internal(bridge)] {
            assert_eq!(Entry::parse(entry.kind(), &entry.name()).as_ref(), Some(entry));
        }
        assert_eq!(Entry::parse("subnets", "br0"), None);
        assert_eq!(Entry::parse("other", "br0"), None);
    }
}
