//! Processes that outlive the programs that started them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A namespace: the device and the inode of its file.
pub(crate) type Identity = (u64, u64);

/// Returns which namespace a path leads to.
pub(crate) fn identity(path: impl AsRef<Path>) -> Option<Identity> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Returns the processes in these network namespaces, but for this one. What has ended and is not yet waited for is in none.
///
/// Nobody in the machine's own namespace is among them, whatever is asked for.
pub(crate) fn inhabitants(namespaces: &BTreeSet<Identity>) -> BTreeSet<i32> {
    let machine = identity("/proc/1/ns/net");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let netns = identity(entry.path().join("ns/net"));
        if netns.is_some_and(|netns| Some(netns) != machine && namespaces.contains(&netns)) {
            found.insert(id);
        }
    }
    found.remove(&std::process::id().cast_signed());
    found
}

/// Ends processes (SIGKILL) until none is left: one may have been about to start another.
///
/// # Panics
///
/// When they do not end, unless the thread panics already: a test that fails says why, and that something stays besides is
/// not the news.
pub(crate) fn end(left: impl Fn() -> BTreeSet<i32>) {
    let is_over = || {
        let left = left();
        for id in &left {
            kill(Pid::from_raw(*id), Signal::SIGKILL).ok();
        }
        left.is_empty()
    };
    let patience = if thread::panicking() { Duration::from_secs(5) } else { Duration::from_secs(60) };
    let limit = Instant::now() + patience;
    while !is_over() && Instant::now() < limit {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(is_over() || thread::panicking(), "what the test has started does not end");
}
