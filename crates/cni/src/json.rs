//! JSON the way Go's `encoding/json` reads and prints it.
//!
//! CNI: plugins have always been Go programs, and callers rely on what Go forgives. containerd, for one, sends
//! `HostPort` where the documentation says `hostPort`. So the keys of a struct match in any case, at every depth; a
//! null is as good as an absent key; and what is printed is indented by four and escapes `<`, `>` and `&`.
//!
//! Of several spellings of one key of a structure the last in the text wins; in what is a map, or may be one, all stay. An
//! untagged or internally tagged enum, and a flattened field, are buffered by serde before we see what they want, so keys
//! inside them must match exactly.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter};

mod fold;
mod read;

use fold::Fold;

/// Why a value is not what was wanted, and where in the document.
#[derive(Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The way from the document's root, such as `plugins[0].mtu`; empty for the root itself.
    path: String,
    what: String,
}

impl std::error::Error for JsonError {}

impl std::fmt::Display for JsonError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.what)
    }
}

impl JsonError {
    /// Returns the way from the document's root to the bad value.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the error as seen from the object that holds the bad value under `key`.
    #[must_use]
    pub fn under(mut self, key: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{key}{dot}{}", self.path);
        self
    }

    /// Returns the error as seen from the list that holds the bad value at `index`.
    #[must_use]
    pub fn at(self, index: usize) -> Self {
        self.under(&format!("[{index}]"))
    }

    fn new(what: impl Into<String>) -> Self {
        Self { path: String::new(), what: what.into() }
    }
}

/// Reads a document. Bytes that are no UTF-8 become U+FFFD; anything after the document is an error. Of keys that differ in
/// case alone the last one is left where they name the fields of a structure; what may be a map stays as it is.
///
/// # Errors
///
/// When `bytes` is not JSON.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    };
    read::read(&text).map_err(|error| JsonError::new(error.to_string()))
}

/// Reads a `T` out of a value.
///
/// # Errors
///
/// When the value is not a `T`; says where.
pub fn from_value<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, JsonError> {
    T::deserialize(Fold(value))
}

/// Reads a `T` out of a document.
///
/// # Errors
///
/// When `bytes` is not JSON or not a `T`; says where.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    from_value(&parse(bytes)?)
}

/// Returns the value under `key` in any case; in a value that was not [`parse`]d an exact match is preferred. A null
/// counts as absent.
pub fn get<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    entry(object, key).filter(|value| !value.is_null())
}

/// Like [`get`], for the rare key where null and absent differ.
pub fn entry<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let object = object.as_object()?;
    object.get(key).or_else(|| {
        object.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
    })
}

/// Prints a value as Go's `MarshalIndent` with four spaces does. There is no newline at the end.
pub fn pretty(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(1024);
    let formatter = GoStyle(PrettyFormatter::with_indent(b"    "));
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        // INVARIANT: what we print are structs and maps with string keys; those always serialise.
        Err(_) => String::new(),
    }
}

struct GoStyle<'a>(PrettyFormatter<'a>);

impl Formatter for GoStyle<'_> {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(at) = rest.find(special) {
            let (plain, tail) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                write!(out, "\\u{:04x}", u32::from(c))?;
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }

    fn begin_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

#[cfg(test)]
mod tests;
