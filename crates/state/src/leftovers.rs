//! Files that processes which were killed did not finish writing.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::{Root, StateError, atomic};

/// A file that is being written gets its name within milliseconds.
const AGE: Duration = Duration::from_secs(60);

/// Removes the temporary files in our directories that are older than a minute, and returns how many there were.
///
/// # Errors
///
/// The first that could not be removed, or directory that could not be read; the others are looked at all the same.
pub fn collect(root: &Root) -> Result<usize, StateError> {
    let before = SystemTime::now().checked_sub(AGE).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut swept = Swept { before, count: 0, first: Ok(()) };
    for dir in root.ours() {
        swept.dir(&dir);
    }
    swept.first.map(|()| swept.count)
}

struct Swept {
    before: SystemTime,
    count: usize,
    first: Result<(), StateError>,
}

impl Swept {
    fn dir(&mut self, dir: &Path) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            // Whoever removes a directory while we look has nothing left there.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return;
            }
            Err(error) => return self.note(StateError::io("read", dir)(error)),
        };
        for entry in entries.flatten() {
            // Links are not followed.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.dir(&entry.path());
            } else if self.is_leftover(&entry) {
                match fs::remove_file(entry.path()) {
                    Ok(()) => self.count += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => self.note(StateError::io("remove", &entry.path())(error)),
                }
            }
        }
    }

    fn is_leftover(&self, entry: &DirEntry) -> bool {
        let named = entry.file_name().as_encoded_bytes().starts_with(atomic::TEMPORARY.as_bytes());
        let written = || entry.metadata().and_then(|about| about.modified());
        named && written().is_ok_and(|written| written < self.before)
    }

    fn note(&mut self, error: StateError) {
        if self.first.is_ok() {
            self.first = Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_old_goes_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(Some(dir.path().into()));
        let file = |dir: &Path, name: String, age: u64| {
            fs::create_dir_all(dir).unwrap();
            let path = dir.join(name);
            let time = SystemTime::now() - Duration::from_secs(age);
            File::create(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let (owners, results) = (root.ports_dir().join("owners"), root.cni_results_dir());
        let [old, young] = [120, 1].map(|age| file(&owners, atomic::temporary_name(), age));
        let other = file(&results, atomic::temporary_name(), 120);
        let kept = file(&owners, "red,eth0.json".into(), 120);
        assert_eq!(collect(&root).unwrap(), 2);
        assert_eq!([&old, &young, &other, &kept].map(|path| path.exists()), [false, true, false, true]);
        assert_eq!(collect(&root).unwrap(), 0);
    }
}
