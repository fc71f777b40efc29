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
    load(path)?.map(|bytes| parse(path, &bytes)).transpose()
}

/// As [`read`], of a file that has a line for each state that something was in. The last one counts, if it was written to
/// its end.
///
/// # Errors
///
/// As [`read`].
pub fn read_last<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    load(path)?.map(|bytes| parse(path, last_line(&bytes))).transpose()
}

/// The last line that has an end; all of what has no such line.
fn last_line(bytes: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| *byte == b'\n';
    let Some(end) = bytes.iter().rposition(is_end) else { return bytes };
    let whole = &bytes[..end];
    &whole[whole.iter().rposition(is_end).map_or(0, |before| before + 1)..]
}

fn load(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match file::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) if file::is_refused(&error) => {
            Err(StateError::Damaged { path: path.into(), reason: error.to_string() })
        }
        Err(error) => Err(StateError::io("read", path)(error)),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, StateError> {
    let damaged = |reason: String| StateError::Damaged { path: path.into(), reason };
    if bytes.is_empty() {
        return Err(damaged("it is empty".into()));
    }
    let header: Header = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    match header.schema {
        Some(SCHEMA) => serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string())),
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
    atomic::write(path, &to_vec(path, document)?, durability, 0o600)
}

/// Returns a document as one line with its end.
///
/// # Errors
///
/// When it has no form in JSON.
pub(crate) fn line<T: Serialize>(path: &Path, document: &T) -> Result<Vec<u8>, StateError> {
    let mut line = to_vec(path, document)?;
    line.push(b'\n');
    Ok(line)
}

fn to_vec<T: Serialize>(path: &Path, document: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(document)
        .map_err(|error| StateError::Damaged { path: path.into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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

    #[test]
    fn of_many_lines_the_last_whole_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.json");
        let outcome = |text: &str| {
            atomic::write(&path, text.as_bytes(), Durability::Boot, 0o600).unwrap();
            read_last::<Value>(&path)
        };
        let (one, two) = (json!({"schema": 1, "x": 1}), json!({"schema": 1, "x": 2}));
        for (text, expected) in [
            (format!("{one}"), &one),
            (format!("{one}\n"), &one),
            (format!("{one}\n{{\"schema\": 1, \"x"), &one),
            (format!("{one}\n{two}"), &one),
            (format!("{one}\n{two}\n"), &two),
        ] {
            assert_eq!(outcome(&text).unwrap().as_ref(), Some(expected), "{text}");
        }
        for text in ["", "\n", "{\n", "{\"schema\": 1"] {
            assert!(matches!(outcome(text), Err(StateError::Damaged { .. })), "{text:?}");
        }
    }
}
