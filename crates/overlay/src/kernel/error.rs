//! Why a network cannot be had.

use ipnetwork::IpNetwork;
use weft_firewall::FirewallError;
use weft_model::NetworkName;
use weft_netns::NetnsError;
use weft_plan::{ApplyError, Cause};
use weft_state::StateError;

/// Why a network cannot be had on this host.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The host reaches something else under the network's addresses.
    #[error("subnet {subnet} overlaps {route} of this host, by {dev}")]
    Overlap {
        /// The network's subnet.
        subnet: IpNetwork,
        /// The destination of the host's route.
        route: IpNetwork,
        /// The link of that route.
        dev: String,
    },
    /// A device cannot be made.
    #[error(transparent)]
    Device(#[from] ApplyError),
    /// The kernel does not answer, or a link is gone.
    #[error(transparent)]
    Kernel(#[from] Cause),
    /// The firewall refuses, so there may be no device.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The network's own namespace cannot be had.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// This host has lost a block that containers have addresses of.
    #[error(
        "network {network}: {block} is not this host's any more, and stays on its bridge because {count} containers have addresses of it"
    )]
    InUse {
        /// The network.
        network: NetworkName,
        /// The block.
        block: IpNetwork,
        /// How many.
        count: usize,
    },
    /// What an ADD reads cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// Some of the ways to peers were refused.
    #[error("{what}: {cause}{}", if *more == 0 { String::new() } else { format!(", and {more} more") })]
    Refused {
        /// The first that was.
        what: String,
        /// Why.
        cause: weft_netlink::Error,
        /// How many others.
        more: usize,
    },
}

impl KernelError {
    /// Returns what to do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Overlap { .. } => Some("give the network another subnet, or take that route away".into()),
            Self::Device(error) => error.cause.hint(),
            Self::Kernel(cause) => cause.hint(),
            Self::Firewall(error) => error.hint(),
            Self::Refused { what, cause, .. } if cause.is_exists() => {
                let dst = what.split(' ').nth(1).unwrap_or_default();
                Some(format!("ip route show {dst} tells who else leads there"))
            }
            Self::InUse { network, .. } => {
                Some(format!("weft network disconnect {network} and connect again gives them others"))
            }
            Self::Netns(_) | Self::State(_) | Self::Refused { .. } => None,
        }
    }
}

impl From<weft_netlink::Error> for KernelError {
    fn from(error: weft_netlink::Error) -> Self {
        Self::Kernel(error.into())
    }
}
