//! Locks as values: whoever has one may proceed, and dropping it lets the next one in.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{StateError, atomic};

/// A held `flock(2)`.
///
/// The file may be unlinked by an exclusive holder ([`FileLock::unlink`]). Whoever was waiting then holds
/// a lock on a file without a name, which locks out nobody. So every acquirer looks, once it has the
/// lock, whether the path still names what it locked, and starts again when it does not.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Waits until nobody else holds the lock in any way.
    ///
    /// # Errors
    ///
    /// Names `path` when it cannot be created or locked.
    pub fn exclusive(path: &Path) -> Result<Self, StateError> {
        Self::acquire(path, 0o600, File::lock)
    }

    /// As [`FileLock::exclusive`], for a lock file that others use too and expect to have this mode.
    ///
    /// # Errors
    ///
    /// Names `path` when it cannot be created or locked.
    pub fn exclusive_with_mode(path: &Path, mode: u32) -> Result<Self, StateError> {
        Self::acquire(path, mode, File::lock)
    }

    /// Waits until nobody holds the lock exclusively.
    ///
    /// # Errors
    ///
    /// Names `path` when it cannot be created or locked.
    pub fn shared(path: &Path) -> Result<Self, StateError> {
        Self::acquire(path, 0o600, File::lock_shared)
    }

    /// Takes the lock exclusively, or returns `None` when somebody holds it.
    ///
    /// # Errors
    ///
    /// Names `path` when it cannot be created or locked.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, StateError> {
        let attempt = |file: &File| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        };
        match Self::acquire(path, 0o600, attempt) {
            Ok(lock) => Ok(Some(lock)),
            Err(StateError::Io { cause, .. }) if cause.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the lock file and lets go. Only for a lock taken exclusively.
    ///
    /// # Errors
    ///
    /// Names the path when it cannot be removed.
    pub fn unlink(self) -> Result<(), StateError> {
        fs::remove_file(&self.path).map_err(StateError::io("remove", &self.path))
    }

    fn acquire(path: &Path, mode: u32, lock: impl Fn(&File) -> io::Result<()>) -> Result<Self, StateError> {
        loop {
            let file = open(path, mode)?;
            match lock(&file) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(StateError::io("lock", path)(error)),
            }
            let locked = file.metadata().map_err(StateError::io("lock", path))?;
            match fs::metadata(path) {
                Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {
                    return Ok(Self { file, path: path.into() });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StateError::io("lock", path)(error)),
            }
        }
    }
}

impl AsRef<File> for FileLock {
    fn as_ref(&self) -> &File {
        &self.file
    }
}

fn open(path: &Path, mode: u32) -> Result<File, StateError> {
    let attempt =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode).open(path);
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                atomic::create_dir(dir, 0o755)?;
            }
            attempt()
        }
        other => other,
    }
    .map_err(StateError::io("lock", path))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn shared_holders_keep_out_the_exclusive_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/lock");
        let one = FileLock::shared(&path).unwrap();
        let two = FileLock::shared(&path).unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop((one, two));
        let alone = FileLock::try_exclusive(&path).unwrap().unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(alone);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn whoever_waited_for_an_unlinked_file_locks_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let lock = FileLock::exclusive(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        lock.unlink().unwrap();
                    }
                });
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        let tried = Cell::new(0);
        for path in [file.join("lock"), dir.path().to_path_buf()] {
            let error = FileLock::exclusive(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            tried.set(tried.get() + 1);
        }
        assert_eq!(tried.get(), 2);
    }
}
