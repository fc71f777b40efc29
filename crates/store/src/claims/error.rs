//! Why something could not be claimed.

use std::net::IpAddr;

use weft_model::NetworkName;
use weft_overlay::blocks::Taken;
use weft_overlay::{ClusterId, HostId, Vni};

use crate::StoreError;

/// Something could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),

    /// Another cluster meets in the store.
    #[error("it is the store of cluster {there}, and this host is of {ours}")]
    OtherCluster {
        /// The one that is there.
        there: ClusterId,
        /// This host's.
        ours: ClusterId,
    },

    /// No host has joined yet.
    #[error("there is no cluster in {0}")]
    NoCluster(String),

    /// A record that has to be read makes no sense.
    #[error("the record {key} cannot be used: {why}")]
    Bad {
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },

    /// Another host has the underlay address, and is there.
    #[error(
        "underlay address {address} belongs to host {owner_name} ({owner}), which is alive; this host is {host}"
    )]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: HostId,
        /// Its name.
        owner_name: String,
        /// Who wants it.
        host: HostId,
    },

    /// Another host has the underlay address, and is silent.
    #[error(
        "underlay address {address} belongs to host {owner_name} ({owner}), which is not alive; this host is {host}"
    )]
    AddressOfSilent {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: HostId,
        /// Its name.
        owner_name: String,
        /// Who wants it.
        host: HostId,
    },

    /// Another host has taken this one's underlay address.
    #[error("host {host} has been replaced by {by}, which took over its underlay address")]
    Superseded {
        /// This host.
        host: HostId,
        /// The other.
        by: HostId,
    },

    /// The host left, or was forgotten.
    #[error("host {host} is out of the cluster: {reason}")]
    Left {
        /// The host.
        host: HostId,
        /// Why.
        reason: String,
    },

    /// A host that should be in the cluster is not.
    #[error("host {0} is not in the cluster")]
    NotJoined(HostId),

    /// A host that should be gone is there.
    #[error("host {0} is alive")]
    Alive(HostId),

    /// There is a network of this name.
    #[error("network {0} exists already")]
    NetworkExists(NetworkName),

    /// There is no network of this name.
    #[error("network {0} does not exist")]
    NoNetwork(NetworkName),

    /// Somebody is about to remove the network.
    #[error("network {network} is being removed by host {host}")]
    BeingRemoved {
        /// The network.
        network: NetworkName,
        /// Who removes it.
        host: HostId,
    },

    /// A host has not let go of a network that is being removed.
    #[error("host {host} still takes part in network {network}")]
    StillMember {
        /// The network.
        network: NetworkName,
        /// The host.
        host: HostId,
    },

    /// A host that would have to lend an address is not there.
    #[error("{address} is host {owner_name}'s ({owner}) to lend, which is not heard of")]
    Silent {
        /// The address.
        address: IpAddr,
        /// Whose block it is in.
        owner: HostId,
        /// Its name.
        owner_name: String,
    },

    /// Another network has the VNI.
    #[error("VNI {0} belongs to another network")]
    VniTaken(Vni),

    /// All VNIs of the cluster's range are taken.
    #[error("all VNIs from {0} to {1} are taken")]
    NoVni(Vni, Vni),

    /// No subnet was asked for, and the cluster has none to give.
    #[error("no subnet was given and the cluster's pools have none free")]
    NoSubnet,

    /// An address or a subnet may not be had.
    #[error(transparent)]
    Taken(#[from] Taken),

    /// All blocks are taken.
    #[error(
        "network {network} has no free block of {family}: each of its subnets is shared out among hosts, or in quarantine"
    )]
    Exhausted {
        /// The network.
        network: NetworkName,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },

    /// Others got in the way each time.
    #[error("others changed {0} again and again")]
    Busy(String),
}

impl ClaimError {
    /// Returns whether the same may work later without anybody doing something about it.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Store(error) => error.is_temporary(),
            Self::Busy(_) => true,
            _ => false,
        }
    }

    /// Returns what to do next, if it is known.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => error.hint(),
            Self::NoCluster(_) | Self::NotJoined(_) => Some("weft overlay join on this host"),
            Self::AddressInUse { .. } => Some("give this host an address of its own, or stop the other"),
            Self::AddressOfSilent { .. } => {
                Some("weft overlay join --takeover, if this host replaces that one")
            }
            Self::Superseded { .. } | Self::Left { .. } => {
                Some("weft overlay leave -f, then weft overlay join as a new host")
            }
            Self::OtherCluster { .. } => {
                Some("put this cluster's own store there, or weft overlay leave -f and join that one")
            }
            Self::Taken(Taken::Overlap { .. }) => {
                Some("leave --subnet out to get a free one; at join, give another --underlay-ip")
            }
            Self::Taken(_) => Some("weft network inspect shows who has which addresses"),
            Self::Alive(_) => Some("weft overlay leave on that host"),
            Self::BeingRemoved { .. } => Some("weft network ls tells whether it still exists"),
            Self::Silent { .. } => {
                Some("choose another address, or weft overlay forget HOST if it will not come back")
            }
            Self::VniTaken(_) => Some("give no VNI, and one is chosen"),
            Self::NoSubnet => Some("weft network create --subnet CIDR"),
            Self::Exhausted { .. } => Some(
                "weft network inspect shows who has which block; weft overlay forget HOST frees those of a dead host",
            ),
            _ => None,
        }
    }
}
