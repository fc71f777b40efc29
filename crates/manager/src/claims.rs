//! Names of containers on a network: one holder each, found without looking at the others.

use std::io::ErrorKind;
use std::path::PathBuf;

use weft_model::{ContainerId, NetworkName};
use weft_state::atomic::{self, Durability};
use weft_state::lock::FileLock;
use weft_state::{Root, StateError};

/// The directory of claimed names.
#[derive(Clone, Debug)]
pub struct Claims {
    dir: PathBuf,
    locks: PathBuf,
}

impl Claims {
    /// Returns the claims below `root`.
    pub fn new(root: &Root) -> Self {
        Self { dir: root.names_dir(), locks: root.locks_dir() }
    }

    /// Returns the container that holds a name.
    pub fn holder(&self, network: &NetworkName, name: &ContainerId) -> Option<ContainerId> {
        weft_state::file::read_text(&self.path(network, name)).ok()?.trim().parse().ok()
    }

    /// Claims a name, unless another container holds it and `attached` says that this is still so.
    ///
    /// A holder that is just being connected has no record yet: its lock tells.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn claim(
        &self,
        network: &NetworkName,
        name: &ContainerId,
        container: &ContainerId,
        attached: impl Fn(&ContainerId) -> bool,
    ) -> Result<bool, StateError> {
        let _turn = self.turn(network)?;
        if let Some(holder) = self.holder(network, name).filter(|holder| holder != container)
            && (attached(&holder) || self.is_busy(&holder)?)
        {
            return Ok(false);
        }
        let text = format!("{container}\n");
        atomic::write(&self.path(network, name), text.as_bytes(), Durability::Boot, 0o644)?;
        Ok(true)
    }

    /// Gives a name up, if the container holds it.
    pub fn release(&self, network: &NetworkName, name: &ContainerId, container: &ContainerId) {
        if self.holder(network, name).is_some_and(|holder| holder == *container) {
            // A file that stays names a container without a record: the next claim passes it over.
            std::fs::remove_file(self.path(network, name)).ok();
        }
    }

    /// Forgets every name of a network that is no more.
    ///
    /// # Errors
    ///
    /// When the directory or the lock's file cannot be removed.
    pub fn forget(&self, network: &NetworkName) -> Result<(), StateError> {
        let turn = self.turn(network)?;
        let dir = self.dir.join(network.as_str());
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StateError::io("remove", &dir)(error)),
            _ => turn.unlink(),
        }
    }

    fn turn(&self, network: &NetworkName) -> Result<FileLock, StateError> {
        FileLock::exclusive(&self.locks.join(format!("names-{network}")))
    }

    fn is_busy(&self, container: &ContainerId) -> Result<bool, StateError> {
        Ok(FileLock::try_exclusive(&self.locks.join(format!("container-{container}")))?.is_none())
    }

    fn path(&self, network: &NetworkName, name: &ContainerId) -> PathBuf {
        self.dir.join(network.as_str()).join(name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_holder_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::new(&Root::new(Some(dir.path().into())));
        let network = "n1".parse().unwrap();
        let [web, red, blue] = ["web", "red", "blue"].map(|id| id.parse::<ContainerId>().unwrap());

        assert!(claims.claim(&network, &web, &red, |_| false).unwrap());
        assert!(claims.claim(&network, &web, &red, |_| true).unwrap(), "its own name");
        assert!(!claims.claim(&network, &web, &blue, |_| true).unwrap());
        assert_eq!(claims.holder(&network, &web), Some(red.clone()));

        assert!(claims.claim(&network, &web, &blue, |_| false).unwrap(), "red is not connected any more");
        claims.release(&network, &web, &red);
        assert_eq!(claims.holder(&network, &web), Some(blue.clone()));
        claims.release(&network, &web, &blue);
        assert_eq!(claims.holder(&network, &web), None);
        claims.forget(&network).unwrap();
        claims.forget(&network).unwrap();
    }

    #[test]
    fn a_container_that_is_being_connected_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(Some(dir.path().into()));
        let claims = Claims::new(&root);
        let network = "n1".parse().unwrap();
        let [web, red, blue] = ["web", "red", "blue"].map(|id| id.parse::<ContainerId>().unwrap());
        let busy = crate::locks::Locks::new(&root).container(&red).unwrap();
        assert!(claims.claim(&network, &web, &red, |_| false).unwrap());
        assert!(!claims.claim(&network, &web, &blue, |_| false).unwrap());
        drop(busy);
        assert!(claims.claim(&network, &web, &blue, |_| false).unwrap());
    }
}
