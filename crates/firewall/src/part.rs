//! Pieces of `table inet weft` that are there when something needs them.

use ipnetwork::IpNetwork;
use weft_nft::{Error, Set, Socket, Transaction};

use crate::admission;
use crate::entry::Family;
use crate::layout::masquerade::Kind;
use crate::layout::published::{self, Lookup};
use crate::layout::{ANY, INET, forward, from, loopback, masquerade};

/// Rules and sets that are made together, with the first element that needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// What is known about subnets of one family and length.
    Length(Kind, IpNetwork),
    /// What passes from one interface to another.
    Forward,
    /// What passes to and from internal networks.
    Internal,
    /// What passes from a network to itself.
    NoIcc,
    /// Nobody else reaches the host's loopback addresses.
    LocalOnly,
    /// Published ports.
    Published,
    /// Containers of one family to which every published connection gets the host's address.
    MasqueradeAll(Family),
    /// Published ranges of ports of one family.
    Ranges(Family),
    /// Ports that are not for everybody.
    From,
    /// Senders of one family and length who may come in to such ports.
    FromLength(IpNetwork),
    /// Answers to the host's `::1`.
    Loopback,
    /// What lets packets pass other filters.
    Passage,
}

impl Part {
    /// Returns the part for subnets of this one's family and length, the same for all of them.
    pub(crate) fn length(kind: Kind, subnet: IpNetwork) -> Self {
        Self::Length(kind, any_of_length(subnet))
    }

    /// Returns the part for senders of this one's family and length, the same for all of them.
    pub(crate) fn from_length(from: IpNetwork) -> Self {
        Self::FromLength(any_of_length(from))
    }

    /// Returns the part without which this one means nothing.
    pub(crate) const fn needs(self) -> Option<Self> {
        match self {
            Self::Internal | Self::NoIcc => Some(Self::Forward),
            Self::Published => Some(Self::LocalOnly),
            Self::Ranges(_) | Self::MasqueradeAll(_) => Some(Self::Published),
            Self::FromLength(_) => Some(Self::From),
            _ => None,
        }
    }

    /// Adds the part. That must be new.
    pub(crate) fn create(self, transaction: &mut Transaction) {
        match self {
            Self::Length(kind, subnet) => masquerade::create_length(transaction, kind, subnet),
            Self::Forward => forward::create(transaction),
            Self::Internal => forward::create_internal(transaction),
            Self::NoIcc => forward::create_no_icc(transaction),
            Self::LocalOnly => published::create_local_only(transaction),
            Self::Published => published::create(transaction),
            Self::MasqueradeAll(family) => masquerade::create_masquerade_all(transaction, family.any()),
            Self::Ranges(family) => published::create_ranges(transaction, family.any()),
            Self::From => from::create(transaction),
            Self::FromLength(from) => from::create_length(transaction, from),
            Self::Loopback => loopback::create(transaction),
            Self::Passage => admission::layout::create(transaction),
        }
    }

    /// Returns whether the kernel has the part: whether it would refuse to make it.
    pub(crate) fn is_there(self, socket: &mut Socket) -> Result<bool, Error> {
        let set: Set = match self {
            Self::Length(kind, subnet) => masquerade::subnet_set(kind, subnet),
            Self::Forward => return socket.has_chain(INET, forward::FORWARD),
            Self::Internal => forward::internal(),
            Self::NoIcc => forward::no_icc(),
            Self::LocalOnly => return socket.has_chain(INET, published::LOCAL_ONLY),
            Self::Published => return socket.has_chain(INET, published::PREROUTING),
            Self::MasqueradeAll(family) => masquerade::masquerade_all(family.any()),
            Self::Ranges(family) => published::ports(Lookup::Target, family.any(), true),
            Self::From => published::ports(Lookup::Restricted, ANY[0], false),
            Self::FromLength(from) => from::length_set(from),
            Self::Loopback => return socket.has_chain(INET, loopback::ANSWERS),
            Self::Passage => return socket.has_chain(INET, admission::layout::BEFORE),
        };
        socket.has_set(&set)
    }

    /// Returns the chains that have a fixed number of rules.
    pub(crate) fn chains(self) -> &'static [(&'static str, usize)] {
        match self {
            Self::Length(..) | Self::MasqueradeAll(_) => &masquerade::CHAINS,
            Self::Forward => &forward::CHAINS,
            Self::Internal => &forward::INTERNAL_CHAINS,
            Self::NoIcc => &forward::NO_ICC_CHAINS,
            Self::LocalOnly => &published::LOCAL_ONLY_CHAINS,
            Self::Published => &published::CHAINS,
            Self::Ranges(family) => &published::RANGE_CHAINS[family as usize],
            Self::From | Self::FromLength(_) => &from::CHAINS,
            Self::Loopback => &loopback::CHAINS,
            Self::Passage => &admission::layout::CHAINS,
        }
    }

    /// Returns the chains with a rule for each length, and that rule's comment.
    pub(crate) fn length_rules(self) -> Option<(Vec<&'static str>, String)> {
        match self {
            Self::Length(kind, subnet) => {
                Some((masquerade::length_chains(kind).to_vec(), masquerade::length_comment(subnet)))
            }
            Self::FromLength(from) => {
                Some((from::length_chains(from.is_ipv4()).to_vec(), masquerade::length_comment(from)))
            }
            Self::MasqueradeAll(_) => Some((vec![masquerade::HAIRPIN], masquerade::MASQUERADE_ALL.into())),
            _ => None,
        }
    }
}

fn any_of_length(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(ANY[usize::from(network.is_ipv6())], network.prefix()).unwrap_or(network)
}
