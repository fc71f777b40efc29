//! A watch that survives its server.

use std::time::Duration;

use etcd_client::{GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use weft_overlay::Event;

use super::{EtcdStore, Header, LONGEST_ANSWER, Seen, entry, errors, is_text};
use crate::follow::jittered;
use crate::{Store, StoreError, Watch, WatchEvent};

/// The first wait before connecting again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// More revisions than this within so long are a crowd.
const CROWD: (usize, Duration) = (16, Duration::from_millis(100));

/// So long nothing is heard of a crowd.
const RESPITE: Duration = Duration::from_millis(300);

/// Begins a watch.
pub(super) fn begin(store: EtcdStore, prefix: String, from: i64) -> Watch {
    let (sender, receiver) = mpsc::channel(Watch::AHEAD);
    let seen = store.seen().clone();
    let lately = (Instant::now(), 0);
    let watcher =
        Watcher { store, prefix, next: from, proof: None, doubtful: None, seen, lately, events: sender };
    let task = tokio::spawn(watcher.run());
    Watch::new(receiver, task.abort_handle())
}

struct Watcher {
    store: EtcdStore,
    prefix: String,
    /// The first revision that was not heard of.
    next: i64,
    /// What the first answer has to hold: the last change that was heard of, told once more by the same history.
    proof: Option<(String, i64)>,
    /// A revision the server says there is nothing new up to, not believed yet.
    doubtful: Option<i64>,
    seen: Option<Seen>,
    /// Since when revisions are counted, and how many there were.
    lately: (Instant, usize),
    events: mpsc::Sender<WatchEvent>,
}

/// Why a stream was given up.
enum End {
    /// Nobody listens, or the last event was sent.
    Over,
    /// It has to be begun again.
    Broken(String),
    /// There is much to hear: better later, and at once.
    Crowd,
    /// It was begun where the server does not go on from: once more, from where nothing was heard of.
    Again,
}

impl Watcher {
    async fn run(mut self) {
        let (mut lost, mut wait) = (None, BACKOFF.0);
        loop {
            let end = match self.open().await {
                Ok(Opened::Stream(stream)) => {
                    wait = BACKOFF.0;
                    if lost.take().is_some() && self.events.send(WatchEvent::Back).await.is_err() {
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
            let why = match end {
                End::Over => return,
                End::Again => continue,
                End::Crowd => {
                    tokio::select! {
                        () = self.events.closed() => return,
                        () = sleep(jittered(RESPITE)) => {}
                    }
                    self.proof = self.last_heard();
                    continue;
                }
                End::Broken(why) => why,
            };
            self.proof = None;
            // How a stream has ended says little; why there is no other one is what somebody can mend.
            if lost.as_ref() != Some(&why) && self.events.send(WatchEvent::Lost(why.clone())).await.is_err() {
                return;
            }
            lost = Some(why);
            self.store.rebuild().await;
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Begins a stream, once it is sure that the server has the history we know, or so that it says so itself.
    async fn open(&mut self) -> Result<Opened, StoreError> {
        if self.proof.is_none()
            && let Some(why) = self.rewritten().await?
        {
            return Ok(Opened::Reset(why));
        }
        let from = self.proof.as_ref().map_or(self.next, |(_, revision)| *revision);
        let (prefix, options) =
            (self.prefix.clone(), WatchOptions::new().with_prefix().with_start_revision(from));
        self.doubtful = None;
        // No fragments: all changes of a revision have to come together, and we take long messages.
        let stream = self.store.request(|client| async move {
            client.watch_client().max_decoding_message_size(LONGEST_ANSWER).watch(prefix, Some(options)).await
        });
        Ok(Opened::Stream(Box::new(stream.await?)))
    }

    /// Returns the last change, if there is one of the last revision that was heard of.
    fn last_heard(&self) -> Option<(String, i64)> {
        self.seen.as_ref()?.witness.clone().filter(|(_, revision)| *revision == self.next - 1)
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
            Ok(_) => Ok(Some(other_change(&key, revision))),
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
        let begun = Instant::now();
        let (mut heard, mut asked) = (begun, begun);
        loop {
            let due = (asked + progress).min(heard + watchdog);
            let due = if self.proof.is_some() { due.min(begun + limit) } else { due };
            // A reader that went must not have to wait for the next change to be noticed.
            let message = tokio::select! {
                () = self.events.closed() => return End::Over,
                message = timeout_at(due, answers.message()) => message,
            };
            let answer = match message {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => return End::Broken("the server ended the watch".into()),
                Ok(Err(error)) => {
                    let error = errors::translated(&self.store.name(), &error);
                    if errors::is_too_long(&error) {
                        // Listed it comes in pieces.
                        drop(self.events.send(WatchEvent::Reset(error.to_string())).await);
                        return End::Over;
                    }
                    return End::Broken(error.to_string());
                }
                Err(_) if heard.elapsed() >= watchdog => {
                    return End::Broken(format!("nothing heard for {} s", watchdog.as_secs()));
                }
                // What was heard of is not told again: then the server has to be asked for its history.
                Err(_) if self.proof.take().is_some() => return End::Again,
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
            if self.is_crowded() {
                self.lately.1 = 0;
                return End::Crowd;
            }
        }
    }

    /// Passes on what an answer says.
    async fn take(&mut self, answer: &WatchResponse) -> Option<End> {
        if answer.compact_revision() > 0 {
            if self.proof.take().is_some() {
                return Some(End::Again);
            }
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
        if answer.events().is_empty() {
            let told = self.progress(header.revision)?;
            return self.events.send(told).await.is_err().then_some(End::Over);
        }
        if let Some((key, revision)) = self.proof.take_if(|proof| !is_told(proof, answer)) {
            drop(self.events.send(WatchEvent::Reset(other_change(&key, revision))).await);
            return Some(End::Over);
        }
        self.proof = None;
        let events = self.changes(answer);
        // The proof alone, maybe.
        let is_over = !events.is_empty() && self.events.send(WatchEvent::Changes(events)).await.is_err();
        is_over.then_some(End::Over)
    }

    /// Returns whether changes come one upon the other.
    ///
    /// etcd sends each revision in an answer of its own to every watch: when five hundred hosts join at once, half a million
    /// answers. But a watch that begins in the past hears all that was since in one answer (`syncWatchers` in etcd's
    /// mvcc/watchable_store.go, for all such watches together and ten times a second). So one that hears much ends, and begins
    /// again a moment later. Its stream ends with it: what is on the way there already nobody has to send.
    const fn is_crowded(&self) -> bool {
        self.lately.1 > CROWD.0
    }

    /// Returns the changes of an answer that were not heard of before.
    fn changes(&mut self, answer: &WatchResponse) -> Vec<Event> {
        let first = self.next;
        let mut events = Vec::with_capacity(answer.events().len());
        if self.lately.0.elapsed() > CROWD.1 {
            self.lately = (Instant::now(), 0);
        }
        for event in answer.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision();
            if revision < first {
                continue;
            }
            self.lately.1 += usize::from(revision >= self.next);
            self.next = self.next.max(revision + 1);
            let entry = entry(kv.clone());
            // What is deleted has no version (etcd's mvccpb/kv.proto). The library ends the process at a kind of event that it does
            // not know.
            if kv.version() == 0 {
                events.push(Event::Delete { key: entry.key, revision });
                continue;
            }
            events.push(Event::Put(entry));
        }
        let last = events.iter().rev().find_map(|event| match event {
            Event::Put(entry) if is_text(&entry.key) => Some((entry.key.clone(), entry.modified)),
            _ => None,
        });
        if let (Some(seen), Some(_)) = (&mut self.seen, &last) {
            seen.witness = last;
        }
        events
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

/// Returns whether an answer tells a change of a key at a revision.
fn is_told((key, revision): &(String, i64), answer: &WatchResponse) -> bool {
    let mut told = answer.events().iter().filter_map(etcd_client::Event::kv);
    told.any(|kv| kv.mod_revision() == *revision && kv.key() == key.as_bytes())
}

fn other_change(key: &str, revision: i64) -> String {
    format!("the store's history is another one: {key} was not changed at revision {revision}")
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
