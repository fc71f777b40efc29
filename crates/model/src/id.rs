//! Container ids, network names and network ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a container id or a network name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text has a character outside the CNI grammar.
    #[error(
        "{0:?} has characters other than letters, digits, `_`, `.` and `-`, or does not start with a letter or digit"
    )]
    Invalid(String),
    /// The text does not fit into a file name.
    #[error("{0:?} is longer than 200 bytes")]
    TooLong(String),
}

/// The longest id, in bytes: ids become parts of file names (NAME_MAX is 255, and the CNI cache joins three).
const MAX: usize = 200;

/// CNI: the grammar of container ids and network names, `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$` (SPEC 1.1.0, section 2).
fn check(text: &str) -> Result<String, IdError> {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    match text.chars().next() {
        None => Err(IdError::Empty),
        Some(first) if !first.is_ascii_alphanumeric() || !text.chars().all(ok) => {
            Err(IdError::Invalid(text.into()))
        }
        Some(_) if text.len() > MAX => Err(IdError::TooLong(text.into())),
        Some(_) => Ok(text.into()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                check(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A container id as a CNI runtime gives it.
    ContainerId
}

id! {
    /// A network's name.
    NetworkName
}

/// A network's id: 32 random bytes, written as 64 hex digits and shown as 12.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkId([u8; 32]);

/// A text is not 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network id: 64 hex digits are expected")]
pub struct NetworkIdError(String);

impl NetworkId {
    /// Returns the id made of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the first 12 hex digits, the form people see and type.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "NetworkId({self})")
    }
}

impl FromStr for NetworkId {
    type Err = NetworkIdError;

    fn from_str(text: &str) -> Result<Self, NetworkIdError> {
        let bad = || NetworkIdError(text.into());
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for NetworkId {
    type Error = NetworkIdError;

    fn try_from(text: String) -> Result<Self, NetworkIdError> {
        text.parse()
    }
}

impl From<NetworkId> for String {
    fn from(id: NetworkId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_cni_grammar() {
        for good in ["a", "0", "cnitool-77383ca0a0715733ca6f", "a_b.c-d", "A"] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "some-%%container-id", "ä", "a\n"] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(200).parse::<ContainerId>().is_ok());
        assert!("a".repeat(201).parse::<ContainerId>().is_err());
    }

    #[test]
    fn a_network_id_survives_printing() {
        let id = NetworkId::new([0xab; 32]);
        assert_eq!(id.to_string().parse::<NetworkId>().unwrap(), id);
        assert_eq!(id.short(), "abababababab");
        for bad in ["", "ab", &"AB".repeat(32), &"zz".repeat(32)] {
            assert!(bad.parse::<NetworkId>().is_err(), "{bad:?}");
        }
    }
}
