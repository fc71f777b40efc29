//! JSON files that say which schema they follow.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::atomic::{self, Durability};
use crate::{StateError, file};

/// The schema of everything written here. A type's first field is `schema` and holds this.
pub const SCHEMA: u64 = 1;

#[derive(Deserialize)]
struct Header {
    schema: Option<u64>,
}

/// Reads a document; a missing file is `None`.
///
/// # Errors
///
/// Says that the file cannot be read, is damaged (truncated, not ours) or comes from a newer version.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let damaged = |reason: String| StateError::Damaged { path: path.into(), reason };
    let bytes = match file::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) if file::is_refused(&error) => return Err(damaged(error.to_string())),
        Err(error) => return Err(StateError::io("read", path)(error)),
    };
    if bytes.is_empty() {
        return Err(damaged("it is empty".into()));
    }
    let header: Header = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match header.schema {
        Some(SCHEMA) => serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(error.to_string())),
        Some(found) if found > SCHEMA => Err(StateError::Newer { path: path.into(), found, known: SCHEMA }),
        Some(found) => Err(damaged(format!("there is no schema {found}"))),
        None => Err(damaged("it has no \"schema\"".into())),
    }
}

/// Writes a document in one step.
///
/// # Errors
///
/// Names the path and the reason.
pub fn write<T: Serialize>(path: &Path, document: &T, durability: Durability) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(document)
        .map_err(|error| StateError::Damaged { path: path.into(), reason: error.to_string() })?;
    atomic::write(path, &bytes, durability, 0o600)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_a_known_schema_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.json");
        let outcome = |text: &str| {
            atomic::write(&path, text.as_bytes(), Durability::Boot, 0o600).unwrap();
            let read: Result<Option<Value>, StateError> = read(&path);
            read.map_err(|error| error.to_string().replace(&path.display().to_string(), "F"))
        };
        assert!(outcome(r#"{"schema": 1, "x": 2}"#).unwrap().is_some());
        for (text, expected) in [
            ("", "F is damaged: it is empty"),
            (r#"{"schema": 1"#, "F is damaged: EOF while parsing an object at line 1 column 12"),
            ("{}", "F is damaged: it has no \"schema\""),
            (r#"{"schema": 0}"#, "F is damaged: there is no schema 0"),
            (
                r#"{"schema": 2}"#,
                "F has schema 2, and this version reads schemas up to 1: a newer weft wrote it",
            ),
        ] {
            assert_eq!(outcome(text).unwrap_err(), expected);
        }
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read::<Value>(&pipe).unwrap_err().to_string().ends_with("is damaged: it is no file"));
        assert!(read::<Value>(&dir.path().join("absent")).unwrap().is_none());
    }
}
