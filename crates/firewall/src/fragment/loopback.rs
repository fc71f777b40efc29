//! Published ports that the host calls by its own `::1`.

use std::fmt;
use std::path::PathBuf;

use weft_model::{IfName, NetworkName};

use crate::Backend;
use crate::claim::Claims;
use crate::entry::Entry;
use crate::weft::Demand;

/// Answers to `::1` that come in by a link are delivered (docs/adr/0006). It belongs to the network, or to the attachment
/// whose link it is.
///
/// IPv4 has a switch for this, `route_localnet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loopback {
    /// The network.
    pub network: NetworkName,
    /// The link that leads to its containers. Removal takes back what there is about all of the network's without.
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

/// The host calls ports of a network by its own 127.0.0.1: a link routes loopback addresses, and nobody else reaches
/// those of the host. It belongs to the network, or to the attachment whose link it is.
///
/// The rules are there before the link's switch is turned, and until it is turned back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Localnet {
    /// The network.
    pub network: NetworkName,
    /// The link that leads to its containers. Removal takes back what there is about all of the network's without.
    pub link: Option<IfName>,
    /// Who carries the rules: iptables, or else our own table.
    pub backend: Backend,
    /// The directory for our ownership records.
    pub claims: PathBuf,
}

impl Localnet {
    /// Returns what the network wants.
    pub(crate) fn demand(&self) -> Demand<'_> {
        let by_iptables = self.backend == Backend::Iptables;
        let entry = if by_iptables { Entry::LocalnetByIptables } else { Entry::Localnet };
        let entries = self.link.iter().cloned().map(entry).collect();
        Demand { network: &self.network, claims: Claims(&self.claims), entries }
    }
}

impl fmt::Display for Localnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("calls from 127.0.0.1")?;
        self.link.iter().try_for_each(|link| write!(out, " by {link}"))?;
        write!(out, " of {} by {}", self.network, self.backend)
    }
}

impl fmt::Display for Loopback {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("answers to ::1")?;
        self.link.iter().try_for_each(|link| write!(out, " by {link}"))?;
        write!(out, " of {}", self.network)
    }
}
