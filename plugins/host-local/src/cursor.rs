//! The address that was handed out last, in `last_reserved_ip.N`.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use weft_state::StateError;

/// The cursor of one range set.
#[derive(Debug)]
pub struct Cursor {
    path: PathBuf,
    file: Option<File>,
    length: usize,
    last: Option<IpAddr>,
}

impl Cursor {
    /// Opens the cursor of the range set with this number. Whatever is wrong with it, the search then
    /// begins at the start of the set.
    pub fn open(dir: &Path, set: usize) -> Self {
        let path = dir.join(format!("last_reserved_ip.{set}"));
        let file = File::options().read(true).write(true).open(&path).ok();
        let mut text = [0; 64];
        let length = file.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let last = str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
        Self { path, file, length, last }
    }

    /// Returns the last address, if there is one.
    pub fn last(&self) -> Option<IpAddr> {
        self.last
    }

    /// Moves the cursor.
    ///
    /// The text is written over the old one. Truncating the file to nothing first, as the reference plugin
    /// does, makes ext4 write it to the disk at once when it is closed, which takes a millisecond. Only what
    /// is left of a longer text is cut off, because the reference plugin takes the file as it is.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub fn set(&mut self, address: IpAddr) -> Result<(), StateError> {
        let text = address.to_string();
        let write = |cursor: &mut Self| -> io::Result<()> {
            let file = match cursor.file.take() {
                Some(file) => file,
                None => {
                    File::options().write(true).create(true).truncate(false).mode(0o600).open(&cursor.path)?
                }
            };
            file.write_all_at(text.as_bytes(), 0)?;
            if text.len() < cursor.length {
                file.set_len(text.len() as u64)?;
            }
            cursor.file = Some(file);
            Ok(())
        };
        write(self).map_err(StateError::io("write", &self.path))?;
        (self.length, self.last) = (text.len(), Some(address));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use weft_state::atomic::{self, Durability};

    use super::*;

    #[test]
    fn a_shorter_address_leaves_nothing_of_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut cursor = Cursor::open(dir.path(), 3);
        assert_eq!(cursor.last(), None);
        for text in ["10.1.2.100", "10.1.3.1", "10.1.2.99", "fd00::1234:5678", "::1"] {
            cursor.set(text.parse().unwrap()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("last_reserved_ip.3")).unwrap(), text);
            cursor = Cursor::open(dir.path(), 3);
            assert_eq!(cursor.last().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_spoiled_cursor_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last_reserved_ip.0");
        for content in [&b""[..], b"\0\0\0\0", b"10.1", &[b'1'; 100]] {
            atomic::write(&path, content, Durability::Boot, 0o600).unwrap();
            assert_eq!(Cursor::open(dir.path(), 0).last(), None);
            Cursor::open(dir.path(), 0).set("10.0.0.2".parse().unwrap()).unwrap();
            assert_eq!(Cursor::open(dir.path(), 0).last(), Some("10.0.0.2".parse().unwrap()), "{content:?}");
        }
    }
}
