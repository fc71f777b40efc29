//! The configuration as written, then as meant.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use weft_cni::{Code, Failure, NetworkResult};
use weft_firewall::{Carrier, FIREWALLD_ZONE, IPTABLES_ADMIN_CHAIN, Ingress, is_chain_name};
use weft_model::IfName;
use weft_plugin::{Call, Verb};

/// The firewall configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    backend: Option<String>,
    iptables_admin_chain_name: Option<String>,
    firewalld_zone: Option<String>,
    ingress_policy: Option<String>,
}

/// What the plugin will do. Every value is chosen and every combination is legal.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The addresses of the previous result; none on DEL without one.
    pub addresses: Vec<IpAddr>,
    /// Who lets their packets through.
    pub carrier: Carrier,
    /// The chain of iptables that is asked first.
    pub admin_chain: String,
    /// The zone of firewalld that the addresses join.
    pub zone: String,
    /// For whom the container is reachable; absent means for everybody.
    pub ingress: Option<Ingress>,
    /// Where the firewall keeps its ownership records.
    pub claims: PathBuf,
}

/// Why a configuration is not legal. The texts are those of the reference plugin, which its users
/// and tests search for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// The plugin is not behind another one.
    #[error("missing prevResult from earlier plugin")]
    NoPrevResult,
    /// `ingressPolicy` is none of the known names.
    #[error("unknown ingress policy: {0:?}")]
    Policy(String),
    /// The policy is about a bridge, and the previous result has no interface.
    #[error(
        "interface needs to be set for ingress policy {0:?}, make sure to chain \"firewall\" plugin with \"bridge\""
    )]
    NoInterface(String),
    /// The first interface of the previous result is no interface's name.
    #[error("interface {0:?} of the previous result: {1}")]
    Interface(String, weft_model::IfNameError),
    /// The chain for the administrator's rules can have no such name.
    #[error("iptablesAdminChainName {0:?} is no name of a chain")]
    AdminChain(String),
    /// No zone of firewalld's can have such a name.
    #[error("firewalldZone {0:?} is no name of a zone")]
    Zone(String),
}

impl ConfError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoPrevResult => "put \"firewall\" behind a plugin that makes an interface",
            Self::Policy(_) => "one of \"open\", \"same-bridge\", \"isolated\"",
            Self::AdminChain(_) => "up to 28 letters, digits, dashes and underscores",
            Self::Zone(_) => "see which there are: firewall-cmd --get-zones",
            Self::NoInterface(_) | Self::Interface(..) => return None,
        };
        Some(text.into())
    }
}

/// What is not in the plugin's own keys and yet decides about it.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// What the plugins before this one made.
    pub previous: Option<NetworkResult>,
    /// Where the firewall keeps its ownership records.
    pub claims: PathBuf,
    /// Whether a container is being connected or looked at, which needs the previous result.
    pub connects: bool,
    /// Whether things are taken apart: what no ADD accepts was never built.
    pub dismantles: bool,
}

impl Surroundings {
    fn of(call: &Call) -> Result<Self, Failure> {
        let dismantles = call.dismantles();
        let previous = match call.conf.prev_result() {
            // A result that cannot be read says as little as none.
            Err(_) if dismantles => None,
            read => read?,
        };
        Ok(Self { previous, claims: call.root.masquerade_dir(), connects: call.connects(), dismantles })
    }
}

impl Conf {
    /// Says what was meant.
    ///
    /// # Errors
    ///
    /// If a value is not legal, or the policy does not go with the previous result.
    pub fn settle(self, around: Surroundings) -> Result<Settings, ConfError> {
        if around.connects && around.previous.is_none() {
            return Err(ConfError::NoPrevResult);
        }
        let previous = around.previous.unwrap_or_default();
        let ingress = match self.ingress(&previous, around.connects) {
            Err(_) if around.dismantles => None,
            ingress => ingress?,
        };
        Ok(Settings {
            addresses: previous.ips.iter().map(|ip| ip.address.ip()).collect(),
            carrier: self.carrier(),
            admin_chain: or_usual(self.iptables_admin_chain_name, IPTABLES_ADMIN_CHAIN, is_chain_name)
                .map_err(ConfError::AdminChain)?,
            zone: or_usual(self.firewalld_zone, FIREWALLD_ZONE, is_zone).map_err(ConfError::Zone)?,
            ingress,
            claims: around.claims,
        })
    }

    /// CNI: any other name means that the plugin chooses, as no name does.
    fn carrier(&self) -> Carrier {
        match self.backend.as_deref() {
            Some("iptables") => Carrier::Iptables,
            Some("firewalld") => Carrier::Firewalld,
            Some("nftables" | "weft") => Carrier::Weft,
            _ => Carrier::Auto,
        }
    }

    /// CNI: the bridge is the first interface of the previous result.
    fn ingress(&self, previous: &NetworkResult, connects: bool) -> Result<Option<Ingress>, ConfError> {
        let policy = self.ingress_policy.as_deref().unwrap_or_default();
        let closed = match policy {
            "" | "open" => return Ok(None),
            "same-bridge" => false,
            "isolated" => true,
            other => return Err(ConfError::Policy(other.into())),
        };
        let Some(first) = previous.interfaces.first() else {
            return if connects { Err(ConfError::NoInterface(policy.into())) } else { Ok(None) };
        };
        let bridge: Result<IfName, _> = first.name.parse();
        let bridge = bridge.map_err(|error| ConfError::Interface(first.name.clone(), error))?;
        Ok(Some(Ingress { bridge, closed }))
    }
}

fn or_usual(written: Option<String>, usual: &str, is_legal: impl Fn(&str) -> bool) -> Result<String, String> {
    match written.filter(|name| !name.is_empty()) {
        None => Ok(usual.into()),
        Some(name) if is_legal(&name) => Ok(name),
        Some(name) => Err(name),
    }
}

fn is_zone(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/'))
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal; on STATUS, if the backend it names is not there.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let written = call.conf.conf::<Conf>();
        let around = Surroundings::of(call)?;
        let dismantles = around.dismantles;
        let settled = written.and_then(|conf| conf.settle(around).map_err(refused));
        let settings = match settled {
            // What is on record is taken apart, whatever the configuration says by now.
            Err(_) if dismantles => Conf::default().settle(Surroundings::of(call)?).map_err(refused)?,
            settled => settled?,
        };
        if call.verb == Verb::Status {
            settings.carrier.available().map_err(|error| {
                let hint = error.hint();
                Failure::new(Code::NotAvailable, error).with_hint(hint)
            })?;
        }
        Ok(settings)
    }
}

fn refused(error: ConfError) -> Failure {
    let hint = error.hint();
    Failure::new(Code::InvalidConfig, error).with_hint(hint)
}

#[cfg(test)]
mod tests;
