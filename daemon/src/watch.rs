//! Hearing of changes, and what follows from them.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use weft_manager::Manager;
use weft_nft::Monitor;

use crate::mend;
use crate::notify::notify;
use crate::schedule::Schedule;

/// Restores what is taken away, until a signal ends it.
pub(crate) async fn watch(manager: &Manager) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let monitor = Monitor::open().map_err(explained)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe: for those whose descriptor changes, which ours does not"
    )]
    let monitor = AsyncFd::try_with_interest(monitor, Interest::READABLE);
    let mut monitor = monitor.context("cannot wait for the kernel")?;
    let mut watch =
        Watch { manager, schedule: Schedule::new(Instant::now()), ready: false, unmended: Vec::new() };
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

fn explained(error: weft_nft::Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => anyhow::anyhow!("{error}\nhint: {hint}"),
        None => error.into(),
    }
}

/// What is known between two looks.
struct Watch<'a> {
    manager: &'a Manager,
    schedule: Schedule,
    /// Whether the service manager was told that we are there.
    ready: bool,
    /// What the last repair should have restored: it is told once, not every minute.
    unmended: Vec<String>,
}

impl Watch<'_> {
    /// Asks what is missing, and mends it unless the last repairs were only just now.
    ///
    /// It is done on this thread: a signal that comes meanwhile finds us between two repairs, not in one.
    fn look(&mut self) {
        match mend::missing(self.manager) {
            Ok(missing) if missing.is_empty() => {
                self.schedule.sound(Instant::now());
                self.unmended.clear();
            }
            Ok(missing) => {
                if self.schedule.may_mend(Instant::now()) {
                    self.mend(missing);
                }
            }
            Err(error) => self.failed(vec![format!("cannot see what is missing: {error:#}")]),
        }
        if !std::mem::replace(&mut self.ready, true) {
            notify("READY=1\nSTATUS=listening to the kernel");
        }
    }

    fn mend(&mut self, missing: Vec<String>) {
        if let Err(error) = mend::mend(self.manager) {
            let why = format!("cannot mend it: {error:#}");
            return self.failed(missing.into_iter().chain([why]).collect());
        }
        let word = if missing == self.unmended { "still missing" } else { "mended" };
        if missing != self.unmended || self.schedule.pause().is_zero() {
            say(word, &missing);
        }
        self.unmended = missing;
        self.tried();
    }

    fn failed(&mut self, why: Vec<String>) {
        if why != self.unmended {
            say("not mended", &why);
        }
        self.unmended = why;
        self.tried();
    }

    fn tried(&mut self) {
        let before = self.schedule.pause();
        self.schedule.mended(Instant::now());
        let pause = self.schedule.pause();
        if pause > before {
            say(
                "waiting",
                &[format!(
                    "this happens again and again: nothing is mended in the next {} s",
                    pause.as_secs()
                )],
            );
        }
    }
}

fn say(word: &str, lines: &[String]) {
    for line in lines {
        eprintln!("weftd: {word}: {line}");
    }
}
