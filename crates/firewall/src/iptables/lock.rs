//! One writer at a time.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::FirewallError;

/// Proof that nobody else of ours changes iptables' rules.
///
/// iptables has a lock of its own, but only for a single program's run. What we write follows from what
/// we have read, so nobody must write in between.
#[derive(Debug)]
pub(crate) struct Writer {
    // Held for its end: closing the file lets the next writer in.
    _file: File,
}

impl Writer {
    /// Waits until nobody else writes. The lock's file is among the claims.
    pub(crate) fn alone(claims: &Path) -> Result<Self, FirewallError> {
        let path = claims.join("iptables/lock");
        let open = || -> io::Result<File> {
            fs::create_dir_all(claims.join("iptables"))?;
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            loop {
                match file.lock() {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    outcome => return outcome.map(|()| file),
                }
            }
        };
        open().map(|file| Self { _file: file }).map_err(|source| FirewallError::Claim { path, source })
    }
}
