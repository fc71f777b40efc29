//! A store in a directory of one host.
//!
//! ```text
//! lock                    flock(2): alone to change, shared to list
//! store.json              which store, its revision, and from which one on changes are remembered
//! log/<revision>.json     a transaction: writing it is committing it
//! data/<key>.json         a key's value; the slash is a comma here
//! leases/<id>.json        a lease and when it runs out
//! ```
//!
//! Whoever takes the lock finishes what a killed process has committed and not carried out. Leases run out when somebody
//! looks: nothing runs just to end them, but a watch does.

mod disk;
mod watching;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use weft_overlay::{Entry, Listing};

use crate::{Compare, LeaseId, Op, Outcome, Read, Store, StoreError, Watch, txn};
use disk::Disk;

/// A store in a directory.
#[derive(Clone, Debug)]
pub struct FileStore {
    disk: Arc<Disk>,
}

impl FileStore {
    /// Opens the store in a directory, which is made when it is missing.
    ///
    /// # Errors
    ///
    /// Names what cannot be made or read.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        let disk = Arc::new(Disk::new(dir.into(), true));
        let store = Self { disk };
        store.blocking(|disk| disk.alone().map(drop)).await?;
        Ok(store)
    }

    /// The store in a directory that has had one: as long as it is missing, nobody answers.
    pub fn existing(dir: &Path) -> Self {
        Self { disk: Arc::new(Disk::new(dir.into(), false)) }
    }

    /// Returns where the store is.
    pub fn dir(&self) -> PathBuf {
        self.disk.dir().into()
    }

    /// Runs what waits for locks and disks where it keeps no other task waiting.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = Arc::clone(&self.disk);
        tokio::task::spawn_blocking(move || work(&disk))
            .await
            .map_err(|error| self.broken(&error.to_string()))?
    }

    fn broken(&self, reason: &str) -> StoreError {
        StoreError::Unreachable { store: self.name(), reason: reason.into() }
    }
}

#[async_trait]
impl Store for FileStore {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_string();
        self.blocking(move |disk| disk.fresh()?.list(&prefix)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_string();
        self.blocking(move |disk| disk.fresh()?.entry(&key)).await
    }

    async fn read(&self, wanted: &[Read]) -> Result<Vec<Vec<Entry>>, StoreError> {
        let wanted = wanted.to_vec();
        self.blocking(move |disk| {
            let locked = disk.fresh()?;
            let of = |read: &Read| match read {
                Read::Key(key) => Ok(locked.entry(key)?.into_iter().collect()),
                Read::Prefix(prefix) => Ok(locked.list(prefix)?.entries),
            };
            wanted.iter().map(of).collect()
        })
        .await
    }

    async fn txn(&self, compares: &[Compare], ops: &[Op]) -> Result<Outcome, StoreError> {
        txn::check(&self.name(), compares, ops)?;
        let (compares, ops) = (compares.to_vec(), ops.to_vec());
        self.blocking(move |disk| disk.alone()?.txn(&compares, &ops)).await
    }

    async fn watch(&self, prefix: &str, from: i64) -> Result<Watch, StoreError> {
        watching::begin(self.clone(), prefix.into(), from).await
    }

    async fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.blocking(move |disk| disk.alone()?.lease(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.blocking(move |disk| disk.alone()?.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.blocking(move |disk| disk.alone()?.revoke(lease)).await
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.blocking(move |disk| disk.alone()?.compact(revision)).await
    }

    fn name(&self) -> String {
        format!("file {}", self.disk.dir().display())
    }
}
