//! Everything below a prefix, and from then on each change: whatever happens to the store in between.

use std::time::Duration;

use weft_overlay::ids::random_bytes;
use weft_overlay::{Event, Listing};

use crate::{SharedStore, Watch, WatchEvent};

/// The first wait before trying again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a follower tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// This is everything: what is not in it may be gone, or never have been; and why all was listed.
    Listed(Listing, Reason),
    /// Changes since.
    Changes(Vec<Event>),
    /// Nothing has changed up to this revision.
    Progress(i64),
    /// The store does not answer at present, and why. It is said again when the reason is another.
    Lost(String),
    /// It answers again.
    Back,
}

/// Why everything is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing was known.
    Start,
    /// What has changed is forgotten up to this revision.
    Compacted(i64),
    /// The store is not what it was, in these words.
    Reset(String),
    /// A watch ended.
    Ended,
    /// Whoever follows wants to be sure.
    Asked,
}

impl Reason {
    /// Returns a word for it, one of a few.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Compacted(_) => "compacted",
            Self::Reset(_) => "reset",
            Self::Ended => "ended",
            Self::Asked => "asked",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Compacted(revision) => write!(out, "revisions up to {revision} were compacted away"),
            Self::Reset(why) => out.write_str(why),
            Self::Start => out.write_str("nothing was known"),
            Self::Ended => out.write_str("the watch ended"),
            Self::Asked => out.write_str("it was asked for"),
        }
    }
}

/// Lists, watches, and lists again when a watch cannot go on.
pub struct Follower {
    store: SharedStore,
    prefix: String,
    watch: Option<Watch>,
    why: Reason,
    /// Why nothing is heard, as it was said last.
    lost: Option<String>,
    wait: Duration,
}

impl Follower {
    /// Follows what begins with `prefix`.
    pub fn new(store: SharedStore, prefix: &str) -> Self {
        Self { store, prefix: prefix.into(), watch: None, why: Reason::Start, lost: None, wait: BACKOFF.0 }
    }

    /// Lists everything again with the next call, for whoever wants to be sure.
    pub fn again(&mut self) {
        self.begin(Reason::Asked);
    }

    fn begin(&mut self, why: Reason) {
        self.watch = None;
        self.why = why;
    }

    /// Waits for the next update. It never ends, and may be dropped and called again without losing one.
    pub async fn next(&mut self) -> Update {
        loop {
            let Some(watch) = &mut self.watch else {
                if let Some(update) = self.list().await {
                    return update;
                }
                continue;
            };
            match watch.next().await {
                Some(WatchEvent::Changes(events)) => return Update::Changes(events),
                Some(WatchEvent::Progress(revision)) => return Update::Progress(revision),
                Some(WatchEvent::Lost(why)) => {
                    self.lost = Some(why.clone());
                    return Update::Lost(why);
                }
                Some(WatchEvent::Back) => {
                    self.lost = None;
                    return Update::Back;
                }
                Some(WatchEvent::Compacted(revision)) => self.begin(Reason::Compacted(revision)),
                Some(WatchEvent::Reset(why)) => self.begin(Reason::Reset(why)),
                None => self.begin(Reason::Ended),
            }
        }
    }

    /// Tries once; `None` when it has to be tried again.
    async fn list(&mut self) -> Option<Update> {
        if self.wait > BACKOFF.0 {
            tokio::time::sleep(jittered(self.wait)).await;
        }
        // The next wait is longer, unless this goes well.
        self.wait = (self.wait * 2).min(BACKOFF.1);
        let begun = match self.store.list(&self.prefix).await {
            Ok(listing) => {
                let watch = self.store.watch(&self.prefix, listing.revision + 1).await;
                watch.map(|watch| (listing, watch))
            }
            Err(error) => Err(error),
        };
        match begun {
            Ok((listing, watch)) => {
                self.watch = Some(watch);
                self.wait = BACKOFF.0;
                self.lost = None;
                Some(Update::Listed(listing, self.why.clone()))
            }
            Err(error) => {
                let why = error.to_string();
                let news = self.lost.as_ref() != Some(&why);
                self.lost = Some(why.clone());
                news.then_some(Update::Lost(why))
            }
        }
    }
}

/// Returns between three quarters and five quarters of a time, so that hosts that lost a store together do not come back together.
pub(crate) fn jittered(time: Duration) -> Duration {
    let [random, ..] = random_bytes();
    time.mul_f64(0.75 + f64::from(random) / 512.0)
}
