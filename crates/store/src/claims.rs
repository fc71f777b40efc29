//! What hosts do with a store: each a single transaction that either holds for everybody or has not happened.
//!
//! Nothing claimed has a lease. A host that is silent for a day has its addresses still, and nobody else can have got them;
//! what is given up on purpose is in quarantine before it is anybody's again.

mod addresses;
mod error;
mod hosts;
mod networks;
mod reassert;
mod removals;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use weft_overlay::records::{self, Cluster, Network};
use weft_overlay::snapshot::Record;
use weft_overlay::{Entry, HostId, Key, keys};
use weft_state::time::milliseconds;

pub use error::ClaimError;
pub use hosts::{JoinRequest, Joined};
pub use networks::NewNetwork;
pub use reassert::Reasserted;
pub use removals::is_old;

use crate::follow::jittered;
use crate::{Outcome, SharedStore};

/// So often something is tried that others get in the way of. With the waits between it is some ten seconds.
const ATTEMPTS: u32 = 40;

/// A transaction for many records holds no more of them: each may need two conditions.
const CHUNK: usize = 50;

/// Claims made in a store.
#[derive(Clone)]
pub struct Claims {
    store: SharedStore,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A value, the revision of its last change, and how it stands in the store.
#[derive(Clone, Debug)]
struct Found<T> {
    value: T,
    modified: i64,
    raw: Vec<u8>,
}

impl<T: Serialize> Found<T> {
    /// Returns what is to stand there instead: a newer weft may have written more than is known here.
    fn rewritten(&self, value: &T) -> Vec<u8> {
        records::rewritten(&self.raw, &records::encode(&self.value), records::encode(value))
    }
}

impl Claims {
    /// Claims in a store.
    pub fn new(store: SharedStore) -> Self {
        Self::with_clock(store, Arc::new(milliseconds))
    }

    /// Claims in a store by a clock of one's own: milliseconds since 1970.
    pub fn with_clock(store: SharedStore, clock: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self { store, clock }
    }

    /// Returns the store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Returns what all hosts agree on.
    ///
    /// # Errors
    ///
    /// [`ClaimError::NoCluster`] when no host has joined yet.
    pub async fn cluster(&self) -> Result<Cluster, ClaimError> {
        Ok(self.cluster_found().await?.value)
    }

    async fn cluster_found(&self) -> Result<Found<Cluster>, ClaimError> {
        self.read(&Key::Cluster).await?.ok_or_else(|| ClaimError::NoCluster(self.store.name()))
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    async fn read<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<Found<T>>, ClaimError> {
        self.store.get(&key.to_string()).await?.map(found).transpose()
    }

    /// Returns the records below a prefix that make sense, and the keys of those that do not.
    async fn records(&self, prefix: &str) -> Result<(Vec<Found<Record>>, Vec<Key>), ClaimError> {
        Ok(sifted(self.store.list(prefix).await?.entries))
    }

    async fn networks(&self) -> Result<Vec<Network>, ClaimError> {
        Ok(networks_of(self.store.list(&Key::networks()).await?.entries))
    }

    /// Returns all underlay addresses that are claimed, and by whom.
    async fn underlays(&self) -> Result<Vec<(IpAddr, HostId)>, ClaimError> {
        let (found, _) = self.records(&format!("{}underlay/", keys::PREFIX)).await?;
        let claim = |record| match record {
            Record::Underlay(address, claim) => Some((address, claim.host)),
            _ => None,
        };
        Ok(found.into_iter().filter_map(|found| claim(found.value)).collect())
    }

    async fn txn(&self, compares: &[crate::Compare], ops: &[crate::Op]) -> Result<bool, ClaimError> {
        Ok(matches!(self.store.txn(compares, ops).await?, Outcome::Committed(_)))
    }
}

/// Reads an entry that has to make sense.
fn found<T: DeserializeOwned>(entry: Entry) -> Result<Found<T>, ClaimError> {
    match records::decode(&entry.value) {
        Ok(value) => Ok(Found { value, modified: entry.modified, raw: entry.value }),
        Err(why) => Err(ClaimError::Bad { key: entry.key, why: why.to_string() }),
    }
}

/// Reads what a key was asked for; nothing if there is no such key.
fn only<T: DeserializeOwned>(
    answers: &mut impl Iterator<Item = Vec<Entry>>,
) -> Result<Option<Found<T>>, ClaimError> {
    answers.next().into_iter().flatten().next().map(found).transpose()
}

/// Returns the records that make sense, and the keys of those that do not.
fn sifted(entries: Vec<Entry>) -> (Vec<Found<Record>>, Vec<Key>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for entry in entries {
        match Record::parse(&entry.key, &entry.value) {
            Ok((_, value)) => good.push(Found { value, modified: entry.modified, raw: entry.value }),
            Err(_) => bad.extend(entry.key.parse::<Key>()),
        }
    }
    (good, bad)
}

fn networks_of(entries: Vec<Entry>) -> Vec<Network> {
    let (found, _) = sifted(entries);
    found.into_iter().filter_map(|found| found.value.as_network().cloned()).collect()
}

/// Waits after somebody got in the way, the longer the more often.
async fn pause(attempt: u32) {
    tokio::time::sleep(jittered(Duration::from_millis(5 << attempt.min(6)))).await;
}
