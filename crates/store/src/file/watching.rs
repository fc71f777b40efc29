//! Watching the directory: inotify tells that something happened, and the log what.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use weft_overlay::Event;

use super::FileStore;
use crate::{StoreError, Watch, WatchEvent};

/// Begins a watch.
pub(super) async fn begin(store: FileStore, prefix: String, from: i64) -> Result<Watch, StoreError> {
    let dir = store.dir();
    let broken = |errno: Errno| store.broken(&format!("inotify: {errno}"));
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(broken)?;
    // The header is renamed into place when a transaction has been carried out. Leases are another directory: a new one
    // may run out before those that are known.
    let happening = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(&dir, happening).map_err(broken)?;
    inotify.add_watch(&dir.join("leases"), AddWatchFlags::IN_MOVED_TO).map_err(broken)?;
    // What is read from it is of no interest, so it may as well be a pipe: tokio's own type for descriptors is not safe.
    let notices = Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))
        .map_err(|error| store.broken(&error.to_string()))?;
    let header = store.blocking(|disk| Ok(disk.alone()?.header())).await?;
    let (sender, receiver) = mpsc::channel(Watch::AHEAD);
    let watcher = Watcher { store, prefix, id: header.id, next: from, told: from - 1, events: sender };
    let task = tokio::spawn(watcher.run(notices));
    Ok(Watch::new(receiver, task.abort_handle()))
}

struct Watcher {
    store: FileStore,
    prefix: String,
    /// Which store it was when the watch began.
    id: u64,
    /// The first revision that was not looked at.
    next: i64,
    /// The last revision the reader has heard of.
    told: i64,
    events: mpsc::Sender<WatchEvent>,
}

/// What looking came to.
enum Seen {
    Changes(Vec<Vec<Event>>),
    Over(WatchEvent),
}

impl Watcher {
    async fn run(mut self, notices: Receiver) {
        let mut lost = false;
        loop {
            match self.look().await {
                Ok(seen) => {
                    if std::mem::take(&mut lost) && self.events.send(WatchEvent::Back).await.is_err() {
                        return;
                    }
                    if !self.tell(seen).await {
                        return;
                    }
                }
                Err(error) if !lost => {
                    lost = true;
                    if self.events.send(WatchEvent::Lost(error.to_string())).await.is_err() {
                        return;
                    }
                }
                Err(_) => {}
            }
            if !self.wait(&notices, lost).await {
                return;
            }
        }
    }

    /// Waits until something may have happened; `false` when nothing can any more.
    async fn wait(&self, notices: &Receiver, lost: bool) -> bool {
        let expiry = self.store.blocking(|disk| disk.next_expiry()).await.ok().flatten();
        // A directory that cannot be read is looked at again every second.
        let pause = if lost { Some(Duration::from_secs(1)) } else { expiry };
        let woken = async {
            let mut buffer = [0; 4096];
            notices.readable().await.is_ok()
                && !notices.try_read(&mut buffer).is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
        };
        match pause {
            Some(pause) => tokio::time::timeout(pause, woken).await.unwrap_or(true),
            None => woken.await,
        }
    }

    async fn look(&self) -> Result<Seen, StoreError> {
        let (id, next, prefix) = (self.id, self.next, self.prefix.clone());
        let work = move |disk: &super::Disk| {
            let Some(header) = disk.header()? else {
                return Ok(Seen::Over(WatchEvent::Reset("the store was removed".into())));
            };
            if header.id != id {
                let why = format!("the store is another one ({:x}, it was {id:x})", header.id);
                return Ok(Seen::Over(WatchEvent::Reset(why)));
            }
            // What has run out ends now. The header is read again because that is a transaction.
            let header = disk.fresh()?.header();
            if header.revision + 1 < next {
                let why = format!("the store went back from revision {} to {}", next - 1, header.revision);
                return Ok(Seen::Over(WatchEvent::Reset(why)));
            }
            if next < header.compacted {
                return Ok(Seen::Over(WatchEvent::Compacted(header.compacted)));
            }
            let mut all = Vec::new();
            for revision in next..=header.revision {
                // Revision 1 is the empty store's.
                let changes = match disk.changes(revision)? {
                    Some(changes) => changes,
                    None if revision <= 1 => Vec::new(),
                    None => return Ok(Seen::Over(WatchEvent::Compacted(header.compacted))),
                };
                all.push(changes.into_iter().filter(|event| event.key().starts_with(&prefix)).collect());
            }
            Ok(Seen::Changes(all))
        };
        self.store.blocking(work).await
    }

    /// Tells what was seen; `false` when the watch is over.
    async fn tell(&mut self, seen: Seen) -> bool {
        let all = match seen {
            Seen::Over(event) => {
                drop(self.events.send(event).await);
                return false;
            }
            Seen::Changes(all) => all,
        };
        for changes in all {
            let revision = self.next;
            self.next += 1;
            if !changes.is_empty() {
                self.told = revision;
                if self.events.send(WatchEvent::Changes(changes)).await.is_err() {
                    return false;
                }
            }
        }
        if self.told < self.next - 1 {
            self.told = self.next - 1;
            return self.events.send(WatchEvent::Progress(self.told)).await.is_ok();
        }
        !self.events.is_closed()
    }
}
