//! Interface names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};

/// A network interface name: 1 to 15 bytes, no `/`, `:`, `%`, whitespace or control character, not `.` or `..`.
///
/// KERNEL: `dev_valid_name` (net/core/dev.c) refuses all of these but `%`, which `dev_alloc_name`
/// would take as a template (`%d`), and control characters, which no tool can print.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

/// Why a text is not an interface name. The texts are those of the CNI reference implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IfNameError {
    /// The name is empty.
    #[error("interface name is empty")]
    Empty,
    /// The name has more than 15 bytes.
    #[error("interface name is too long")]
    TooLong(String),
    /// The name is `.` or `..`.
    #[error("interface name is . or ..")]
    Reserved(String),
    /// The name has a character the kernel refuses.
    #[error("interface name contains / or : or whitespace characters")]
    Forbidden {
        /// The name as given.
        name: String,
        /// The first bad character.
        bad: char,
    },
    /// The name has a character the kernel accepts and nobody can use.
    #[error("interface name contains % or control characters")]
    Unusable {
        /// The name as given.
        name: String,
        /// The first bad character.
        bad: char,
    },
}

impl IfName {
    /// The longest name the kernel takes, in bytes (IFNAMSIZ less its NUL).
    pub const MAX: usize = 15;

    /// Returns the loopback interface's name.
    pub fn loopback() -> Self {
        Self("lo".into())
    }

    /// Returns `bwp` and 12 hex digits that follow from `key`: what the reference `bandwidth` plugin calls a link.
    ///
    /// CNI: plugins/pkg/utils, FormatHashWithPrefix: the first digits of the key's SHA-512.
    pub fn ifb(key: &str) -> Self {
        Self(["bwp", &hex::encode(&Sha512::digest(key)[..6])].concat())
    }

    /// Returns `veth` and 11 hex digits that follow from `key`: the same key gives the same name, always.
    pub fn derived(key: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in key {
            hash.update(part);
            hash.update([0]);
        }
        let mut name = ["veth", &hex::encode(&hash.finalize()[..6])].concat();
        name.truncate(Self::MAX);
        Self(name)
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, IfNameError> {
        match text {
            "" => return Err(IfNameError::Empty),
            _ if text.len() > Self::MAX => return Err(IfNameError::TooLong(text.into())),
            "." | ".." => return Err(IfNameError::Reserved(text.into())),
            _ => {}
        }
        if let Some(bad) = text.chars().find(|c| matches!(c, '/' | ':') || c.is_whitespace()) {
            return Err(IfNameError::Forbidden { name: text.into(), bad });
        }
        if let Some(bad) = text.chars().find(|c| *c == '%' || c.is_control()) {
            return Err(IfNameError::Unusable { name: text.into(), bad });
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for IfName {
    type Error = IfNameError;

    fn try_from(text: String) -> Result<Self, IfNameError> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_takes_are_accepted() {
        for name in ["lo", "eth0", "br-0123456789ab", "cni0.100", "ö", "a-b_c"] {
            assert_eq!(name.parse::<IfName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_the_kernel_refuses_are_refused() {
        let table = [
            ("", "interface name is empty"),
            ("1234567890123456", "interface name is too long"),
            ("ööööööööö", "interface name is too long"),
            (".", "interface name is . or .."),
            ("..", "interface name is . or .."),
            ("a/b", "interface name contains / or : or whitespace characters"),
            ("a:b", "interface name contains / or : or whitespace characters"),
            ("a b", "interface name contains / or : or whitespace characters"),
            ("a\u{a0}b", "interface name contains / or : or whitespace characters"),
            ("veth%d", "interface name contains % or control characters"),
            ("a\u{1}b", "interface name contains % or control characters"),
        ];
        for (name, why) in table {
            assert_eq!(name.parse::<IfName>().unwrap_err().to_string(), why, "{name:?}");
        }
    }
}
