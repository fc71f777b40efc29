//! Changes as they come.

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use weft_overlay::Event;

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Changes, in order; all changes of one revision are in one event.
    Changes(Vec<Event>),
    /// Nothing that is watched has changed up to this revision.
    Progress(i64),
    /// The store does not answer at present, and why; the watch goes on by itself when it does. It is said again when the reason is
    /// another.
    Lost(String),
    /// It answers again, and nothing was missed.
    Back,
    /// What came after the last event is forgotten up to this revision. The watch is over.
    Compacted(i64),
    /// It is another store, or one that went back. The watch is over.
    Reset(String),
}

impl WatchEvent {
    /// Returns whether the watch is over.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Compacted(_) | Self::Reset(_))
    }
}

/// A running watch. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    task: AbortHandle,
}

impl Watch {
    /// So many events may wait for the reader before the watch itself waits.
    pub(crate) const AHEAD: usize = 64;

    pub(crate) fn new(events: mpsc::Receiver<WatchEvent>, task: AbortHandle) -> Self {
        Self { events, task }
    }

    /// Waits for the next event; `None` after the last.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.events.recv().await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
