//! A store in etcd, version 3.4 or later.
//!
//! The client library keeps a connection, and that is all: a stream that died tells nothing, and a request to a server that
//! hangs never ends. So every request has a time limit, connections are probed while idle, and a watch that hears nothing is
//! begun again on a new connection (etcd-client's documentation and issues 17 and 48).

mod errors;
mod route;
mod settings;
mod watching;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, CompareOp, GetOptions, GetResponse, KeyValue, PutOptions, ResponseHeader, TxnOp, TxnOpResponse,
};
use weft_overlay::{Entry, Listing, keys};

pub use settings::EtcdSettings;

use crate::{Compare, LeaseId, Op, Outcome, Read, Store, StoreError, Watch, txn};

/// So many keys are asked for at once: with records of less than a kilobyte an answer stays below gRPC's customary 4 MiB.
const PAGE: i64 = 500;

/// An answer may still be this long, so that some hostile values of full length do not keep a host from hearing the rest.
const LONGEST_ANSWER: usize = 64 << 20;

/// A listing whose revision is compacted away while it is read begins again, so often.
const ATTEMPTS: usize = 5;

/// A store in etcd. Copies are the same store.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    settings: EtcdSettings,
    client: tokio::sync::Mutex<Option<Client>>,
    /// Whose turn it is among the servers.
    turn: AtomicUsize,
    seen: Mutex<Option<Seen>>,
}

/// What was last known of the server's history.
#[derive(Clone, Debug, Default)]
struct Seen {
    cluster: u64,
    term: u64,
    /// A key and the revision of its last change: in any other history that revision belongs to something else.
    witness: Option<(String, i64)>,
}

impl EtcdStore {
    /// Prepares a store; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// Names the setting that is wrong, or the endpoint that must not be used.
    pub fn new(settings: EtcdSettings) -> Result<Self, StoreError> {
        settings.check()?;
        let (client, turn, seen) = (tokio::sync::Mutex::new(None), AtomicUsize::new(0), Mutex::new(None));
        Ok(Self { inner: Arc::new(Inner { settings, client, turn, seen }) })
    }

    /// Returns a client, made anew when the last one failed.
    ///
    /// Certificates are read anew with it, so renewed ones are taken up with the next connection.
    async fn client(&self) -> Result<Client, StoreError> {
        let mut client = self.inner.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let made = self.connected().await?;
        *client = Some(made.clone());
        Ok(made)
    }

    /// Connects to the first server that answers, the one after the last that was used before the others.
    ///
    /// The library would spread requests over all of them, those that are away included.
    async fn connected(&self) -> Result<Client, StoreError> {
        let settings = &self.inner.settings;
        route::refuse_overlays(&settings.endpoints).await?;
        let count = settings.endpoints.len();
        let first = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        let mut refusal = None;
        for endpoint in settings.endpoints.iter().cycle().skip(first % count).take(count) {
            let attempt = async {
                let client = Client::connect([endpoint], Some(settings.options()?)).await;
                let client = client.map_err(|error| errors::translated(&self.name(), &error))?;
                let probe = client.kv_client().get(keys::PREFIX, None).await;
                match probe
                    .map_err(|error| errors::of_first_request(&self.name(), &error, settings.has_tls()))
                {
                    // Whoever may not read that is heard, at least.
                    Ok(_) | Err(StoreError::Invalid { .. }) => Ok(client),
                    Err(error) => Err(error),
                }
            };
            match tokio::time::timeout(settings.timeout(), attempt).await {
                Ok(Ok(client)) => return Ok(client),
                // A server that refuses says more than one that is away.
                Ok(Err(error)) if refusal.is_none() || !error.is_temporary() => refusal = Some(error),
                Ok(Err(_)) => {}
                Err(_) => {
                    refusal.get_or_insert_with(|| errors::silent(&self.name(), settings.timeout()));
                }
            }
        }
        Err(refusal.unwrap_or_else(|| errors::silent(&self.name(), settings.timeout())))
    }

    /// Makes the next request use a new connection.
    async fn rebuild(&self) {
        *self.inner.client.lock().await = None;
    }

