//! The snapshot as files, so that a host starts right with its store down.
//!
//! One is in `/run` and as new as what the kernel was last brought to, the other survives a power loss and may be a second older.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_state::atomic::Durability;
use weft_state::{Root, StateError, boot, document};

use super::{Known, Record, Snapshot};
use crate::keys::Key;

/// The file, with the records as they are written, or as they are read.
#[derive(Serialize, Deserialize)]
struct File<V> {
    schema: u64,
    /// The boot in which it was written.
    #[serde(default)]
    boot: String,
    store: u64,
    revision: i64,
    records: Vec<Line<V>>,
}

#[derive(Serialize, Deserialize)]
struct Line<V> {
    key: String,
    modified: i64,
    #[serde(default, skip_serializing_if = "is_false")]
    held: bool,
    /// What the store says of a key that is held, if it says anything, and since which revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<(i64, V)>,
    value: V,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(held: &bool) -> bool {
    !held
}

/// Returns where it is kept for so long.
fn path(root: &Root, durability: Durability) -> PathBuf {
    let dir = match durability {
        Durability::Boot => root.overlay_agent_dir(),
        Durability::Disk => root.overlay_dir(),
    };
    dir.join("state.json")
}

impl Snapshot {
    /// Reads what was last written below `root`; no file is `None`.
    ///
    /// What goes with a lease is not in it, and a record that is damaged is passed over as one of the store is.
    ///
    /// # Errors
    ///
    /// Says that the file cannot be read, is damaged, or comes from a newer version.
    pub fn last(root: &Root) -> Result<Option<Self>, StateError> {
        let boot = boot::id()?;
        // What is wrong with this one is the other's reason to be there.
        let ours = document::read::<File<Value>>(&path(root, Durability::Boot)).ok().flatten();
        match ours.filter(|file| file.boot == boot) {
            Some(file) => Ok(Some(Self::read(file))),
            None => Ok(document::read(&path(root, Durability::Disk))?.map(Self::read)),
        }
    }

    fn read(file: File<Value>) -> Self {
        let mut snapshot = Self { store: file.store, revision: file.revision, ..Self::default() };
        for line in file.records {
            match Record::parse(&line.key, line.value.to_string().as_bytes()) {
                Ok((key, record)) => {
                    if line.held {
                        let said = line.said.and_then(|(modified, value)| {
                            let (_, record) = Record::parse(&line.key, value.to_string().as_bytes()).ok()?;
                            Some(Known { modified, record })
                        });
                        snapshot.held.insert(key.clone(), said);
                    }
                    snapshot.records.insert(key, Known { modified: line.modified, record });
                }
                Err(why) => drop(snapshot.bad.insert(line.key, why)),
            }
        }
        snapshot
    }

    /// Writes all of it but what goes with a lease.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn save(&self, root: &Root, durability: Durability) -> Result<(), StateError> {
        let path = path(root, durability);
        let records = self.records.iter().filter(|(key, _)| !key.is_fleeting());
        let said = |key: &Key| self.held.get(key)?.as_ref().map(|said| (said.modified, &said.record));
        let lines = records.map(|(key, known)| Line {
            key: key.to_string(),
            modified: known.modified,
            held: self.held.contains_key(key),
            said: said(key),
            value: &known.record,
        });
        let file = File {
            schema: document::SCHEMA,
            boot: boot::id()?,
            store: self.store,
            revision: self.revision,
            records: lines.collect(),
        };
        document::write(&path, &file, durability)
    }

    /// Removes what was written; nothing is as well.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn forget(root: &Root) -> Result<(), StateError> {
        [Durability::Boot, Durability::Disk].into_iter().try_for_each(|kept| remove(&path(root, kept)))
    }
}

fn remove(path: &Path) -> Result<(), StateError> {
    match std::fs::remove_file(path).map_err(StateError::io("remove", path)) {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}
