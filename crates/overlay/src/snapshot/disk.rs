//! The snapshot as a file, so that a host starts right with its store down.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_state::atomic::Durability;
use weft_state::{StateError, document};

use super::{Known, Record, Snapshot};
use crate::keys::Key;

#[derive(Serialize, Deserialize)]
struct File {
    schema: u64,
    store: u64,
    revision: i64,
    records: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    modified: i64,
    #[serde(default, skip_serializing_if = "is_false")]
    held: bool,
    value: Value,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_false(held: &bool) -> bool {
    !held
}

impl Snapshot {
    /// Reads what was last written; a missing file is `None`.
    ///
    /// Who is alive is not in it, and a record that is damaged is passed over as one of the store is.
    ///
    /// # Errors
    ///
    /// Says that the file cannot be read, is damaged, or comes from a newer version.
    pub fn load(path: &Path) -> Result<Option<Self>, StateError> {
        let Some(file) = document::read::<File>(path)? else { return Ok(None) };
        let mut snapshot = Self { store: file.store, revision: file.revision, ..Self::default() };
        for line in file.records {
            match Record::parse(&line.key, line.value.to_string().as_bytes()) {
                Ok((key, record)) => {
                    if line.held {
                        snapshot.held.insert(key.clone(), None);
                    }
                    snapshot.records.insert(key, Known { modified: line.modified, record });
                }
                Err(why) => drop(snapshot.bad.insert(line.key, why)),
            }
        }
        Ok(Some(snapshot))
    }

    /// Writes all of it but who is alive.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn save(&self, path: &Path) -> Result<(), StateError> {
        let records = self.records.iter().filter(|(key, _)| !matches!(key, Key::Alive(_)));
        let lines = records.map(|(key, known)| {
            Ok(Line {
                key: key.to_string(),
                modified: known.modified,
                held: self.held.contains_key(key),
                value: serde_json::from_slice(&known.record.value())?,
            })
        });
        let records = lines
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|error| StateError::Damaged { path: path.into(), reason: error.to_string() })?;
        let file = File { schema: document::SCHEMA, store: self.store, revision: self.revision, records };
        document::write(path, &file, Durability::Disk)
    }
}
