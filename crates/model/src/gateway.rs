//! How a network's gateway treats connections from outside.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the host does for one address family of a network. The names are docker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Ports are published by address translation, and nothing else is let in.
    #[default]
    Nat,
    /// Ports are published by address translation, and whoever has a route reaches every port.
    NatUnprotected,
    /// No address is translated; who has a route reaches the published ports of the container.
    Routed,
    /// The host has no address on the network and routes nothing.
    Isolated,
}

/// A text is no gateway mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown gateway mode {0:?}")]
pub struct GatewayModeError(
    /// The text as given.
    pub String,
);

impl GatewayMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Nat, Self::NatUnprotected, Self::Routed, Self::Isolated];

    /// Returns the mode's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::NatUnprotected => "nat-unprotected",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        }
    }

    /// Tells whether ports are published by address translation.
    pub const fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::NatUnprotected)
    }
}

impl FromStr for GatewayMode {
    type Err = GatewayModeError;

    fn from_str(text: &str) -> Result<Self, GatewayModeError> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| GatewayModeError(text.into()))
    }
}

impl fmt::Display for GatewayMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// A network's gateway modes, one for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Gateways {
    /// IPv4.
    pub ipv4: GatewayMode,
    /// IPv6.
    pub ipv6: GatewayMode,
}

impl Gateways {
    /// Returns the mode of this address's family.
    pub const fn of(self, family: IpAddr) -> GatewayMode {
        if family.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

impl fmt::Display for Gateways {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ipv4 == self.ipv6 {
            self.ipv4.fmt(out)
        } else {
            write!(out, "{} for IPv4, {} for IPv6", self.ipv4, self.ipv6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_read_as_it_is_written() {
        for mode in GatewayMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
        let error = "Nat".parse::<GatewayMode>().unwrap_err();
        assert_eq!(error.to_string(), "unknown gateway mode \"Nat\"");
    }

    #[test]
    fn what_is_left_out_is_translated() {
        let modes: Gateways = serde_json::from_str(r#"{"ipv6": "routed"}"#).unwrap();
        assert_eq!(modes.of([10, 0, 0, 1].into()), GatewayMode::Nat);
        assert_eq!(modes.of([0u16; 8].into()), GatewayMode::Routed);
        assert_eq!(modes.to_string(), "nat for IPv4, routed for IPv6");
    }
}
