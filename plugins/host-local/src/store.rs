//! One network's lease directory, locked.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
use nix::sys::time::TimeSpec;
use weft_ipam::Taken;
use weft_model::NetworkName;
use weft_state::lock::FileLock;
use weft_state::{StateError, boot};

use crate::cursor::Cursor;
use crate::index::{Index, Lease, State};
use crate::key::{Key, mix};
use crate::scan::{self, rescan};

/// How many lease files that nobody needs are kept. Each takes a block of the disk.
const SPARES: usize = 64;

/// Where one network's leases are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The directory of lease files, laid out as the reference plugin does.
    pub dir: PathBuf,
    /// The directory of our own files. It is not inside the other, because the reference plugin looks for
    /// leases in all of that one; and no network can have its name, which begins with a dot.
    pub index: PathBuf,
    /// Whether a lease must be on the disk before it is handed out.
    pub sync: bool,
}

impl Location {
    /// Returns the place of a network's leases in a data directory.
    pub fn new(data_dir: &Path, network: &NetworkName, sync: bool) -> Self {
        let index = data_dir.join(".index").join(network.as_str());
        Self { dir: data_dir.join(network.as_str()), index, sync }
    }
}

/// The leases of one network. While it exists nobody else changes them: neither we nor the reference
/// plugin, which takes the same lock.
///
/// Call [`Store::finish`] at the end, also when something failed: without it the next operation has to read
/// every lease file.
#[derive(Debug)]
pub struct Store {
    location: Location,
    index: Index,
    /// The directory's inode number.
    inode: u64,
    /// Stands for this boot; 0 when it is not known.
    boot: u64,
    changed: bool,
    _lock: FileLock,
}

impl Store {
    /// Locks a network's leases; the first lease makes the directory.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made, locked or read.
    pub fn create(location: &Location) -> Result<Self, StateError> {
        // The mode is the one that the reference plugin gives the file.
        let lock = FileLock::exclusive_with_mode(&location.dir.join("lock"), 0o750)?;
        let boot = boot::id().map_or(0, |id| boot_number(&id));
        let facts = fs::metadata(&location.dir).map_err(StateError::io("read", &location.dir))?;
        let now = State { inode: facts.ino(), seconds: facts.mtime(), nanos: facts.mtime_nsec(), boot };
        let known = Index::open(&location.index.join("leases"));
        let location = location.clone();
        let (index, changed) = match known {
            Some((index, state)) if state == now && boot != 0 => (index, false),
            other => (rescan(&location, other.as_ref().map(|(index, _)| index))?, true),
        };
        Ok(Self { location, index, inode: now.inode, boot, changed, _lock: lock })
    }

    /// Locks a network's leases if there ever were any.
    ///
    /// # Errors
    ///
    /// When the directory cannot be locked or read.
    pub fn open(location: &Location) -> Result<Option<Self>, StateError> {
        match fs::metadata(&location.dir) {
            Ok(_) => Self::create(location).map(Some),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(StateError::io("read", &location.dir)(error)),
        }
    }

    /// Returns the leases of a holder: those made for this interface, or else those that were made for the
    /// container before lease files named interfaces.
    ///
    /// # Errors
    ///
    /// When a lease file cannot be read.
    pub fn leases_of(&mut self, key: &Key) -> Result<Vec<Lease>, StateError> {
        let leases = self.leases_of_exactly(key)?;
        if leases.is_empty() { self.leases_of_exactly(&key.without_ifname()) } else { Ok(leases) }
    }

    fn leases_of_exactly(&mut self, key: &Key) -> Result<Vec<Lease>, StateError> {
        if let Some(leases) = self.confirmed(key)? {
            return Ok(leases);
        }
        self.refresh()?;
        Ok(self.confirmed(key)?.unwrap_or_default())
    }

