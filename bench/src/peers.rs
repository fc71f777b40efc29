//! The peers that are no CNI plugins: where they are, and which versions.

use std::path::{Path, PathBuf};

use weft_testkit::Program;

/// Where `cargo xtask bench` unpacks the packages that are not installed.
fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers")
}

/// Returns where a peer's program is, given its place in an installed system.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let installed = PathBuf::from(program);
    let unpacked = unpacked().join(program.trim_start_matches('/'));
    [installed, unpacked].into_iter().find(|path| path.is_file())
}

/// Returns the variables that let an unpacked program find its libraries and the programs that came with it.
pub(crate) fn environment() -> [(&'static str, String); 2] {
    let top = unpacked().display().to_string();
    let folders = ["usr/sbin", "usr/bin"].map(|folder| format!("{top}/{folder}"));
    let libraries = format!("{top}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{}", folders.join(":"))), ("LD_LIBRARY_PATH", libraries)]
}

/// Returns a package's name and version, installed or unpacked.
pub(crate) fn version(package: &str) -> Option<String> {
    let shown =
        Program::new("dpkg-query").args(["-W", "-f", "${Status} ${Package} ${Version}", package]).run();
    if let Some(version) = shown.stdout.strip_prefix("install ok installed ") {
        return Some(version.to_string());
    }
    let versions = std::fs::read_to_string(unpacked().join("versions")).unwrap_or_default();
    let mut lines = versions.lines();
    lines.find(|line| line.strip_prefix(package).is_some_and(|rest| rest.starts_with(' '))).map(String::from)
}
