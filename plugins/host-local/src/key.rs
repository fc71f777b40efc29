//! Who holds a lease, as lease files spell it.

use std::fmt;

use weft_model::{ContainerId, IfName};

/// An attachment as the content of a lease file: the container's id, then, since version 0.8 of the
/// reference plugin, CR LF and the interface's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Returns the key of an attachment.
    pub fn new(container: &str, ifname: &str) -> Self {
        Self(format!("{container}\r\n{ifname}"))
    }

    /// Returns the key of a file's content, or `None` when there is nothing in it.
    ///
    /// White space around the lines does not count, as for the reference plugin. Neither do NUL bytes:
    /// some file systems leave a file of those behind when the power fails.
    pub fn of_content(content: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(content);
        let blank = |c: char| c.is_whitespace() || c == '\0';
        let lines: Vec<&str> =
            text.lines().map(|line| line.trim_matches(blank)).filter(|line| !line.is_empty()).collect();
        (!lines.is_empty()).then(|| Self(lines.join("\r\n")))
    }

    /// Returns the key that a lease of this container has when it was made without an interface's name.
    pub fn without_ifname(&self) -> Self {
        Self(self.container().into())
    }

    /// Returns the container's id.
    pub fn container(&self) -> &str {
        self.0.split_once("\r\n").map_or(self.0.as_str(), |(container, _)| container)
    }

    /// Returns the interface's name, if the lease has one.
    pub fn ifname(&self) -> Option<&str> {
        self.0.split_once("\r\n").map(|(_, ifname)| ifname)
    }

    /// Returns whether this can be an attachment's at all, and not a note that somebody left in the directory.
    pub fn is_attachment(&self) -> bool {
        let ifname = self.ifname().is_none_or(|ifname| ifname.parse::<IfName>().is_ok());
        ifname && self.container().parse::<ContainerId>().is_ok()
    }

    /// Returns the content of a lease file.
    pub fn content(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns a number that stands for the key in the index.
    ///
    /// It is stored on disk, so it must not depend on the version of any library: FNV-1a, then the
    /// finalizer of MurmurHash3, because FNV's low bits alone are poor.
    pub fn hash(&self) -> u64 {
        let fnv = self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // The index has its own meaning for the smallest numbers.
        mix(fnv).max(crate::index::NOBODY + 1)
    }
}

/// Spreads every bit of a number over all of them.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ifname() {
            Some(ifname) => write!(out, "{} ({ifname})", self.container()),
            None => out.write_str(self.container()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_read_generously() {
        let key = Key::new("c1", "eth0");
        assert_eq!(key.content(), b"c1\r\neth0");
        for same in ["c1\r\neth0", " c1\r\neth0\r\n", "\tc1\neth0\n\n", "c1 \r\n eth0\0\0"] {
            assert_eq!(Key::of_content(same.as_bytes()).as_ref(), Some(&key), "{same:?}");
        }
        assert_eq!(Key::of_content(b"c1\n").unwrap(), key.without_ifname());
        for empty in ["", "\0\0\0\0", " \r\n "] {
            assert_eq!(Key::of_content(empty.as_bytes()), None);
        }
        assert!(Key::of_content(b"\xff\xfe").is_some());
    }

    #[test]
    fn notes_are_not_attachments() {
        for (content, expected) in [
            ("c1\r\neth0", true),
            ("c1", true),
            ("kept for the printer", false),
            ("c1\r\neth0\r\nmore", false),
            ("c1\r\nan interface", false),
        ] {
            assert_eq!(Key::of_content(content.as_bytes()).unwrap().is_attachment(), expected, "{content}");
        }
    }

    #[test]
    fn the_hash_on_disk_never_changes() {
        assert_eq!(Key::new("dummy", "eth0").hash(), 0x6fce_4308_dd42_513e);
    }
}