    /// Returns what the index says about a holder, or `None` when the files say otherwise.
    fn confirmed(&self, key: &Key) -> Result<Option<Vec<Lease>>, StateError> {
        let Ok(leases) = self.index.of_holder(key.hash()) else { return Ok(None) };
        let mut confirmed = Vec::with_capacity(leases.len());
        for lease in leases {
            match scan::holder(&self.path(lease.address))? {
                Some(found) if found == *key => confirmed.push(lease),
                // Two keys with one number: this lease is the other's.
                Some(found) if found.hash() == lease.holder => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(confirmed))
    }

    /// Returns who holds an address.
    ///
    /// # Errors
    ///
    /// When the lease file cannot be read.
    pub fn holder(&self, address: IpAddr) -> Result<Option<Key>, StateError> {
        scan::holder(&self.path(address))
    }

    /// Leases an address that is free, as far as is known. Returns whether it really was.
    ///
    /// # Errors
    ///
    /// When the lease cannot be written, for instance because the disk is full. There is then none.
    pub fn reserve(&mut self, address: IpAddr, key: &Key) -> Result<bool, StateError> {
        let path = self.path(address);
        let Some(file) = self.write(&path, key).map_err(StateError::io("write", &path))? else {
            // Somebody made a lease without taking the lock.
            self.refresh()?;
            return Ok(false);
        };
        self.changed = true;
        let written = scan::written(&file).unwrap_or(0);
        let lease = Lease { holder: key.hash(), address, boot: self.boot, written };
        if self.index.insert(&lease).is_err() {
            self.refresh()?;
        }
        Ok(true)
    }

    /// Gives a lease back.
    ///
    /// # Errors
    ///
    /// When its file cannot be removed.
    pub fn release(&mut self, lease: &Lease) -> Result<(), StateError> {
        let path = self.path(lease.address);
        self.changed = true;
        if !self.keep(&path) {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StateError::io("remove", &path)(error)),
            }
        }
        match self.index.remove(lease.holder, lease.address) {
            Ok(()) => Ok(()),
            Err(_) => self.refresh(),
        }
    }

    /// Returns every lease.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn leases(&mut self) -> Result<Vec<Lease>, StateError> {
        if let Ok(leases) = self.index.leases() {
            return Ok(leases);
        }
        self.refresh()?;
        self.index.leases().map_err(StateError::io("read", &self.location.dir))
    }

    /// Returns the lease of an address.
    ///
    /// # Errors
    ///
    /// When the lease file cannot be read.
    pub fn lease_at(&mut self, address: IpAddr) -> Result<Option<Lease>, StateError> {
        let Some(key) = self.holder(address)? else { return Ok(None) };
        let leases = self.leases_of_exactly(&key)?;
        Ok(leases.into_iter().find(|lease| lease.address == address))
    }

    /// Returns whether the holder of a lease ended with a boot that is over.
    ///
    /// That is certain only of a lease that we made, whose file is still the one we wrote, and on a disk
    /// of this machine: on one that several machines share, the boot may be another's and not over.
    pub fn is_dead(&self, lease: &Lease) -> bool {
        let other_boot = lease.boot != 0 && self.boot != 0 && lease.boot != self.boot;
        let same_file = || {
            let file = File::open(self.path(lease.address)).ok();
            file.and_then(|file| scan::written(&file)) == Some(lease.written)
        };
        other_boot && is_local(&self.location.dir) && same_file()
    }

    /// Returns the leases that are dead.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn dead(&mut self) -> Result<Vec<Lease>, StateError> {
        let mut leases = self.leases()?;
        leases.retain(|lease| self.is_dead(lease));
        Ok(leases)
    }

    /// Forgets the index and reads every lease file.
    ///
    /// # Errors
    ///
    /// When the directory or a lease file cannot be read.
    pub fn refresh(&mut self) -> Result<(), StateError> {
        self.index = rescan(&self.location, Some(&self.index))?;
        self.changed = true;
        Ok(())
    }

    /// Opens the cursor of a range set.
    pub fn cursor(&self, set: usize) -> Cursor {
        Cursor::open(&self.location.dir, set)
    }

    /// Makes the index describe the directory as it is now, and lets the next one in.
    ///
    /// # Errors
    ///
    /// When the directory must be on the disk and cannot be put there.
    pub fn finish(mut self) -> Result<(), StateError> {
        if !self.changed {
            return Ok(());
        }
        let dir = &self.location.dir;
        if self.location.sync {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(StateError::io("write", dir))?;
        }
        // A past moment in whole seconds: whatever the clock's grain, nobody's change looks like it.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let seconds = i64::try_from(now).unwrap_or(0) - 2;
        let state = State { inode: self.inode, seconds, nanos: 0, boot: self.boot };
        // Without an index the next operation takes longer and does the same.
        if self.boot != 0 && self.index.save(&self.location.index.join("leases"), &state).is_ok() {
            let time = TimeSpec::new(seconds, 0);
            utimensat(AT_FDCWD, dir, &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::FollowSymlink).ok();
        }
        Ok(())
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.location.dir.join(address.to_string())
    }

    /// Writes a lease file that is whole from its first moment on; `None` when there is one already.
    fn write(&mut self, path: &Path, key: &Key) -> io::Result<Option<File>> {
        let (source, file) = self.blank()?;
        let named = self.fill(file, key).and_then(|file| {
            renameat2(AT_FDCWD, &source, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE)?;
            Ok(file)
        });
        let error = match named {
            Ok(file) => return Ok(Some(file)),
            Err(error) => error,
        };
        fs::remove_file(&source)?;
        match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(None),
            _ if may_replace(&error) => self.write_in_place(path, key),
            _ => Err(error),
        }
    }

    /// Returns a file of ours that is to become a lease, and its name.
    ///
    /// KERNEL: ext4 does not give out an inode again for minutes after its file was removed, and steps over
    /// all of these one by one to find another (`recently_deleted`, fs/ext4/ialloc.c). With containers that
    /// come and go, making a file takes 0.4 ms, and writing over an old one next to nothing.
    fn blank(&mut self) -> io::Result<(PathBuf, File)> {
        if let Some(last) = self.index.spares.checked_sub(1) {
            let path = self.spare(last);
            self.index.spares = last;
            match File::options().write(true).open(&path) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.index.spares = 0,
                Err(error) => return Err(error),
            }
        }
        let path = self.location.index.join("new");
        create(&path).map(|file| (path, file))
    }

    /// Keeps the file of a lease that was given back, if there are not enough of them already.
    fn keep(&mut self, path: &Path) -> bool {
        let kept = self.index.spares < SPARES && fs::rename(path, self.spare(self.index.spares)).is_ok();
        self.index.spares += usize::from(kept);
        kept
    }

    fn spare(&self, number: usize) -> PathBuf {
        self.location.index.join(format!("{}{number}", scan::SPARE))
    }

    /// Writes a lease file where it belongs, on a file system that cannot give it its name later. One that a kill leaves empty is
    /// found by the next scan.
    fn write_in_place(&self, path: &Path, key: &Key) -> io::Result<Option<File>> {
        let file = match File::options().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            other => other?,
        };
        let filled = self.fill(file, key);
        if filled.is_err() {
            fs::remove_file(path)?;
        }
        filled.map(Some)
    }

    fn fill(&self, mut file: File, key: &Key) -> io::Result<File> {
        let content = key.content();
        file.write_all(content)?;
        // What an earlier holder's longer name leaves behind.
        if file.metadata()?.len() != content.len() as u64 {
            file.set_len(content.len() as u64)?;
        }
        if self.location.sync {
            file.sync_all()?;
        }
        Ok(file)
    }
}

