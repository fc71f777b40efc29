//! What a reboot leaves behind, removed once per network and boot.
//!
//! A reboot takes namespaces, links and rules along, and leaves leases and cached results. Nobody was there
//! to call DEL, so the first connection of a boot asks the network's plugins for GC: addresses come free,
//! and a name that comes back finds its own one free, too.

use std::path::PathBuf;

use weft_cni::AttachmentId;
use weft_model::NetworkName;
use weft_runtime::Problem;
use weft_state::atomic::{self, Durability};
use weft_state::{Root, StateError, boot};

use crate::locks::Alone;
use crate::store::Stored;
use crate::{Error, Manager};

/// The marks on networks that were swept.
#[derive(Clone, Debug)]
pub(crate) struct Sweeps {
    dir: PathBuf,
}

impl Sweeps {
    pub(crate) fn new(root: &Root) -> Self {
        Self { dir: root.sweeps_dir() }
    }

    /// Returns whether nothing of an earlier boot is left of a network.
    fn is_done(&self, network: &NetworkName) -> Result<bool, StateError> {
        let mark = weft_state::file::read_text(&self.dir.join(network.as_str()));
        Ok(mark.is_ok_and(|mark| boot::id().is_ok_and(|boot| boot == mark)))
    }

    /// Says that nothing of an earlier boot is left of a network.
    pub(crate) fn mark(&self, network: &NetworkName) -> Result<(), StateError> {
        atomic::write(&self.dir.join(network.as_str()), boot::id()?.as_bytes(), Durability::Boot, 0o644)
    }

    /// Forgets a network.
    pub(crate) fn forget(&self, network: &NetworkName) -> Result<(), StateError> {
        let path = self.dir.join(network.as_str());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StateError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Manager {
    /// Removes what earlier boots have left of a network, if nobody has yet.
    ///
    /// What a plugin could not remove is tried again next time; it is no reason not to connect.
    pub(crate) fn sweep_once(&self, network: &NetworkName) -> Result<(), Error> {
        if self.sweeps.is_done(network)? || !self.store.load(network)?.is_some_and(|stored| stored.is_ours())
        {
            return Ok(());
        }
        let alone = self.locks.alone(network)?;
        if let Some(stored) = self.store.load(network)?
            && self.collect_garbage(&alone, &stored).is_empty()
        {
            self.sweeps.mark(network)?;
        }
        Ok(())
    }

    /// Removes what a connection that failed has left of a network that nobody uses: the bridge and rules that the
    /// first connection brings come back with the next one.
    pub(crate) fn clear_unused(&self, network: &NetworkName) -> Result<(), Error> {
        if !self.records.of_network(network).is_empty() {
            return Ok(());
        }
        let alone = self.locks.alone(network)?;
        if self.records.of_network(network).is_empty()
            && let Some(stored) = self.store.load(network)?
        {
            // Why there is no connection tells more than what could not be removed, which `weft network rm` does.
            drop(self.collect_garbage(&alone, &stored));
        }
        Ok(())
    }

    /// Asks a network's plugins to remove what belongs to no attachment of this boot.
    pub(crate) fn collect_garbage(&self, alone: &Alone, stored: &Stored) -> Vec<Problem> {
        if !stored.is_ours() {
            return Vec::new();
        }
        let attached = self.records.of_network(alone.network());
        let id = |record: &weft_state::Record| AttachmentId {
            container_id: record.endpoint.container.to_string(),
            ifname: record.endpoint.ifname.to_string(),
        };
        let valid: Vec<AttachmentId> = attached.iter().map(id).collect();
        self.runtime.gc(&stored.list, &valid)
    }
}
