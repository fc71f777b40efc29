//! A watch that survives its server.

use std::time::Duration;

use etcd_client::{EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use weft_overlay::Event;

use super::{EtcdStore, Header, LONGEST_ANSWER, Seen, entry, errors};
use crate::follow::jittered;
use crate::{Store, StoreError, Watch, WatchEvent};

/// The first wait before connecting again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Begins a watch.
pub(super) fn begin(store: EtcdStore, prefix: String, from: i64) -> Watch {
    let (sender, receiver) = mpsc::channel(Watch::AHEAD);
    let seen = store.seen().clone();
    let watcher = Watcher { store, prefix, next: from, doubtful: None, seen, events: sender };
    let task = tokio::spawn(watcher.run());
    Watch::new(receiver, task.abort_handle())
}

struct Watcher {
    store: EtcdStore,
    prefix: String,
    /// The first revision that was not heard of.
    next: i64,
    /// A revision the server says there is nothing new up to, not believed yet.
    doubtful: Option<i64>,
    seen: Option<Seen>,
    events: mpsc::Sender<WatchEvent>,
}

/// Why a stream was given up.
enum End {
    /// Nobody listens, or the last event was sent.
    Over,
    /// It has to be begun again.
    Broken(String),
}

impl Watcher {
    async fn run(mut self) {
        let (mut lost, mut wait) = (false, BACKOFF.0);
        loop {
            let end = match self.open().await {
                Ok(Opened::Stream(stream)) => {
                    wait = BACKOFF.0;
                    if std::mem::take(&mut lost) && self.events.send(WatchEvent::Back).await.is_err() {
                        return;
                    }
                    self.serve(*stream).await
                }
                Ok(Opened::Reset(why)) => {
                    drop(self.events.send(WatchEvent::Reset(why)).await);
                    End::Over
                }
                Err(error) => End::Broken(error.to_string()),
            };
            let End::Broken(why) = end else { return };
            if !lost && self.events.send(WatchEvent::Lost(why)).await.is_err() {
                return;
            }
            lost = true;
            self.store.rebuild().await;
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Begins a stream, once it is sure that the server has the history we know.
    async fn open(&mut self) -> Result<Opened, StoreError> {
        if let Some(why) = self.rewritten().await? {
            return Ok(Opened::Reset(why));
        }
        let options = WatchOptions::new().with_prefix().with_start_revision(self.next);
        let prefix = self.prefix.clone();
        // No fragments: all changes of a revision have to come together, and we take long messages.
        let stream = self.store.request(|client| async move {
            client.watch_client().max_decoding_message_size(LONGEST_ANSWER).watch(prefix, Some(options)).await
        });
        Ok(Opened::Stream(Box::new(stream.await?)))
    }

    /// Returns how the server's history differs from what we know of it.
    ///
    /// A backup that was restored has the same cluster id when the server has the same name, and its revision may have passed
    /// ours by now. But no other history has the same key changed at the same revision as its last change.
    async fn rewritten(&mut self) -> Result<Option<String>, StoreError> {
        let options = GetOptions::new().with_limit(1).with_keys_only();
        let prefix = self.prefix.clone();
        let answer =
            self.store.request(|client| async move { client.kv_client().get(prefix, Some(options)).await });
        let header = self.store.header(answer.await?.header())?;
        let Some(seen) = self.seen.clone() else {
            self.seen = Some(Seen { cluster: header.cluster, term: header.term, witness: None });
            return Ok(None);
        };
        if let Some(why) = other_history(&seen, header, self.next) {
            return Ok(Some(why));
        }
        let Some((key, revision)) = seen.witness else { return Ok(None) };
        match self.modified(&key, revision).await {
            Ok(Some(found)) if found == revision => Ok(None),
            Ok(_) => Ok(Some(format!(
                "the store's history is another one: {key} was not changed at revision {revision}"
            ))),
            // Then the watch finds out.
            Err(error) if errors::is_compacted(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns at which revision a key was last changed, as of a revision.
    async fn modified(&self, key: &str, revision: i64) -> Result<Option<i64>, StoreError> {
        let (key, options) = (key.to_string(), GetOptions::new().with_revision(revision).with_keys_only());
        let answer =
            self.store.request(|client| async move { client.kv_client().get(key, Some(options)).await });
        Ok(answer.await?.kvs().first().map(etcd_client::KeyValue::mod_revision))
    }

    async fn serve(&mut self, stream: WatchStream) -> End {
        let (mut requests, mut answers) = stream.split();
        let settings = &self.store.inner.settings;
        let (progress, watchdog, limit) = (settings.progress(), settings.watchdog(), settings.timeout());
        let (mut heard, mut asked) = (Instant::now(), Instant::now());
        loop {
            // A reader that went must not have to wait for the next change to be noticed.
            let message = tokio::select! {
                () = self.events.closed() => return End::Over,
                message = timeout_at((asked + progress).min(heard + watchdog), answers.message()) => message,
            };
            let answer = match message {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => return End::Broken("the server ended the watch".into()),
                Ok(Err(error)) => {
                    return End::Broken(errors::translated(&self.store.name(), &error).to_string());
                }
                Err(_) if heard.elapsed() >= watchdog => {
                    return End::Broken(format!("nothing heard for {} s", watchdog.as_secs()));
                }
                Err(_) => {
                    asked = Instant::now();
                    // The queue to the server is full only when it reads nothing.
                    match timeout(limit, requests.request_progress()).await {
                        Ok(Ok(())) => continue,
                        _ => return End::Broken("the server does not read".into()),
                    }
                }
            };
            heard = Instant::now();
            if let Some(end) = self.take(&answer).await {
                return end;
            }
        }
    }

    /// Passes on what an answer says.
    async fn take(&mut self, answer: &WatchResponse) -> Option<End> {
        if answer.compact_revision() > 0 {
            drop(self.events.send(WatchEvent::Compacted(answer.compact_revision())).await);
            return Some(End::Over);
        }
        if answer.canceled() {
            return Some(End::Broken(format!("the server ended the watch: {}", answer.cancel_reason())));
        }
        let header = match self.store.header(answer.header()) {
            Ok(header) => header,
            Err(error) => return Some(End::Broken(error.to_string())),
        };
        if let Some(seen) = &mut self.seen {
            seen.term = seen.term.max(header.term);
        }
        if answer.created() {
            return None;
        }
        let told = if answer.events().is_empty() {
            self.progress(header.revision)
        } else {
            Some(self.changes(answer))
        };
        self.events.send(told?).await.is_err().then_some(End::Over)
    }

    fn changes(&mut self, answer: &WatchResponse) -> WatchEvent {
        let mut events = Vec::new();
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision();
            self.next = self.next.max(revision + 1);
            // A key that is no text is none of ours.
            let Some(entry) = entry(kv.clone()) else { continue };
            if event.event_type() == EventType::Delete {
                events.push(Event::Delete { key: entry.key, revision });
                continue;
            }
            if let Some(seen) = &mut self.seen {
                seen.witness = Some((entry.key.clone(), revision));
            }
            events.push(Event::Put(entry));
        }
        WatchEvent::Changes(events)
    }

    /// Takes note of a revision up to which there is said to be nothing new; returns the one that is believed.
    ///
    /// etcd before 3.4.25 and 3.5.8 may answer before changes of that revision that are on their way (etcd issue 15220), so it is
    /// believed when the next answer comes, a minute later.
    fn progress(&mut self, revision: i64) -> Option<WatchEvent> {
        let believed = self.doubtful.replace(revision)?;
        self.next = self.next.max(believed + 1);
        Some(WatchEvent::Progress(believed))
    }
}

enum Opened {
    Stream(Box<WatchStream>),
    Reset(String),
}

/// Returns how a server that answers with this header cannot be the one we know.
fn other_history(seen: &Seen, header: Header, next: i64) -> Option<String> {
    if header.cluster != seen.cluster {
        return Some(format!("the store is another one ({:x}, it was {:x})", header.cluster, seen.cluster));
    }
    if header.revision < next - 1 {
        return Some(format!("the store went back from revision {} to {}", next - 1, header.revision));
    }
    // Terms of a cluster that lives only go up (Raft, section 5.1).
    (header.term < seen.term)
        .then(|| format!("the store went back from term {} to {}", seen.term, header.term))
}
