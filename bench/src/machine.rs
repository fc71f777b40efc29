//! Where it was measured, and against what.

use std::path::Path;

use weft_testkit::staged_folder;

use crate::peers;

/// Describes the machine in one line.
pub(crate) fn describe() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
    format!("{}, Linux {}, {cores} × {model}", system.trim_matches('"'), kernel.trim())
}

/// Names the peers' versions in one line.
pub(crate) fn peers() -> String {
    let package =
        |name: &str| peers::version(name).unwrap_or_else(|| format!("{name} (not a Debian package)"));
    let others = ["docker.io", "netavark"].iter().filter_map(|name| peers::version(name));
    let all = ["containernetworking-plugins", "iptables"].into_iter().map(package).chain(others);
    all.collect::<Vec<_>>().join(", ")
}

/// The size of a binary in KiB, of ours and of Debian's.
pub(crate) fn sizes(kind: &str) -> (Option<u64>, Option<u64>) {
    let size = |folder: &Path| Some(folder.join(kind).metadata().ok()?.len() / 1024);
    (size(&staged_folder()), size(Path::new("/usr/lib/cni")))
}
