//! Hearing of changes, and what follows from them.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use weft_manager::Manager;
use weft_nft::Monitor;

use crate::notify::notify;
use crate::schedule::Schedule;
use crate::{hinted, mend};

/// Restores what is taken away, until a signal ends it.
pub(crate) async fn watch(manager: &Manager) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let monitor = Monitor::open().map_err(|error| hinted(&error, error.hint()))?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe: for those whose descriptor changes, which ours does not"
    )]
    let monitor = AsyncFd::try_with_interest(monitor, Interest::READABLE);
    let mut monitor = monitor.context("cannot wait for the kernel")?;
    let mut watch = Watch::new(manager);
    loop {
        // What is due comes before what is heard: whoever never stops talking does not keep us from looking.
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = until(watch.schedule.due()) => {
                // What has been announced by now is seen by this look.
                monitor.get_mut().changed()?;
                watch.look();
            }
            changed = heard(&mut monitor) => {
                if changed? {
                    watch.schedule.changed(Instant::now());
                }
            }
        }
    }
    notify("STOPPING=1");
    Ok(())
}

/// Waits until something is announced, and returns whether it is a change.
async fn heard(monitor: &mut AsyncFd<Monitor>) -> Result<bool> {
    let mut ready = monitor.readable_mut().await.context("cannot wait for the kernel")?;
    let changed = ready.get_inner_mut().changed()?;
    ready.clear_ready();
    Ok(changed)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// What is known between two looks.
struct Watch<'a> {
    manager: &'a Manager,
    schedule: Schedule,
    /// Whether the service manager was told that we are there.
    ready: bool,
    /// What the last repair left: either it cannot be mended, or somebody was quick.
    left: Vec<String>,
    /// The last thing that went wrong: it is told once, not at every try.
    wrong: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(manager: &'a Manager) -> Self {
        let schedule = Schedule::new(Instant::now());
        Self { manager, schedule, ready: false, left: Vec::new(), wrong: None }
    }

    /// Asks what is missing, and mends it unless the last repairs were only just now.
    ///
    /// It is done on this thread: a signal that comes meanwhile finds us between two repairs, not in one.
    fn look(&mut self) {
        match mend::missing(self.manager) {
            Ok(missing) => {
                let new = missing.iter().any(|what| !self.left.contains(what));
                if missing.is_empty() {
                    self.wrong = None;
                    self.left.clear();
                    self.schedule.sound(Instant::now());
                } else if self.schedule.may_mend(Instant::now(), new) {
                    self.mend(&missing, new);
                }
            }
            Err(error) => {
                self.goes_wrong(format!("cannot see what is missing: {error:#}"));
                self.schedule.blind(Instant::now());
            }
        }
        if !std::mem::replace(&mut self.ready, true) {
            notify("READY=1\nSTATUS=listening to the kernel");
        }
    }

    fn mend(&mut self, missing: &[String], new: bool) {
        if let Err(error) = mend::mend(self.manager) {
            self.goes_wrong(format!("cannot mend all of it: {error:#}"));
        }
        self.left = mend::missing(self.manager).unwrap_or_else(|_| missing.to_vec());
        say("mended", missing.iter().filter(|what| !self.left.contains(what)));
        let before = self.schedule.pause(new);
        self.schedule.mended(Instant::now(), new);
        if self.schedule.gives_up() {
            say("not mended", self.left.iter());
        }
        let pause = self.schedule.pause(new);
        if new && pause > before {
            let seconds = pause.as_secs();
            eprintln!("weftd: somebody does this again and again: nothing is mended in the next {seconds} s");
        }
    }

    fn goes_wrong(&mut self, what: String) {
        if self.wrong.as_ref() != Some(&what) {
            eprintln!("weftd: {what}");
        }
        self.wrong = Some(what);
    }
}

fn say<'a>(word: &str, lines: impl Iterator<Item = &'a String>) {
    for line in lines {
        eprintln!("weftd: {word}: {line}");
    }
}
