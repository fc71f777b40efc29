//! What one attachment publishes.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_model::port::Publication;
use weft_model::{Endpoint, GatewayMode, Gateways};

use super::{Asked, Chosen, Claim};
use crate::{StateError, boot, document};

/// How packets that need the host's address are marked where rules cannot tell by a set: with iptables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mark {
    /// This bit of the packet's mark.
    Bit(u8),
    /// A chain of somebody else's sets the mark.
    Chain(String),
}

impl Default for Mark {
    /// The reference plugin's bit.
    fn default() -> Self {
        Self::Bit(13)
    }
}

/// Everything that one attachment publishes, with what is needed to write its rules again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The form of this file, [`document::SCHEMA`].
    pub schema: u64,
    /// The boot this is true in.
    pub boot: String,
    /// The attachment.
    pub endpoint: Endpoint,
    /// What it publishes, every choice made.
    pub publications: Vec<Publication>,
    /// Which of these were chosen for it, and among what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<Chosen>,
    /// Which of these are not translated and would have done with any port of the host's, or of some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<Asked>,
    /// What was asked for as well and stands at another interface of the container's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Publication>,
    /// The container's subnets: connections from there to the published ports get the host's address.
    #[serde(default)]
    pub subnets: Vec<IpNetwork>,
    /// Whether they do.
    pub snat: bool,
    /// Whether all connections to the published ports get the host's address.
    pub masquerade_all: bool,
    /// The network's gateway modes.
    #[serde(default)]
    pub gateways: Gateways,
    /// Who carries the rules, by the backend's name.
    pub backend: String,
    /// Further matches in the language of the backend, for IPv4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions_v4: Vec<String>,
    /// The same for IPv6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions_v6: Vec<String>,
    /// How packets that need the host's address are marked.
    #[serde(default)]
    pub mark: Mark,
}

impl Owner {
    /// Returns an attachment of this boot that publishes nothing yet.
    ///
    /// # Errors
    ///
    /// When the boot id cannot be read.
    pub fn new(endpoint: Endpoint, backend: &str) -> Result<Self, StateError> {
        Ok(Self {
            schema: document::SCHEMA,
            boot: boot::id()?,
            endpoint,
            publications: Vec::new(),
            chosen: Vec::new(),
            elsewhere: Vec::new(),
            open: Vec::new(),
            subnets: Vec::new(),
            snat: false,
            masquerade_all: false,
            gateways: Gateways::default(),
            backend: backend.into(),
            conditions_v4: Vec::new(),
            conditions_v6: Vec::new(),
            mark: Mark::default(),
        })
    }

    /// Returns what it publishes as it would be asked for on another network, where the host's ports may mean more.
    pub fn asked(&self) -> Vec<Asked> {
        let asked = |one: &Publication| {
            let open = self.open.iter().find(|open| open.publication == *one);
            open.cloned().unwrap_or_else(|| Asked::from(one.clone()))
        };
        self.publications.iter().map(asked).collect()
    }

    /// Returns what has to be claimed for all of it, each once.
    pub fn claims(&self) -> Vec<Claim> {
        let mut claims: Vec<_> = self.publications.iter().flat_map(|one| self.claims_of(one)).collect();
        claims.sort();
        claims.dedup();
        claims
    }

    /// Returns what has to be claimed for one publication. Where nothing is let in, that is nothing.
    pub fn claims_of(&self, one: &Publication) -> Vec<Claim> {
        match self.gateways.of(one.target) {
            GatewayMode::Nat | GatewayMode::NatUnprotected => {
                let port = Claim::Host(one.protocol, one.host, one.host_ports);
                let address = self.masquerade_all.then_some(Claim::Address(one.target));
                [port].into_iter().chain(address).collect()
            }
            GatewayMode::Routed => vec![Claim::Target(one.protocol, one.target, one.target_ports)],
            GatewayMode::Isolated => Vec::new(),
        }
    }
}
