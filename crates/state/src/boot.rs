//! Which boot of this machine we are in.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use crate::StateError;

/// Returns the kernel's boot id: what was true under another one is void now.
///
/// # Errors
///
/// Names the file when `/proc` is not mounted.
pub fn id() -> Result<String, StateError> {
    // A process does not outlive its boot.
    static ID: OnceLock<String> = OnceLock::new();
    match ID.get() {
        Some(id) => Ok(id.clone()),
        None => read().map(|id| ID.get_or_init(|| id).clone()),
    }
}

fn read() -> Result<String, StateError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    // Read into a buffer of our own: asking a file in /proc for its size first is a wasted call.
    let mut text = [0; 64];
    let read =
        File::open(path).and_then(|mut file| file.read(&mut text)).map_err(StateError::io("read", path))?;
    Ok(String::from_utf8_lossy(&text[..read]).trim().into())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_id_is_a_uuid_and_stays() {
        let id = super::id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(id, super::id().unwrap());
    }
}