impl Taken for Store {
    type Error = StateError;

    fn first_free(&mut self, first: IpAddr, last: IpAddr) -> Result<Option<IpAddr>, StateError> {
        if let Ok(free) = self.index.first_free(first, last) {
            return Ok(free);
        }
        self.refresh()?;
        self.index.first_free(first, last).map_err(StateError::io("read", &self.location.dir))
    }
}

/// Creates a file of our own, and the directory for it when this is the first.
fn create(path: &Path) -> io::Result<File> {
    let attempt = || File::options().write(true).create_new(true).mode(0o600).open(path);
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            attempt()
        }
        // Somebody was killed here. It may be a lease by now, so it must not be written to.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            attempt()
        }
        other => other,
    }
}

/// Returns whether a file system cannot give a file a name only if nobody has it: EINVAL, as of NFS.
fn may_replace(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), CrossesDevices | InvalidInput | PermissionDenied | Unsupported)
}

/// Returns whether a directory is on a disk that belongs to one machine.
pub(crate) fn is_local(dir: &Path) -> bool {
    let kind = statfs(dir).map(|facts| facts.filesystem_type());
    kind.is_ok_and(|kind| [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&kind))
}

/// Returns a number that stands for a boot id.
fn boot_number(id: &str) -> u64 {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    mix(u64::from_str_radix(&digits, 16).unwrap_or(0)).max(1)
}

#[cfg(test)]
pub(crate) mod tests;
