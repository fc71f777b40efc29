//! What the manager asks a plugin about networks that are there: what is missing, and to put it back.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_model::{Endpoint, NetworkName};

/// What a plugin reads when it is started with `reload` or `doctor`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MendRequest {
    /// The directory all paths are below; none means the environment's.
    pub root: Option<PathBuf>,
    /// The plugin's own part of each network's conflist, with `name` and `cniVersion` in it.
    pub networks: Vec<Value>,
}

/// Something that is not as it was left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// The command that mends it.
    pub mend: String,
}

/// What a plugin prints for `doctor`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Findings {
    /// What is out of step; nothing when all is well.
    pub problems: Vec<Finding>,
}

impl Finding {
    /// Returns what only connecting anew mends. The manager, which knows how the container was connected, says the
    /// same with all it takes.
    pub fn renewed(endpoint: &Endpoint, why: String) -> Self {
        let Endpoint { network, container, .. } = endpoint;
        let mend = format!(
            "weft network disconnect {network} {container}, then weft network connect {network} {container}"
        );
        Self { what: endpoint.to_string(), why, mend }
    }

    /// Returns what is wrong with a network's configuration. The manager, which knows where that is, names the file.
    pub fn misconfigured(network: &NetworkName, why: String) -> Self {
        Self { what: format!("network {network}"), why, mend: format!("mend the file of network {network}") }
    }

    /// Tells whether this is what only connecting that attachment anew mends.
    pub fn is_renewed(&self, endpoint: &Endpoint) -> bool {
        *self == Self::renewed(endpoint, self.why.clone())
    }

    /// Tells whether this is wrong with the configuration of that network.
    pub fn is_misconfigured(&self, network: &NetworkName) -> bool {
        *self == Self::misconfigured(network, self.why.clone())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.what, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_may_be_left_out() {
        assert_eq!(serde_json::from_str::<MendRequest>("{}").unwrap(), MendRequest::default());
        assert_eq!(serde_json::from_str::<Findings>("{}").unwrap(), Findings::default());
    }

    #[test]
    fn a_finding_is_a_line() {
        let finding = Finding { what: "a".into(), why: "b is gone".into(), mend: "c".into() };
        assert_eq!(finding.to_string(), "a: b is gone");
    }
}
