//! Networks, and who takes part in them.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_model::{Mtu, NetworkName};

use crate::ids::{HostId, NetworkId, Vni};

/// The option that says that packets within a network pass by the firewall.
pub const FASTPATH: &str = "fastpath";
/// What it is set to where that depends on who else has a say about them.
pub const AUTO: &str = "auto";

/// A network that exists on every host that takes part in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name, the same on every host.
    pub name: NetworkName,
    /// Goes up with every change.
    pub generation: u64,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Its subnets, one or two of a family at most, that blocks are cut from.
    pub subnets: Vec<IpNetwork>,
    /// What protects it between hosts.
    #[serde(default)]
    pub encryption: Encryption,
    /// Whether it lives in a namespace of its own, so that its subnets may be another network's as well.
    #[serde(default)]
    pub isolated: bool,
    /// How its containers reach what is not the network.
    #[serde(default)]
    pub egress: Egress,
    /// The MTU somebody asked for; none follows each host's underlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// What people wrote on it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Options of the driver as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// When it was created, in RFC 3339.
    pub created: String,
}

impl Network {
    /// Returns whether another record of the same network says otherwise what never changes: its devices and what protects
    /// its packets follow from it.
    pub fn contradicts(&self, other: &Self) -> bool {
        let never = |network: &Self| (network.vni, network.encryption, network.isolated, network.fastpath());
        self.id == other.id && (self.name != other.name || never(self) != never(other))
    }

    /// Returns whether packets within the network pass by the firewalls of its hosts. A host that cannot sends them as others.
    pub fn fastpath(&self) -> Fastpath {
        match self.options.get(FASTPATH).map(String::as_str) {
            _ if self.encryption != Encryption::None => Fastpath::Never,
            Some("" | "true") => Fastpath::Always,
            Some(AUTO) => Fastpath::Auto,
            _ => Fastpath::Never,
        }
    }
}

/// Whether packets within a network pass by the firewalls of its hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Switches", into = "Switches")]
pub enum Fastpath {
    /// They do not.
    #[default]
    Never,
    /// They do on a host as long as nobody else there has a say about them.
    Auto,
    /// They do, whoever is passed by.
    Always,
}

/// The same as older versions read it, to whom what is decided by somebody else is none of theirs.
#[derive(Serialize, Deserialize)]
struct Switches {
    #[serde(default)]
    fastpath: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gated: bool,
}

impl From<Switches> for Fastpath {
    fn from(switches: Switches) -> Self {
        match switches {
            Switches { fastpath: true, .. } => Self::Always,
            Switches { gated: true, .. } => Self::Auto,
            Switches { .. } => Self::Never,
        }
    }
}

impl From<Fastpath> for Switches {
    fn from(fastpath: Fastpath) -> Self {
        Self { fastpath: fastpath == Fastpath::Always, gated: fastpath == Fastpath::Auto }
    }
}

/// What protects a network between hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Nothing: plain VXLAN.
    #[default]
    None,
    /// VXLAN inside the WireGuard mesh.
    Wireguard,
}

/// How containers reach what is not the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// With the host's address.
    #[default]
    Nat,
    /// With their own.
    Routed,
    /// Not at all.
    None,
}

impl Egress {
    /// Returns what it is when nobody says: a network that is cut off from its hosts leads nowhere.
    pub const fn of(isolated: bool) -> Self {
        if isolated { Self::None } else { Self::Nat }
    }
}

/// A host takes part in a network: only such hosts are peers in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// In which network.
    pub network: NetworkId,
    /// Which host.
    pub host: HostId,
    /// Since when, in RFC 3339.
    pub since: String,
}

/// Who has a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VniClaim {
    /// The network.
    pub network: NetworkId,
}

/// A network is about to be removed. Nobody begins to take part in it, and who has no container on it stops to; if whoever
/// removes it goes away, so does this, and all is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Which network.
    pub network: NetworkId,
    /// The host that it is removed on.
    pub host: HostId,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a version that knew no `auto` has no such key, or another value.
    #[test]
    fn a_network_without_the_option_stays_on_the_slow_path() {
        let network = |fastpath: Option<&str>, encryption| Network {
            id: NetworkId::new([1; 16]),
            name: "blue".parse().unwrap(),
            generation: 1,
            vni: 4096.try_into().unwrap(),
            subnets: Vec::new(),
            encryption,
            isolated: false,
            egress: Egress::Nat,
            mtu: None,
            labels: BTreeMap::new(),
            options: fastpath.map(|value| (FASTPATH.into(), value.into())).into_iter().collect(),
            created: String::new(),
        };
        for (given, expected) in [
            (None, Fastpath::Never),
            (Some("false"), Fastpath::Never),
            (Some("of another version"), Fastpath::Never),
            (Some(""), Fastpath::Always),
            (Some("true"), Fastpath::Always),
            (Some(AUTO), Fastpath::Auto),
        ] {
            assert_eq!(network(given, Encryption::None).fastpath(), expected, "{given:?}");
            assert_eq!(network(given, Encryption::Wireguard).fastpath(), Fastpath::Never, "{given:?}");
        }
        let [none, auto] = [None, Some(AUTO)].map(|given| network(given, Encryption::None));
        assert!(none.contradicts(&auto) && !auto.contradicts(&auto));
    }
}
