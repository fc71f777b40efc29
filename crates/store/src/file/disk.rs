//! The files of a store, and what may be done with them under its lock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_overlay::ids::random_bytes;
use weft_overlay::{Entry, Event, Listing};
use weft_state::atomic::{self, Durability, TEMPORARY};
use weft_state::lock::FileLock;
use weft_state::time::milliseconds;
use weft_state::{StateError, document};

use crate::{Compare, LeaseId, Op, Outcome, StoreError};

/// So many changes are remembered for watches that begin late.
const REMEMBERED: i64 = 1000;

/// The directory of a store.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// Whether there may be none yet, and it is made then.
    founding: bool,
}

/// `store.json`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    schema: u64,
    /// Which store it is.
    pub(super) id: u64,
    /// The revision of the last transaction.
    pub(super) revision: i64,
    /// Changes before this revision are forgotten.
    pub(super) compacted: i64,
}

/// `data/<key>.json`.
#[derive(Serialize, Deserialize)]
struct Data {
    schema: u64,
    key: String,
    created: i64,
    modified: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<i64>,
    value: String,
}

/// `log/<revision>.json`.
#[derive(Serialize, Deserialize)]
struct Committed {
    schema: u64,
    revision: i64,
    changes: Vec<Change>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Put(Data),
    Delete(String),
}

/// `leases/<id>.json`.
#[derive(Serialize, Deserialize)]
struct Lease {
    schema: u64,
    id: i64,
    /// Milliseconds.
    ttl: u64,
    /// Milliseconds since 1970.
    until: u64,
}

/// The store under its lock.
pub(super) struct Locked<'disk> {
    disk: &'disk Disk,
    header: Header,
    _lock: FileLock,
}

impl Disk {
    pub(super) const fn new(dir: PathBuf, founding: bool) -> Self {
        Self { dir, founding }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until nobody else looks or changes anything; finishes what a killed process began, and ends what has run out.
    pub(super) fn alone(&self) -> Result<Locked<'_>, StoreError> {
        self.must_be_there()?;
        let lock = FileLock::exclusive(&checked(self.dir.join("lock"))?)?;
        let header = match read(&self.dir.join("store.json"))? {
            Some(header) => header,
            None => self.create()?,
        };
        let mut locked = Locked { disk: self, header, _lock: lock };
        locked.finish()?;
        locked.expire()?;
        Ok(locked)
    }

    /// As [`Disk::alone`] when there is something to finish or to end, and else beside others who only look.
    pub(super) fn fresh(&self) -> Result<Locked<'_>, StoreError> {
        self.must_be_there()?;
        let lock = FileLock::shared(&checked(self.dir.join("lock"))?)?;
        if let Some(header) = read(&self.dir.join("store.json"))? {
            let locked = Locked { disk: self, header, _lock: lock };
            if !locked.log(locked.header.revision + 1).exists() && locked.overdue()?.is_empty() {
                return Ok(locked);
            }
        }
        self.alone()
    }

    /// Refuses to make another store where one was: its file system may not be mounted.
    fn must_be_there(&self) -> Result<(), StoreError> {
        if self.founding || self.header()?.is_some() {
            return Ok(());
        }
        let store = format!("the store in {}", self.dir.display());
        Err(StoreError::Unreachable { store, reason: "there is no store.json".into() })
    }

    fn create(&self) -> Result<Header, StoreError> {
        for dir in ["data", "log", "leases"] {
            atomic::create_dir(&self.dir.join(dir), 0o700)?;
        }
        let [a, b, c, d, e, f, g, h, ..] = random_bytes();
        // Revision 1 is that of an empty store, as in etcd.
        let header = Header {
            schema: document::SCHEMA,
            id: u64::from_ne_bytes([a, b, c, d, e, f, g, h]) | 1,
            revision: 1,
            compacted: 0,
        };
        self.write_header(header)?;
        Ok(header)
    }

    fn write_header(&self, header: Header) -> Result<(), StoreError> {
        Ok(document::write(&self.dir.join("store.json"), &header, Durability::Disk)?)
    }

    /// Reads the header without a lock: it is written last.
    pub(super) fn header(&self) -> Result<Option<Header>, StoreError> {
        read(&self.dir.join("store.json"))
    }

    /// Reads the changes of a revision; `None` when they are forgotten.
    pub(super) fn changes(&self, revision: i64) -> Result<Option<Vec<Event>>, StoreError> {
        let Some(committed) = read::<Committed>(&self.log(revision))? else { return Ok(None) };
        let event = |change| match change {
            Change::Put(data) => Event::Put(data.entry()),
            Change::Delete(key) => Event::Delete { key, revision },
        };
        Ok(Some(committed.changes.into_iter().map(event).collect()))
    }

    /// Returns when the next lease runs out.
    pub(super) fn next_expiry(&self) -> Result<Option<Duration>, StoreError> {
        let next = self.leases()?.into_iter().map(|lease| lease.until).min();
        Ok(next.map(|until| Duration::from_millis(until.saturating_sub(milliseconds()))))
    }

    fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let mut leases = Vec::new();
        for path in files(&self.dir.join("leases"))? {
            leases.extend(read::<Lease>(&path)?);
        }
        Ok(leases)
    }

    fn log(&self, revision: i64) -> PathBuf {
        self.dir.join(format!("log/{revision:020}.json"))
    }

    fn data(&self, key: &str) -> PathBuf {
        self.dir.join(format!("data/{}.json", encoded(key)))
    }
}

