//! What this host keeps about the cluster it is one of, from `join` to `leave`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use weft_manager::overlay;
use weft_manager::overlay::protocol::Join;
use weft_overlay::{ClusterId, HostId};
use weft_state::atomic::Durability;
use weft_state::{Root, document};

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
    pub(crate) fn load(&self) -> Result<Option<Membership>> {
        let read = document::read(&self.0);
        read.context("weft overlay leave -f, and join again, if it cannot be mended")
    }

    /// Writes it: when this returns, a power loss does not take it.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn save(&self, membership: &Membership) -> Result<()> {
        Ok(document::write(&self.0, membership, Durability::Disk)?)
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn remove(&self) -> Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.0.display().to_string())
            }
            _ => Ok(()),
        }
    }
}
