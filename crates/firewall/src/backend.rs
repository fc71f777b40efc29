//! Who carries the rules.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use weft_model::NetworkName;

use crate::claim::Claims;
use crate::iptables::tool::{self, Tool};
use crate::{FirewallError, layout, table};

/// The way masquerading is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Our own table, `inet weft`: static rules, one element per subnet.
    Weft,
    /// The table of the CNI reference plugins, `inet cni_plugins_masquerade`: one rule per address.
    UpstreamNftables,
    /// The chains of the CNI reference plugins, `CNI-` and 24 hex digits, by `iptables-restore`.
    Iptables,
}

impl Backend {
    /// Returns ours, or iptables where the kernel has no nf_tables.
    pub fn usual() -> Self {
        if weft_nft::is_usable() { Self::Weft } else { Self::Iptables }
    }

    /// Returns the usual one for a network, whose claims lie below `claims`: what it has in our table tells that there are
    /// nf_tables, and the kernel is not asked.
    pub fn usual_of(network: &NetworkName, claims: &Path) -> Self {
        if Claims(claims).is_in_our_table(network) { Self::Weft } else { Self::usual() }
    }

    /// Refuses to go on where the backend cannot work. Starts no program and changes nothing.
    ///
    /// # Errors
    ///
    /// When the kernel lacks nf_tables, or a program is not installed.
    pub fn ready(self) -> Result<(), FirewallError> {
        let generation = || weft_nft::Socket::open().and_then(|mut socket| socket.generation());
        let nf_tables = || match generation() {
            Ok(_) => Ok(()),
            Err(error) => Err(table::refused(layout::INET, error)),
        };
        match self {
            Self::Weft => nf_tables(),
            Self::UpstreamNftables => nf_tables().and_then(|()| tool::installed("nft")),
            Self::Iptables => Tool::V4.required(),
        }
    }

    /// Returns the backend that prints like this; ours when none does.
    pub(crate) fn named(name: &str) -> Self {
        name.parse().unwrap_or(Self::Weft)
    }

    /// Returns whether the backend keeps something per attachment, which DEL must remove.
    pub fn is_per_attachment(self) -> bool {
        self != Self::Weft
    }
}

impl FromStr for Backend {
    type Err = FirewallError;

    /// Reads what `ipMasqBackend` may say. Our own backend has no name there: leaving the key out
    /// asks for it, and keeps the conflist one that the reference plugins understand.
    fn from_str(name: &str) -> Result<Self, FirewallError> {
        match name {
            "iptables" => Ok(Self::Iptables),
            "nftables" => Ok(Self::UpstreamNftables),
            other => Err(FirewallError::UnknownBackend(other.into())),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Weft => "weft",
            Self::UpstreamNftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_names_are_understood_and_no_others() {
        assert_eq!("nftables".parse::<Backend>().unwrap(), Backend::UpstreamNftables);
        assert_eq!("iptables".parse::<Backend>().unwrap(), Backend::Iptables);
        let error = "x".parse::<Backend>().unwrap_err();
        assert_eq!(error.to_string(), "unknown ipmasq backend \"x\"");
        assert!(error.hint().is_some());
    }
}
