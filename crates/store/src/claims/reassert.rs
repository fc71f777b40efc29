//! A host says again what it had, to a store that has lost it.

use serde::de::IgnoredAny;
use weft_overlay::records::{Block, Borrow, Cluster, RecordError, decode};
use weft_overlay::snapshot::Record;
use weft_overlay::{Entry, HostId, Key, Snapshot};

use super::{ATTEMPTS, CHUNK, ClaimError, Claims, pause};
use crate::{Compare, Op, StoreError};

/// What became of a host's claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasserted {
    /// What the store has again.
    pub restored: Vec<Key>,
    /// What another host has by now, by an earlier claim.
    pub lost: Vec<(Key, HostId)>,
    /// What a newer weft has written in the place of what this host knew: it stays.
    pub newer: Vec<Key>,
}

impl Claims {
    /// Puts back what a host had, and what all share, where the store lacks it; of two claims of one thing the earlier is right.
    ///
    /// Only after an alarm ([`weft_overlay::snapshot::Alarm`]): in a store that nothing happened to, a network that `cached` still
    /// has was removed by somebody.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering, a host that is out, or a store that another cluster meets in.
    pub async fn reassert(&self, host: HostId, cached: &Snapshot) -> Result<Reasserted, ClaimError> {
        let mut done = Reasserted::default();
        for attempt in 0..ATTEMPTS {
            let listing = self.store.list(weft_overlay::keys::PREFIX).await?;
            let said = |key: &Key| {
                let text = key.to_string();
                listing
                    .entries
                    .binary_search_by(|entry| entry.key.as_str().cmp(&text))
                    .ok()
                    .map(|at| &listing.entries[at])
            };
            if said(&Key::Left(host)).is_some() {
                return Err(self.gone(host).await?);
            }
            let there = said(&Key::Cluster).and_then(|entry| decode::<Cluster>(&entry.value).ok());
            if let (Some(there), Some(ours)) = (there, cached.cluster())
                && there.id != ours.id
            {
                return Err(ClaimError::OtherCluster { there: there.id, ours: ours.id });
            }
            done.lost.clear();
            done.newer.clear();
            let (mut own, mut shared) = (Vec::new(), Vec::new());
            for record in cached.all().filter(|record| is_ours(record, host, cached)) {
                let missing = if record.owner().is_some() { &mut own } else { &mut shared };
                match verdict(record, said(&record.key())) {
                    Verdict::Put(compare) => missing.push((compare, record)),
                    Verdict::Lost(other) => done.lost.push((record.key(), other)),
                    Verdict::Newer => done.newer.push(record.key()),
                    Verdict::Agreed => {}
                }
            }
            // What all share comes first: blocks of a network that is not there would be swept away.
            let refused = match self.put_back(&shared, &mut done).await {
                // Not every host may write that; one that may does.
                Err(ClaimError::Store(StoreError::Refused { .. })) => true,
                other => other.map(|()| false)?,
            };
            self.put_back(&own, &mut done).await?;
            if own.is_empty() && (shared.is_empty() || refused) {
                return Ok(done);
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy("what this host says again".into()))
    }
}

impl Claims {
    async fn put_back(
        &self,
        missing: &[(Compare, &Record)],
        done: &mut Reasserted,
    ) -> Result<(), ClaimError> {
        for chunk in missing.chunks(CHUNK) {
            let compares: Vec<Compare> = chunk.iter().map(|(compare, _)| compare.clone()).collect();
            let ops: Vec<Op> =
                chunk.iter().map(|(_, record)| Op::put(&record.key(), record.value())).collect();
            if self.txn(&compares, &ops).await? {
                done.restored.extend(chunk.iter().map(|(_, record)| record.key()));
            }
        }
        Ok(())
    }
}

/// Returns whether a host may put a record back: its own, and what belongs to nobody in particular.
fn is_ours(record: &Record, host: HostId, cached: &Snapshot) -> bool {
    match record {
        Record::Alive(_) | Record::Left(_) | Record::Removal(_) => false,
        Record::Cluster(_) | Record::Network(_) => true,
        Record::Vni(_, claim) => cached.network(claim.network).is_some(),
        other => other.owner() == Some(host),
    }
}

enum Verdict {
    Put(Compare),
    Lost(HostId),
    Newer,
    Agreed,
}

fn verdict(record: &Record, said: Option<&Entry>) -> Verdict {
    let key = record.key();
    let Some(entry) = said else { return Verdict::Put(Compare::absent(&key)) };
    let unchanged = || Verdict::Put(Compare::unchanged(&key, entry.modified));
    let Ok((_, found)) = Record::parse(&entry.key, &entry.value) else {
        return match decode::<IgnoredAny>(&entry.value) {
            Err(RecordError::Newer(_)) => Verdict::Newer,
            _ => unchanged(),
        };
    };
    match (record, &found) {
        _ if *record == found => Verdict::Agreed,
        // What all share: whoever came first.
        (Record::Cluster(_) | Record::Network(_) | Record::Vni(..), _) => Verdict::Agreed,
        (Record::Host(ours), Record::Host(theirs)) => match theirs.superseded_by {
            Some(by) if ours.superseded_by.is_none() => Verdict::Lost(by),
            _ => unchanged(),
        },
        (Record::Block(Block { host, epoch, .. }), Record::Block(theirs)) if *host != theirs.host => {
            earlier((*epoch, *host), (theirs.epoch, theirs.host), unchanged)
        }
        (Record::Borrow(Borrow { host, epoch, .. }), Record::Borrow(theirs)) if *host != theirs.host => {
            earlier((*epoch, *host), (theirs.epoch, theirs.host), unchanged)
        }
        (
            Record::Underlay(_, ours) | Record::Mesh(_, ours),
            Record::Underlay(_, theirs) | Record::Mesh(_, theirs),
        ) if ours.host != theirs.host => Verdict::Lost(theirs.host),
        _ => unchanged(),
    }
}

/// Of two claims the earlier is right, and of two made at the same moment that of the lower id.
fn earlier(ours: (u64, HostId), theirs: (u64, HostId), put: impl FnOnce() -> Verdict) -> Verdict {
    if ours < theirs { put() } else { Verdict::Lost(theirs.1) }
}
