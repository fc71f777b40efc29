//! What this host knows without asking anybody: its cluster's last snapshot, or files of static peers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_model::NetworkName;
use weft_state::atomic::Durability;
use weft_state::{Root, StateError, boot, document};

use crate::desired::{Desired, Refused};
use crate::ids::HostId;
use crate::local::LocalNetwork;
use crate::snapshot::Snapshot;
use crate::statics::{self, Statics};

/// This host, and what it knows of the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Here {
    /// This host.
    pub host: HostId,
    /// It, its peers and the networks.
    pub snapshot: Snapshot,
    /// Files of static peers and networks that are wrong, and why. What they were about is left as it is.
    pub bad: Vec<(PathBuf, String)>,
}

/// A network on this host, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// It is there.
    Here(Box<LocalNetwork>),
    /// The host takes part in it and cannot have it.
    Refused(Refused),
    /// The host is of no cluster, or takes no part in such a network.
    Unknown,
}

/// What of a cluster's membership matters here.
#[derive(Deserialize)]
struct Membership {
    host: HostId,
}

impl Here {
    /// Reads it; `None` for a host that has no other hosts.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be used.
    pub fn read(root: &Root) -> Result<Option<Self>, StateError> {
        if let Some(Membership { host }) = membership(root)? {
            return Ok(Snapshot::last(root)?.map(|snapshot| Self { host, snapshot, bad: Vec::new() }));
        }
        let statics = statics::read(root)?;
        Ok(statics.map(|Statics { host, snapshot, bad }| Self { host, snapshot, bad }))
    }

    /// Returns what this host should have.
    pub fn desired(&self) -> Desired {
        Desired { partial: !self.bad.is_empty(), ..Desired::of(&self.snapshot, self.host) }
    }
}

/// Returns what a network is on this host: what was written for an ADD in this boot, or else what follows from what
/// is known.
///
/// # Errors
///
/// Names the file that cannot be used.
pub fn network(root: &Root, name: &NetworkName) -> Result<Found, StateError> {
    match LocalNetwork::load(root, name)? {
        Some(local) => Ok(Found::Here(Box::new(local))),
        None => worked_out(root, name),
    }
}

/// As [`network`], for whoever writes what others go by. Files of static peers may have changed since an ADD read them;
/// of a cluster, the agent has written what it knows.
///
/// # Errors
///
/// Names the file that cannot be used.
pub fn newest(root: &Root, name: &NetworkName) -> Result<Found, StateError> {
    if membership(root)?.is_some() { network(root, name) } else { worked_out(root, name) }
}

/// Returns whether this host is one of a cluster, which gives it more addresses when it has none left.
pub fn has_joined(root: &Root) -> bool {
    // What cannot be read is there.
    membership(root).map_or(true, |membership| membership.is_some())
}

/// Returns where a host keeps the cluster's secret, without which it has no part in encrypted networks.
pub fn secret_file(root: &Root) -> PathBuf {
    root.overlay_dir().join("keys/cluster.secret")
}

/// Returns whether this host has the cluster's secret.
pub fn has_secret(root: &Root) -> bool {
    // What cannot be looked at is there.
    secret_file(root).try_exists().unwrap_or(true)
}

fn membership(root: &Root) -> Result<Option<Membership>, StateError> {
    document::read(&root.overlay_dir().join("membership.json"))
}

fn worked_out(root: &Root, name: &NetworkName) -> Result<Found, StateError> {
    let Some(here) = Here::read(root)? else { return Ok(Found::Unknown) };
    Ok(match here.desired().network(name) {
        Some(Ok(network)) => Found::Here(Box::new(network.local.clone())),
        Some(Err(refused)) => Found::Refused(refused.clone()),
        None => Found::Unknown,
    })
}

/// How things stand with the cluster: `/run/weft/overlay/agent/health.json`, written by the agent and read for STATUS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The schema, 1.
    pub schema: u64,
    /// The kernel's boot id: what another boot wrote is void.
    pub boot: String,
    /// Why containers may not reach everybody, if they may not.
    pub degraded: Option<String>,
}

impl Health {
    /// Returns what the agent has said in this boot; `None` when it has said nothing, as where there is none.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be used.
    pub fn load(root: &Root) -> Result<Option<Self>, StateError> {
        let found: Option<Self> = document::read(&root.overlay_agent_dir().join("health.json"))?;
        let boot = boot::id()?;
        Ok(found.filter(|health| health.boot == boot))
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn save(root: &Root, degraded: Option<String>) -> Result<(), StateError> {
        let health = Self { schema: document::SCHEMA, boot: boot::id()?, degraded };
        document::write(&root.overlay_agent_dir().join("health.json"), &health, Durability::Boot)
    }
}
