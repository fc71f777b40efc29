//! Where it was measured, and against what.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

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

/// Waits until the kernel has cleared away the namespaces that nobody is in any more: it does so beside whatever is measured next.
pub(crate) fn wait_for_namespaces() {
    const PAUSE: Duration = Duration::from_secs(1);
    const PAUSES: usize = 60;
    // KERNEL: how many there are stands in slabinfo(5), for root alone; one that is not read or does not change is not waited for.
    let count = || {
        let slabs = std::fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        let line = slabs.lines().find_map(|line| line.strip_prefix("net_namespace "));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok())
    };
    let mut before = count();
    for _ in 0..PAUSES {
        std::thread::sleep(PAUSE);
        let now = count();
        if now == before {
            return;
        }
        before = now;
    }
}

/// The size of a binary of ours in KiB.
pub(crate) fn size(name: &str) -> Option<u64> {
    Some(staged_folder().join(name).metadata().ok()?.len() / 1024)
}

/// How many plugins of ours Debian has as well, and the size in KiB that they take together on either side. A file of
/// several names is counted once.
pub(crate) fn plugins() -> (usize, u64, u64) {
    let (mut count, mut ours, mut theirs) = (0, BTreeMap::new(), BTreeMap::new());
    for entry in staged_folder().read_dir().into_iter().flatten().flatten() {
        let reference = Path::new("/usr/lib/cni").join(entry.file_name()).metadata();
        let (Ok(one), Ok(other)) = (entry.metadata(), reference) else { continue };
        count += 1;
        ours.insert(one.ino(), one.len());
        theirs.insert(other.ino(), other.len());
    }
    let total = |files: BTreeMap<u64, u64>| files.values().sum::<u64>() / 1024;
    (count, total(ours), total(theirs))
}
