//! Who gives out which addresses.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::ids::{HostId, NetworkId};

/// Addresses of a network that one host gives out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Of which network.
    pub network: NetworkId,
    /// Which addresses.
    pub cidr: IpNetwork,
    /// Whose it is, or was.
    pub host: HostId,
    /// When it was claimed, in milliseconds since 1970, never less than any claim the claimer knew of.
    pub epoch: u64,
    /// What may be done with it.
    pub state: BlockState,
}

/// What may be done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum BlockState {
    /// Its host gives out addresses of it, and every peer has a route.
    Active,
    /// Nobody may until the quarantine is over: somebody may still send to what was there.
    Quarantine {
        /// Since when, in milliseconds since 1970.
        since: u64,
    },
    /// Nobody ever: an administrator keeps it out.
    Reserved,
}

/// A single address that a host has out of another's block, or of none: somebody asked for it.
///
/// In another's block that one has to agree: it gives addresses out without asking anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borrow {
    /// Of which network.
    pub network: NetworkId,
    /// Which address.
    pub address: IpAddr,
    /// Who has it.
    pub host: HostId,
    /// For which name or container, for people.
    pub holder: String,
    /// When it was claimed, in milliseconds since 1970.
    pub epoch: u64,
    /// Whether the host has it yet.
    #[serde(default)]
    pub state: BorrowState,
}

/// Whether a host has an address that it wants to have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum BorrowState {
    /// It has, and every peer has a route.
    #[default]
    Active,
    /// The host whose block it is in has not said anything yet.
    Asked,
    /// That one does not lend it.
    Refused {
        /// Why not.
        why: String,
    },
}

impl Borrow {
    /// Returns whether the host has the address.
    pub fn is_active(&self) -> bool {
        self.state == BorrowState::Active
    }

    /// Returns whether somebody else has the address, or would like to, out of these blocks of a host.
    pub fn is_out_of(&self, host: HostId, blocks: &[IpNetwork]) -> bool {
        let refused = matches!(self.state, BorrowState::Refused { .. });
        self.host != host && !refused && blocks.iter().any(|block| block.contains(self.address))
    }
}
