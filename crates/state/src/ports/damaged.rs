//! Owners' files that cannot be read, which leaves the claims to tell what was published.

use std::path::Path;

use weft_model::{ContainerId, Endpoint, IfName};

use super::{Books, DONE, GONE, INTENT, read, remove_file};
use crate::StateError;
use crate::lock::FileLock;

/// An attachment of which a file is damaged.
#[derive(Debug)]
pub struct Damaged {
    /// The container.
    pub container: ContainerId,
    /// Its interface.
    pub ifname: IfName,
    /// The attachment, if it has claims: they tell the network.
    pub endpoint: Option<Endpoint>,
    /// What is wrong, with the file's name.
    pub error: StateError,
}

impl Books {
    /// Returns the attachments that have a damaged file, in order. What a newer version wrote is none.
    pub fn damaged(&self) -> Vec<Damaged> {
        let mut found: Vec<Damaged> = Vec::new();
        for ending in [DONE, INTENT, GONE] {
            for path in self.files(ending).unwrap_or_default() {
                let (Some(error), Some((container, ifname))) = (damage(&path), attachment(&path, ending))
                else {
                    continue;
                };
                if found.iter().any(|one| (&one.container, &one.ifname) == (&container, &ifname)) {
                    continue;
                }
                let claims = self.claims().of(&container, &ifname).unwrap_or_default();
                let endpoint = claims.into_iter().find_map(|found| found.holder);
                found.push(Damaged { container, ifname, endpoint, error });
            }
        }
        found.sort_by(|a, b| (&a.container, &a.ifname).cmp(&(&b.container, &b.ifname)));
        found
    }

    /// Removes the files of an attachment that are damaged and claim nothing: nothing of it is in the kernel.
    ///
    /// # Errors
    ///
    /// When the lock cannot be had or a file cannot be removed.
    pub fn discard(&self, damaged: &Damaged) -> Result<(), StateError> {
        let Damaged { container, ifname, .. } = damaged;
        let alone = FileLock::exclusive(&self.locks.join(format!("ports-{container}")))?;
        let is_claimed = !self.claims().of(container, ifname)?.is_empty();
        for path in [DONE, INTENT, GONE].map(|ending| self.file(container, ifname, ending)) {
            if !is_claimed && damage(&path).is_some() {
                remove_file(&path)?;
            }
        }
        drop(alone.unlink());
        Ok(())
    }
}

fn damage(path: &Path) -> Option<StateError> {
    read(path).err().filter(|error| matches!(error, StateError::Damaged { .. }))
}

/// Returns whose file this is.
fn attachment(path: &Path, ending: &str) -> Option<(ContainerId, IfName)> {
    let name = path.file_name()?.to_str()?.strip_suffix(ending)?;
    let (container, ifname) = name.split_once(',')?;
    Some((container.parse().ok()?, ifname.parse().ok()?))
}
