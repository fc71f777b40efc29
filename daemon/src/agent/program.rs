//! The file that the agent runs from, which an upgrade replaces while it runs.

use std::io;
use std::path::PathBuf;

/// This process's program, whatever is under its path by now.
const SELF: &str = "/proc/self/exe";
/// What the kernel adds to the path of a file that is there no more (d_path, fs/d_path.c).
const DELETED: &str = " (deleted)";

/// Says whether the file that this process was started from is gone, or another has its name.
pub(crate) fn is_replaced() -> bool {
    std::fs::read_link(SELF).is_ok_and(|path| path.to_string_lossy().ends_with(DELETED))
}

/// Returns what starts the program of this process once more, if that is done at once: an upgrade may come at any time.
///
/// # Errors
///
/// When the kernel does not say where it is.
pub(crate) fn own() -> io::Result<PathBuf> {
    if is_replaced() { Ok(SELF.into()) } else { std::env::current_exe() }
}