    /// Does a request within the time limit.
    async fn request<T, F>(&self, work: impl FnOnce(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let limit = self.inner.settings.timeout();
        let client = self.client().await?;
        let result = match tokio::time::timeout(limit, work(client)).await {
            Ok(result) => result.map_err(|error| errors::translated(&self.name(), &error)),
            Err(_) => Err(errors::silent(&self.name(), limit)),
        };
        if matches!(result, Err(StoreError::Unreachable { .. } | StoreError::Refused { .. })) {
            self.rebuild().await;
        }
        result
    }

    /// Reads a range as it was at a revision; 0 is the present. Of an answer that would be too long the first half is asked
    /// for, and so on.
    async fn page(&self, from: &[u8], to: &[u8], revision: i64) -> Result<GetResponse, StoreError> {
        let mut limit = PAGE;
        loop {
            match self.page_of(limit, from.to_vec(), to.to_vec(), revision).await {
                Err(error) if limit > 1 && errors::is_too_long(&error) => limit /= 2,
                other => return other,
            }
        }
    }

    async fn page_of(
        &self,
        limit: i64,
        from: Vec<u8>,
        to: Vec<u8>,
        revision: i64,
    ) -> Result<GetResponse, StoreError> {
        let options = GetOptions::new().with_range(to).with_limit(limit).with_revision(revision);
        self.request(|client| async move {
            let mut kv = client.kv_client().max_decoding_message_size(LONGEST_ANSWER);
            kv.get(from, Some(options)).await
        })
        .await
    }

    /// Reads everything of a prefix at one revision; `None` when it was compacted away meanwhile.
    async fn list_once(&self, prefix: &str) -> Result<Option<Listing>, StoreError> {
        let end = end_of(prefix);
        let mut answer = self.page(prefix.as_bytes(), &end, 0).await?;
        let header = self.header(answer.header())?;
        let mut entries = Vec::new();
        loop {
            // The next page begins behind the last key, whether or not that one is a text.
            let last = answer.kvs().last().filter(|_| answer.more()).map(|kv| kv.key().to_vec());
            entries.extend(answer.take_kvs().into_iter().map(entry));
            let Some(mut next) = last else { break };
            next.push(0);
            answer = match self.page(&next, &end, header.revision).await {
                Err(error) if errors::is_compacted(&error) => return Ok(None),
                other => other?,
            };
        }
        let entries = sorted(entries);
        let witness = entries.iter().filter(|entry| is_text(&entry.key)).max_by_key(|entry| entry.modified);
        let witness = witness.map(|entry| (entry.key.clone(), entry.modified));
        *self.seen() = Some(Seen { cluster: header.cluster, term: header.term, witness });
        Ok(Some(Listing { entries, revision: header.revision, store: header.cluster }))
    }

    async fn read_apart(&self, wanted: &[Read]) -> Result<Vec<Vec<Entry>>, StoreError> {
        let mut found = Vec::new();
        for read in wanted {
            found.push(match read {
                Read::Key(key) => self.get(key).await?.into_iter().collect(),
                Read::Prefix(prefix) => self.list(prefix).await?.entries,
            });
        }
        Ok(found)
    }

    fn header(&self, header: Option<&ResponseHeader>) -> Result<Header, StoreError> {
        let header = header.ok_or_else(|| StoreError::Unreachable {
            store: self.name(),
            reason: "its answer has no header".into(),
        })?;
        Ok(Header { cluster: header.cluster_id(), term: header.raft_term(), revision: header.revision() })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Option<Seen>> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    cluster: u64,
    term: u64,
    revision: i64,
}

#[async_trait]
impl Store for EtcdStore {
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        for _ in 0..ATTEMPTS {
            if let Some(listing) = self.list_once(prefix).await? {
                return Ok(listing);
            }
        }
        let reason = "it is compacted faster than it can be read".into();
        Err(StoreError::Unreachable { store: self.name(), reason })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_string();
        let mut answer =
            self.request(|client| async move { client.kv_client().get(key, None).await }).await?;
        Ok(answer.take_kvs().into_iter().next().map(entry))
    }

    async fn read(&self, wanted: &[Read]) -> Result<Vec<Vec<Entry>>, StoreError> {
        let ranges = |read: &Read| match read {
            Read::Key(key) => TxnOp::get(key.as_str(), None),
            Read::Prefix(prefix) => TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix())),
        };
        let txn = etcd_client::Txn::new().and_then(wanted.iter().map(ranges).collect::<Vec<_>>());
        let answer = self.request(|client| async move {
            client.kv_client().max_decoding_message_size(LONGEST_ANSWER).txn(txn).await
        });
        let answers = match answer.await {
            // A page at a time, then.
            Err(error) if errors::is_too_long(&error) => return self.read_apart(wanted).await,
            other => other?.op_responses(),
        };
        let entries = |answer| match answer {
            TxnOpResponse::Get(mut found) => sorted(found.take_kvs().into_iter().map(entry).collect()),
            _ => Vec::new(),
        };
        Ok(answers.into_iter().map(entries).collect())
    }

    async fn txn(&self, compares: &[Compare], ops: &[Op]) -> Result<Outcome, StoreError> {
        txn::check(&self.name(), compares, ops)?;
        let compares: Vec<_> = compares.iter().map(condition).collect();
        let ops: Vec<_> = ops.iter().map(operation).collect();
        let txn = etcd_client::Txn::new().when(compares).and_then(ops);
        let answer = self.request(|client| async move { client.kv_client().txn(txn).await }).await?;
        let revision = self.header(answer.header())?.revision;
        Ok(if answer.succeeded() { Outcome::Committed(revision) } else { Outcome::Conflict })
    }

    async fn watch(&self, prefix: &str, from: i64) -> Result<Watch, StoreError> {
        Ok(watching::begin(self.clone(), prefix.into(), from))
    }

    async fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let grant = self.request(|client| async move { client.lease_client().grant(seconds, None).await });
        Ok(LeaseId(grant.await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let kept = self.request(|client| async move { client.lease_client().keep_alive(lease.0).await });
        kept.await.map(drop).map_err(|error| errors::of_lease(error, lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoked = self.request(|client| async move { client.lease_client().revoke(lease.0).await });
        match revoked.await.map_err(|error| errors::of_lease(error, lease)) {
            Err(StoreError::NoLease(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.request(|client| async move { client.kv_client().compact(revision, None).await }).await.map(drop)
    }

    fn name(&self) -> String {
        format!("etcd {}", self.inner.settings.endpoints.join(","))
    }
}

/// Returns the first key after all that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // Everything from the key on.
    vec![0]
}

/// What a key that is no text is shown as may have another place.
fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    if !entries.is_sorted_by(|one, other| one.key <= other.key) {
        entries.sort_by(|one, other| one.key.cmp(&other.key));
    }
    entries
}

fn entry(kv: KeyValue) -> Entry {
    let (created, modified) = (kv.create_revision(), kv.mod_revision());
    let (key, value) = kv.into_key_value();
    Entry { key: text(key), value, created, modified }
}

/// Returns a key as a text. One that is none has `\xff` for a byte: so it is shown, and is none of ours.
fn text(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap_or_else(|error| {
        let mut text = String::new();
        for chunk in error.as_bytes().utf8_chunks() {
            text.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
        }
        text
    })
}

/// Returns whether a key stands in the store as it is written here: none of ours has a backslash.
fn is_text(key: &str) -> bool {
    !key.contains('\\')
}

fn condition(compare: &Compare) -> etcd_client::Compare {
    match compare {
        Compare::Absent(key) => etcd_client::Compare::create_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::Present(key) => etcd_client::Compare::create_revision(key.as_str(), CompareOp::Greater, 0),
        Compare::Modified(key, revision) => {
            etcd_client::Compare::mod_revision(key.as_str(), CompareOp::Equal, *revision)
        }
    }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.clone(), options)
        }
        Op::Delete(key) => TxnOp::delete(key.as_str(), None),
    }
}
