//! What this host keeps about the cluster it is one of, from `join` to `leave`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_manager::overlay;
use weft_manager::overlay::protocol::Join;
use weft_overlay::{ClusterId, HostId};
use weft_state::atomic::Durability;
use weft_state::{Root, StateError, document};

/// Under what it is noted that the file cannot be used.
pub(crate) const UNREADABLE: &str = "membership";

/// How this host joined, and as whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// The form of the file.
    pub(crate) schema: u64,
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// This host.
    pub(crate) host: HostId,
    /// Its name.
    pub(crate) name: String,
    /// The interface it is reached by.
    pub(crate) interface: String,
    /// What `weft overlay join` was told.
    pub(crate) join: Join,
}

/// Who this host is going to be: kept while it joins.
#[derive(Serialize, Deserialize)]
struct Intent {
    schema: u64,
    host: HostId,
}

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct MembershipFile(PathBuf);

impl MembershipFile {
    /// Returns the file below `root`.
    pub(crate) fn new(root: &Root) -> Self {
        Self(overlay::membership(root))
    }

    /// Reads it; `None` if this host is of no cluster.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be used: guessing would make another host of this one.
    pub(crate) fn load(&self) -> Result<Option<Membership>, StateError> {
        document::read(&self.0)
    }

    /// Writes it: when this returns, a power loss does not take it.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn save(&self, membership: &Membership) -> Result<(), StateError> {
        document::write(&self.0, membership, Durability::Disk)
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        remove(&self.0)
    }

    /// Returns who this host was going to be when it tried to join last, or else makes it somebody, durably: what it claims
    /// before the membership is written is claimed by the same host when it tries again.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn intended(&self) -> Result<HostId, StateError> {
        let path = self.intent();
        // One that is damaged says nothing, and a new one takes its place.
        if let Ok(Some(Intent { host, .. })) = document::read(&path) {
            return Ok(host);
        }
        let host = HostId::random();
        document::write(&path, &Intent { schema: document::SCHEMA, host }, Durability::Disk)?;
        Ok(host)
    }

    /// Forgets who this host was going to be: it is, or will not be.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn give_up(&self) -> Result<(), StateError> {
        remove(&self.intent())
    }

    fn intent(&self) -> PathBuf {
        self.0.with_file_name("joining.json")
    }
}

fn remove(path: &Path) -> Result<(), StateError> {
    match std::fs::remove_file(path).map_err(StateError::io("remove", path)) {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}
