//! Locks as values: whoever has one may proceed, and dropping it lets the next one in.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

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
        Self::acquire(path, |path| open(path, 0o600), File::lock)
    }

    /// As [`FileLock::exclusive`], for a lock file of others too, who expect it to have this mode and never remove it.
    ///
    /// # Errors
    ///
    /// Names `path` when it cannot be created or locked.
    pub fn exclusive_for_good(path: &Path, mode: u32) -> Result<Self, StateError> {
        let file = open(path, mode)?;
        loop {
            match file.lock() {
                Ok(()) => return Ok(Self { file, path: path.into() }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StateError::io("lock", path)(error)),
            }
        }
    }

    /// Waits until nobody holds the lock exclusively.
    ///
    /// # Errors
    ///
    /// Names `path` when it cannot be created or locked.
    pub fn shared(path: &Path) -> Result<Self, StateError> {
        Self::acquire(path, |path| open(path, 0o600), File::lock_shared)
    }

    /// Takes the lock exclusively, or returns `None` when somebody holds it.
    ///
    /// # Errors
    ///
    /// Names `path` when it cannot be created or locked.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, StateError> {
        Self::attempt(path, |path| open(path, 0o600))
    }

    /// Takes the lock of a directory exclusively, or returns `None` when somebody holds it. Who writes into a directory alone
    /// needs no lock file beside it.
    ///
    /// # Errors
    ///
    /// Names `dir` when it cannot be created or locked.
    pub fn try_directory(dir: &Path) -> Result<Option<Self>, StateError> {
        Self::attempt(dir, open_directory)
    }

    /// Removes the directory if nothing is in it, and lets go. Only for [`FileLock::try_directory`].
    pub fn remove_if_empty(self) {
        // What stays is harmless: the next holder removes it.
        drop(fs::remove_dir(&self.path));
    }

    /// Removes the lock file and lets go. Only for a lock taken exclusively.
    ///
    /// # Errors
    ///
    /// Names the path when it cannot be removed.
    pub fn unlink(self) -> Result<(), StateError> {
        fs::remove_file(&self.path).map_err(StateError::io("remove", &self.path))
    }

    fn attempt(
        path: &Path,
        open: impl Fn(&Path) -> Result<File, StateError>,
    ) -> Result<Option<Self>, StateError> {
        let attempt = |file: &File| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        };
        match Self::acquire(path, open, attempt) {
            Ok(lock) => Ok(Some(lock)),
            Err(StateError::Io { cause, .. }) if cause.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn acquire(
        path: &Path,
        open: impl Fn(&Path) -> Result<File, StateError>,
        lock: impl Fn(&File) -> io::Result<()>,
    ) -> Result<Self, StateError> {
        loop {
            let file = open(path)?;
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

/// Opens a directory, which is made when missing.
fn open_directory(dir: &Path) -> Result<File, StateError> {
    loop {
        match DirBuilder::new().mode(0o755).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => atomic::create_dir(dir, 0o755)?,
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StateError::io("lock", dir)(error));
            }
            _ => {}
        }
        // No link: one that leads nowhere would be found and missing for ever.
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        match OpenOptions::new().read(true).custom_flags(flags).open(dir) {
            // Its last holder has removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(StateError::io("lock", dir)),
        }
    }
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
    fn the_lock_of_a_directory_goes_with_it_when_it_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/red");
        let lock = FileLock::try_directory(&path).unwrap().unwrap();
        assert!(FileLock::try_directory(&path).unwrap().is_none());
        File::create(path.join("eth0.json")).unwrap();
        lock.remove_if_empty();
        let lock = FileLock::try_directory(&path).unwrap().expect("the first holder has let go");
        fs::remove_file(path.join("eth0.json")).unwrap();
        lock.remove_if_empty();
        assert!(!path.exists());
    }

    #[test]
    fn who_finds_a_directory_removed_locks_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("red");
        let inside = AtomicU32::new(0);
        let taken = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Some(lock) = FileLock::try_directory(&path).unwrap() else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        lock.remove_if_empty();
                    }
                });
            }
        });
        assert!(taken.into_inner() > 1);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_directory_is_not_locked_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        File::create(&file).unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [file.clone(), file.join("red"), link] {
            let error = FileLock::try_directory(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
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
