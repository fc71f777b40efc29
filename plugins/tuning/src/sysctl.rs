//! Which sysctls may be set: none twice, and those on the administrator's list.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use regex_lite::RegexBuilder;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::ConfError;

/// How large the program of one expression may become, in bytes.
const EXPRESSION: usize = 1 << 18;

/// Refuses a configuration that names a sysctl twice: reading it keeps the last alone.
///
/// # Errors
///
/// If it does.
pub(crate) fn check_once(document: &[u8]) -> Result<(), ConfError> {
    let text = String::from_utf8_lossy(document);
    match serde_json::from_str::<Document>(&text) {
        Err(error) if error.to_string().starts_with(TWICE) => Err(ConfError::Twice),
        // Whatever else is wrong is told by who reads the rest.
        _ => Ok(()),
    }
}

const TWICE: &str = "duplicated";

/// A configuration, of which only `sysctl` is looked at.
struct Document;

/// An object without a key twice.
struct Once;

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Document;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                while let Some(key) = map.next_key::<String>()? {
                    if key.eq_ignore_ascii_case("sysctl") {
                        map.next_value::<Option<Once>>()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Document)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Once;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
                let mut seen = std::collections::BTreeSet::new();
                while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                    if !seen.insert(key) {
                        return Err(A::Error::custom(TWICE));
                    }
                }
                Ok(Once)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Refuses what the administrator's list does not allow. Without a list everything is.
///
/// CNI: a line is a regular expression, found anywhere in the name as it is written.
///
/// # Errors
///
/// If the list cannot be read, a line is no expression, or a name is not on it.
pub(crate) fn check_allowed(list: &Path, sysctl: &BTreeMap<String, String>) -> Result<(), ConfError> {
    let text = match std::fs::read_to_string(list) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ConfError::List { path: list.into(), reason: error.to_string() }),
        Ok(text) => text,
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let compile = |line: &&str| {
        let built = RegexBuilder::new(line).size_limit(EXPRESSION).build();
        let why = |error| ConfError::List { path: list.into(), reason: format!("{line:?}: {error}") };
        built.map_err(why)
    };
    let expressions = lines.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
    match sysctl.keys().find(|key| !expressions.iter().any(|one| one.is_match(key))) {
        Some(key) => Err(ConfError::NotAllowed(key.clone(), lines.join(" "))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_there_twice() {
        for (text, twice) in [
            (r#"{"sysctl": {"net.a": "1", "net.b": "1"}}"#, false),
            (r#"{"sysctl": {"net.a": "1", "net.a": "1"}}"#, true),
            (r#"{"SysCtl": {"net.a": "1", "net.b": {"x": 1}, "net.a": null}}"#, true),
            (r#"{"other": {"net.a": "1", "net.a": "1"}, "sysctl": null}"#, false),
            (r#"{"sysctl": 5}"#, false),
            ("[1", false),
        ] {
            assert_eq!(check_once(text.as_bytes()).is_err(), twice, "{text}");
        }
        assert_eq!(ConfError::Twice.to_string(), "duplicated sysctl keys are not allowed");
    }
}