impl Data {
    fn entry(self) -> Entry {
        let Self { key, created, modified, value, .. } = self;
        Entry { key, value: value.into_bytes(), created, modified }
    }
}

impl Locked<'_> {
    fn log(&self, revision: i64) -> PathBuf {
        self.disk.log(revision)
    }

    pub(super) const fn header(&self) -> Header {
        self.header
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let mut entries: Vec<Entry> = self.all(prefix)?.into_iter().map(Data::entry).collect();
        entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(Listing { entries, revision: self.header.revision, store: self.header.id })
    }

    pub(super) fn entry(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.read(key)?.map(Data::entry))
    }

    pub(super) fn txn(&mut self, compares: &[Compare], ops: &[Op]) -> Result<Outcome, StoreError> {
        for compare in compares {
            let found = self.read(compare.key())?;
            let holds = match compare {
                Compare::Absent(_) => found.is_none(),
                Compare::Present(_) => found.is_some(),
                Compare::Modified(_, revision) => found.is_some_and(|data| data.modified == *revision),
            };
            if !holds {
                return Ok(Outcome::Conflict);
            }
        }
        let revision = self.header.revision + 1;
        let mut changes = Vec::new();
        for op in ops {
            let found = self.read(op.key())?;
            match op {
                Op::Delete(key) => changes.extend(found.map(|_| Change::Delete(key.clone()))),
                Op::Put { key, value, lease } => {
                    let value = String::from_utf8(value.clone())
                        .map_err(|_| self.invalid("a value that is no text"))?;
                    if lease.is_some_and(|lease| !self.lease_path(lease).exists()) {
                        return Err(StoreError::NoLease(lease.map_or(0, |lease| lease.0)));
                    }
                    changes.push(Change::Put(Data {
                        schema: document::SCHEMA,
                        key: key.clone(),
                        created: found.map_or(revision, |data| data.created),
                        modified: revision,
                        lease: lease.map(|lease| lease.0),
                        value,
                    }));
                }
            }
        }
        self.commit(changes)
    }

    pub(super) fn lease(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let [a, b, c, d, e, f, g, h, ..] = random_bytes();
        let id = LeaseId((u64::from_ne_bytes([a, b, c, d, e, f, g, h]) >> 1).cast_signed());
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.write_lease(Lease {
            schema: document::SCHEMA,
            id: id.0,
            ttl,
            until: milliseconds().saturating_add(ttl),
        })?;
        Ok(id)
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let lease: Option<Lease> = read(&self.lease_path(id))?;
        let lease = lease.ok_or(StoreError::NoLease(id.0))?;
        self.write_lease(Lease { until: milliseconds().saturating_add(lease.ttl), ..lease })
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let keys = self.all("")?.into_iter().filter(|data| data.lease == Some(id.0));
        let changes = keys.map(|data| Change::Delete(data.key)).collect();
        self.commit(changes)?;
        remove(&self.lease_path(id))
    }

    pub(super) fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        if revision > self.header.revision {
            return Err(self.invalid("compact to a revision that is to come"));
        }
        if revision <= self.header.compacted {
            return Err(self.invalid("compact to a revision that is forgotten already"));
        }
        self.header.compacted = revision;
        self.disk.write_header(self.header)?;
        self.forget()
    }

    /// Writes a transaction down, which commits it, and carries it out.
    fn commit(&mut self, changes: Vec<Change>) -> Result<Outcome, StoreError> {
        if changes.is_empty() {
            return Ok(Outcome::Committed(self.header.revision));
        }
        let revision = self.header.revision + 1;
        let committed = Committed { schema: document::SCHEMA, revision, changes };
        document::write(&self.log(revision), &committed, Durability::Disk)?;
        self.finish()?;
        Ok(Outcome::Committed(revision))
    }

    /// Carries out what is committed.
    fn finish(&mut self) -> Result<(), StoreError> {
        while let Some(committed) = read::<Committed>(&self.log(self.header.revision + 1))? {
            for change in &committed.changes {
                match change {
                    Change::Put(data) => document::write(&self.disk.data(&data.key), data, Durability::Disk)?,
                    Change::Delete(key) => remove(&self.disk.data(key))?,
                }
            }
            self.header.revision += 1;
            self.header.compacted = self.header.compacted.max(self.header.revision - REMEMBERED);
            self.disk.write_header(self.header)?;
            self.forget()?;
        }
        Ok(())
    }

    /// Removes transactions that are not remembered any more.
    fn forget(&self) -> Result<(), StoreError> {
        let kept = self.log(self.header.compacted);
        for path in files(&self.disk.dir.join("log"))? {
            if path < kept {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn expire(&mut self) -> Result<(), StoreError> {
        for lease in self.overdue()? {
            self.revoke(lease)?;
        }
        Ok(())
    }

    fn overdue(&self) -> Result<Vec<LeaseId>, StoreError> {
        let now = milliseconds();
        let leases = self.disk.leases()?.into_iter();
        Ok(leases.filter(|lease| lease.until <= now).map(|lease| LeaseId(lease.id)).collect())
    }

    fn read(&self, key: &str) -> Result<Option<Data>, StoreError> {
        read(&self.disk.data(key))
    }

    fn all(&self, prefix: &str) -> Result<Vec<Data>, StoreError> {
        let prefix = encoded(prefix);
        let mut all = Vec::new();
        for path in files(&self.disk.dir.join("data"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(&prefix) {
                all.extend(read::<Data>(&path)?);
            }
        }
        Ok(all)
    }

    fn lease_path(&self, id: LeaseId) -> PathBuf {
        self.disk.dir.join(format!("leases/{:016x}.json", id.0))
    }

    fn write_lease(&self, lease: Lease) -> Result<(), StoreError> {
        Ok(document::write(&self.lease_path(LeaseId(lease.id)), &lease, Durability::Boot)?)
    }

    fn invalid(&self, reason: &str) -> StoreError {
        StoreError::Invalid { store: format!("file {}", self.disk.dir.display()), reason: reason.into() }
    }
}

/// Returns a file name for a key; that of a longer key begins with that of a shorter one it begins with.
fn encoded(key: &str) -> String {
    let mut name = String::new();
    for (place, byte) in key.bytes().enumerate() {
        match byte {
            b'/' => name.push(','),
            // A name that begins with a dot is a temporary file's.
            b'.' if place == 0 => name.push_str("%2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b':' | b'-' | b'_' => name.push(byte.into()),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name
}

/// Reads a document; a missing file is `None`.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    Ok(document::read(path)?)
}

/// Refuses what is there and is no file: opening a pipe waits for whoever is at its other end.
fn checked(path: PathBuf) -> Result<PathBuf, StateError> {
    match fs::metadata(&path) {
        Ok(found) if !found.is_file() => Err(StateError::Damaged { path, reason: "it is no file".into() }),
        _ => Ok(path),
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir).map_err(StateError::io("read", dir)) {
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StateError::io("read", dir))?;
        if !entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path).map_err(StateError::io("remove", path)) {
        Err(error) if !error.is_missing() => Err(error.into()),
        _ => Ok(()),
    }
}
