//! What several unit tests need.

use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` with a mount of 64 kB that only its thread can see.
pub(crate) fn tiny_tmpfs(work: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            #[expect(
                clippy::disallowed_methods,
                reason = "a mount namespace for a thread that ends with the test"
            )]
            let left = unshare(CloneFlags::CLONE_NEWNS);
            if let Err(errno) = left {
                weft_testkit::skipped(format_args!("a mount namespace: {errno}"));
                return;
            }
            let none = None::<&Path>;
            mount(none, Path::new("/"), none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
            work(dir.path());
        });
    });
}
