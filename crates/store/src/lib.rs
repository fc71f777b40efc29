//! Where the hosts of an overlay meet: a store of records, and what is claimed in it.
//!
//! [`Store`] is the one abstraction: [`file`] keeps it in a directory of one host, [`etcd`] in etcd. Every store passes the one
//! suite in `tests/conformance.rs`. [`claims`] are what hosts do with a store, each in a single transaction; [`follow`] is how
//! they learn what others did, whatever happens to the connection.

pub mod claims;
pub mod error;
pub mod etcd;
pub mod file;
pub mod follow;
pub mod txn;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub use weft_overlay::entry::{Entry, Event, Listing};

pub use error::StoreError;
pub use follow::{Follower, Reason, Update};
pub use txn::{Compare, Op, Outcome};
pub use watch::{Watch, WatchEvent};

/// A store that several tasks share.
pub type SharedStore = Arc<dyn Store>;

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// An entry, if there is one.
    Key(String),
    /// Everything whose key begins so, in the order of their keys.
    Prefix(String),
}

impl Read {
    /// An entry, if there is one.
    pub fn key(key: &weft_overlay::Key) -> Self {
        Self::Key(key.to_string())
    }
}

/// A lease: keys put with it go when it is not kept alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// Keys and values with revisions.
///
/// Every change has a revision, one more than the one before; all changes of a transaction have the same. What is read is
/// linearizable: it contains everything that was committed before it was asked for.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns everything whose key begins with `prefix`, as of one revision.
    ///
    /// # Errors
    ///
    /// Says what keeps the store from answering.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Returns an entry.
    ///
    /// # Errors
    ///
    /// Says what keeps the store from answering.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Returns what there is of each of `wanted`, in that order, in one question.
    ///
    /// # Errors
    ///
    /// Says what keeps the store from answering.
    async fn read(&self, wanted: &[Read]) -> Result<Vec<Vec<Entry>>, StoreError>;

    /// Does all of `ops` in their order if all of `compares` hold, or none of them.
    ///
    /// # Errors
    ///
    /// Says what keeps the store from answering. Then nobody knows whether it was done: look before trying again.
    async fn txn(&self, compares: &[Compare], ops: &[Op]) -> Result<Outcome, StoreError>;

    /// Begins to tell changes of keys that begin with `prefix`, from revision `from` on, that one included.
    ///
    /// A watch goes on over lost connections and ends with [`WatchEvent::Compacted`] or [`WatchEvent::Reset`]; then everything
    /// has to be listed anew. [`Follower`] does so.
    ///
    /// # Errors
    ///
    /// Says that no watch can be had at all. A store that does not answer at present is told in the watch itself.
    async fn watch(&self, prefix: &str, from: i64) -> Result<Watch, StoreError>;

    /// Makes a lease that lasts for `ttl` unless kept alive.
    ///
    /// # Errors
    ///
    /// Says what keeps the store from answering.
    async fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Makes a lease last for its whole time again, counted from now.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoLease`] when it has run out: its keys are gone, and a new one is needed.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease, and with it its keys.
    ///
    /// # Errors
    ///
    /// Says what keeps the store from answering. A lease that has run out is as well.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Forgets what was before `revision`: watches cannot begin there any more.
    ///
    /// # Errors
    ///
    /// Says what keeps the store from answering.
    async fn compact(&self, revision: i64) -> Result<(), StoreError>;

    /// Returns what people call the store: `etcd https://192.0.2.1:2379`, `file /var/lib/weft/overlay/store`.
    fn name(&self) -> String;
}
