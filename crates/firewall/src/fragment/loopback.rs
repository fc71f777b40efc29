//! Published ports that the host calls by its own `::1`.

use std::fmt;
use std::path::PathBuf;

use weft_model::{IfName, NetworkName};

use crate::Backend;
use crate::claim::Claims;
use crate::entry::Entry;
use crate::weft::Demand;

/// Answers to `::1` that come in by a link are delivered (docs/adr/0006). It belongs to the network.
///
/// IPv4 has a switch for this, `route_localnet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loopback {
    /// The network.
    pub network: NetworkName,
    /// The link that leads to its containers. Removal does not need it.
    pub link: Option<IfName>,
    /// Who carries the rules. iptables cannot do this.
    pub backend: Backend,
    /// The directory for our ownership records.
    pub claims: PathBuf,
}

impl Loopback {
    /// Returns what the network wants of our own backend.
    pub(crate) fn demand(&self) -> Demand<'_> {
        let entries = self.link.iter().cloned().map(Entry::Loopback).collect();
        Demand { network: &self.network, claims: Claims(&self.claims), entries }
    }
}

impl fmt::Display for Loopback {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("answers to ::1")?;
        self.link.iter().try_for_each(|link| write!(out, " by {link}"))?;
        write!(out, " of {}", self.network)
    }
}
