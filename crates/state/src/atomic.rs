//! Files that appear complete or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::StateError;

/// What a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of any process. Enough for what a reboot makes void.
    Boot,
    /// A power loss: the file and its directory are flushed to the disk.
    Disk,
}

/// What the name of every temporary file starts with. Readers of a directory skip these.
pub const TEMPORARY: &str = ".weft-new-";

/// Replaces `path` by a file with these bytes and this mode, in one step.
///
/// Missing directories are made. A reader sees the old content or the new, whatever happens in between.
///
/// # Errors
///
/// Names `path` and the reason, for instance a full disk. The old content is then still there and the
/// temporary file is gone.
pub fn write(path: &Path, bytes: &[u8], durability: Durability, mode: u32) -> Result<(), StateError> {
    place(path, bytes, durability, mode).map(drop)
}

/// As [`write`], and returns the file, which is to be written on.
///
/// # Errors
///
/// As [`write`].
pub fn place(path: &Path, bytes: &[u8], durability: Durability, mode: u32) -> Result<File, StateError> {
    let attempt = || -> io::Result<File> {
        let (mut file, temporary) = create_beside(path, mode)?;
        fill(&mut file, bytes, durability).and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
            // The error being returned says more than a second one about the leftover would.
            drop(fs::remove_file(&temporary));
        })?;
        if durability == Durability::Disk {
            File::open(parent(path))?.sync_all()?;
        }
        Ok(file)
    };
    attempt().map_err(StateError::io("write", path))
}

/// Makes a directory and those above it.
///
/// # Errors
///
/// Names the directory and the reason.
pub fn create_dir(dir: &Path, mode: u32) -> Result<(), StateError> {
    DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(StateError::io("create", dir))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn fill(file: &mut File, bytes: &[u8], durability: Durability) -> io::Result<()> {
    file.write_all(bytes)?;
    match durability {
        Durability::Boot => Ok(()),
        Durability::Disk => file.sync_all(),
    }
}

/// Creates a file of a name nobody uses in the directory of `path`, which is made when missing.
fn create_beside(path: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let dir = parent(path);
    loop {
        let temporary = dir.join(temporary_name());
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            // A process of the same number in another PID namespace: the next name differs.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns a file name that no other process or thread makes up.
pub fn temporary_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.subsec_nanos());
    format!("{TEMPORARY}{}-{count}-{nanos:x}", process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;
    use crate::testing::tiny_tmpfs;

    fn names(dir: &Path) -> Vec<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_write_makes_directories_and_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c.json");
        write(&path, b"one", Durability::Boot, 0o600).unwrap();
        write(&path, b"two", Durability::Disk, 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(path.parent().unwrap()), ["c.json"]);
    }

    #[test]
    fn concurrent_writers_leave_one_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        thread::scope(|scope| {
            for byte in b'a'..b'i' {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        write(path, &[byte; 5000], Durability::Boot, 0o600).unwrap();
                        let seen = fs::read(path).unwrap();
                        assert_eq!(seen.len(), 5000);
                        assert!(seen.iter().all(|other| other == &seen[0]));
                    }
                });
            }
        });
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn a_full_disk_keeps_the_old_content_and_names_the_path() {
        tiny_tmpfs(|dir| {
            let path = dir.join("state.json");
            write(&path, b"old", Durability::Boot, 0o600).unwrap();
            let error = write(&path, &[b'x'; 1 << 20], Durability::Boot, 0o600).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot write {}: No space left", path.display())), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(names(dir), ["state.json"]);
        });
    }

    #[test]
    fn a_directory_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        let error = write(&path, b"x", Durability::Boot, 0o600).unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
    }
}
