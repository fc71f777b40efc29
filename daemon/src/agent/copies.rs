//! What the agent knows, where it outlives the agent.
//!
//! A copy is in `/run`, and never older than what the kernel was brought to: an agent that is killed and starts again must not
//! take back what the one before it had made. The other is on the disk, for the next boot.

use std::time::{Duration, Instant};

use weft_overlay::here::Health;
use weft_state::StateError;
use weft_state::atomic::Durability;

use super::agent::Agent;

/// The copy on the disk is not written more often than this.
const REST: Duration = Duration::from_millis(900);

/// Which copies of the snapshot are older than it is.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Whether that in `/run` is, in something that the kernel follows.
    boot: bool,
    /// Whether that on the disk is, and when it was written.
    disk: bool,
    written: Option<Instant>,
}

impl Copies {
    /// Notes that the snapshot is another; `matters` if the kernel may have to follow.
    pub(crate) fn outdate(&mut self, matters: bool) {
        self.boot |= matters;
        self.disk = true;
    }
}

impl Agent {
    /// Writes what the kernel is about to be brought to. What fails is told.
    pub(crate) fn save_ahead(&self) {
        if self.change(|inner| std::mem::take(&mut inner.copies.boot)) {
            let why = self.with(|inner| inner.snapshot.save(&self.root, Durability::Boot)).err();
            self.change(|inner| inner.copies.boot = why.is_some());
            self.trouble("the snapshot of this boot", why.map(|error| outdated(&error)));
        }
    }

    /// Writes the copy on the disk if it is old.
    ///
    /// # Errors
    ///
    /// Names the file and the reason.
    pub(crate) fn save(&self) -> Result<(), StateError> {
        if !self.change(|inner| std::mem::take(&mut inner.copies.disk)) {
            return Ok(());
        }
        let saved = self.with(|inner| inner.snapshot.save(&self.root, Durability::Disk));
        self.change(|inner| {
            inner.copies.disk = saved.is_err();
            inner.copies.written = Some(Instant::now());
        });
        saved
    }

    /// Writes the copy on the disk if it is old and was not written just now. What fails is told.
    pub(crate) fn save_now_and_then(&self) {
        if self.with(|inner| inner.copies.written.is_some_and(|written| written.elapsed() < REST)) {
            return;
        }
        self.trouble("the snapshot", self.save().err().map(|error| outdated(&error)));
    }

    /// Tells plugins how things are, when that has changed.
    pub(crate) fn tell_plugins(&self) {
        let why = self.with(|inner| inner.state().1);
        if self.with(|inner| inner.told.as_ref() == Some(&why)) {
            return;
        }
        match Health::save(&self.root, why.clone()) {
            Ok(()) => self.change(|inner| inner.told = Some(why)),
            Err(error) => eprintln!("weftd: {error}"),
        }
    }
}

fn outdated(error: &StateError) -> String {
    format!("{error}: a restart would go by what was known before")
}
