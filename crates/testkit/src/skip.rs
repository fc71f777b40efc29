//! Saying what a machine lacked.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// The environment variable that names the file to collect notices in. `cargo xtask test` sets it.
pub const SKIPS: &str = "WEFT_SKIPS";

/// Says what the calling test, or a part of it, needed and did not find.
///
/// The notice goes to stderr, which a runner hides when the test passes, and to the file that
/// [`SKIPS`] names: one line, the test's name and what it needed.
///
/// # Panics
///
/// If the file is named and cannot be written: a notice nobody sees is what this is here to prevent.
pub fn skipped(needs: impl Display) {
    eprintln!("skipped: needs {needs}");
    let Some(path) = std::env::var_os(SKIPS) else { return };
    let line = format!("{}: needs {needs}\n", test_name());
    let written = OpenOptions::new().create(true).append(true).open(&path);
    // One write: tests append to the file from many processes at once.
    written
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Returns the name of the running test, as its runner tells.
///
/// nextest runs one test per process and says which; libtest names the test's thread after it.
fn test_name() -> String {
    let named = std::env::var("NEXTEST_TEST_NAME").ok().or_else(|| {
        let thread = std::thread::current();
        thread.name().filter(|name| *name != "main").map(String::from)
    });
    let program = std::env::current_exe().ok();
    let binary = std::env::var("NEXTEST_BINARY_ID").ok().or_else(|| {
        Some(program?.file_name()?.to_str()?.rsplit_once('-').map_or("", |(name, _)| name).to_string())
    });
    format!("{} {}", binary.unwrap_or_default(), named.unwrap_or_else(|| "a test".into()))
}

/// Ends a test that this machine cannot run, after saying what it lacked.
///
/// ```ignore
/// skip_unless!(lab.has_link_type("dummy"), "kernel link type dummy");
/// ```
#[macro_export]
macro_rules! skip_unless {
    ($there:expr, $what:expr) => {
        if !$there {
            $crate::skipped($what);
            return;
        }
    };
}
