//! Claims of attachments that have no file any more, and who waits for what another attachment of its container has.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use weft_model::{ContainerId, Endpoint, IfName, NetworkName};

use super::claims::Found;
use super::{Books, Claim, remove_file};
use crate::{StateError, atomic};

/// A claim of nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// The claim.
    pub claim: Claim,
    /// Who made it; `None` if the file does not say.
    pub holder: Option<Endpoint>,
}

impl Books {
    /// Returns the claims of attachments that have no file in the books: it was removed by hand, or lost. Damaged files count: of
    /// those the claims are all that tells what was published.
    ///
    /// # Errors
    ///
    /// When the claims cannot be read.
    pub fn orphans(&self) -> Result<Vec<Orphan>, StateError> {
        let mut known: HashMap<Endpoint, bool> = HashMap::new();
        let mut orphans = Vec::new();
        for Found { claim, holder } in self.claims().all()? {
            let is_known = match &holder {
                // An intent is written before the first claim is made, and its lock is held until the file is there.
                Some(holder) => *known.entry(holder.clone()).or_insert_with(|| {
                    self.knows(&holder.container, &holder.ifname) || self.is_at_work(holder)
                }),
                None => false,
            };
            if !is_known {
                orphans.push(Orphan { claim, holder });
            }
        }
        Ok(orphans)
    }

    /// Drops the claims of nobody: all of them, or those that were made for a network. Returns how many there were. What the
    /// kernel has by them goes when our table is written anew.
    ///
    /// # Errors
    ///
    /// When the lock cannot be had, or a claim cannot be read or removed.
    pub fn drop_orphans(&self, network: Option<&NetworkName>) -> Result<usize, StateError> {
        let of_network = |orphan: &Orphan| {
            network
                .is_none_or(|network| orphan.holder.as_ref().is_some_and(|holder| holder.network == *network))
        };
        // In the usual case nobody has to wait.
        if !self.orphans()?.iter().any(of_network) {
            return Ok(0);
        }
        let _lock = self.lock()?;
        let claims = self.claims();
        let mut count = 0;
        for orphan in self.orphans()?.iter().filter(|orphan| of_network(orphan)) {
            claims.drop(&orphan.claim)?;
            count += 1;
        }
        Ok(count)
    }

    /// Returns the interfaces of a container that want ports which another one of its interfaces publishes.
    pub fn waiting(&self, container: &ContainerId) -> Vec<IfName> {
        let entries = fs::read_dir(self.waiting_dir(container)).into_iter().flatten().flatten();
        let mut names: Vec<IfName> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        names
    }

    /// Notes whether an attachment waits for ports of its container.
    pub(super) fn note_waiting(&self, endpoint: &Endpoint, waits: bool) -> Result<(), StateError> {
        let dir = self.waiting_dir(&endpoint.container);
        let path = dir.join(endpoint.ifname.as_str());
        if waits {
            atomic::create_dir(&dir, 0o755)?;
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            return file.map(drop).map_err(StateError::io("write", &path));
        }
        remove_file(&path)?;
        match fs::remove_dir(&dir) {
            // Another interface of the container's waits, too.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError::io("remove", &dir)(error))
            }
            _ => Ok(()),
        }
    }

    fn waiting_dir(&self, container: &ContainerId) -> PathBuf {
        self.dir.join("waiting").join(container.as_str())
    }
}
