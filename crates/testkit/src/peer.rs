//! Other people's programs, which tests run beside ours: installed, or unpacked by `cargo xtask setup`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Program, skipped};

/// Where `cargo xtask setup` unpacks what is not installed.
pub fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers").components().collect()
}

/// Returns where a program is, given its place in an installed system; says so if it is nowhere.
pub fn peer(program: &str) -> Option<PathBuf> {
    let places = [PathBuf::from(program), unpacked().join(program.trim_start_matches('/'))];
    let found = places.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skipped(program);
    }
    found
}

/// Prepares a program that finds its libraries and companions where it was unpacked.
pub fn peer_program(path: &Path) -> Program {
    let top = unpacked().display().to_string();
    let libraries = format!("{top}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    Program::new(path)
        .env("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{top}/usr/sbin:{top}/usr/bin"))
        .env("LD_LIBRARY_PATH", &libraries)
        .env("GI_TYPELIB_PATH", format!("{libraries}/girepository-1.0"))
        .env("PYTHONPATH", format!("{top}/usr/lib/python3/dist-packages"))
}

/// Waits until nothing is left of what another program, or the kernel, clears away in its own time.
///
/// # Panics
///
/// When that takes more than a minute, with what is left.
#[track_caller]
pub fn until_none(what: &str, left: impl Fn() -> Vec<String>) {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < limit, "{what} after more than a minute:\n{}", left.join("\n"));
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits for what another program does in its own time.
///
/// # Panics
///
/// When that takes more than a minute.
#[track_caller]
pub fn until(what: &str, there: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !there() {
        assert!(Instant::now() < limit, "{what} takes more than a minute");
        thread::sleep(Duration::from_millis(50));
    }
}
