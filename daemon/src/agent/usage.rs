//! How full this host's blocks are. Containers come and go without telling anybody: their leases are counted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use weft_model::NetworkName;
use weft_state::Root;

/// Of a hundred addresses this many in use make the host claim another block.
const FULL: u64 = 80;

/// The leases of networks, read again when their directory has changed.
#[derive(Debug)]
pub(crate) struct Usage {
    dir: PathBuf,
    known: BTreeMap<NetworkName, (Stamp, Vec<IpAddr>)>,
}

/// What changes when a file comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

impl Usage {
    /// Returns the leases below `root`.
    pub(crate) fn new(root: &Root) -> Self {
        Self { dir: root.cni_networks_dir(), known: BTreeMap::new() }
    }

    /// Returns where a network's leases are.
    pub(crate) fn dir(&self, network: &NetworkName) -> PathBuf {
        self.dir.join(network.as_str())
    }

    /// Returns the addresses of a network that are in use on this host, or lent.
    pub(crate) fn of(&mut self, network: &NetworkName) -> &[IpAddr] {
        let dir = self.dir(network);
        let Some(stamp) = stamp(&dir) else {
            self.known.remove(network);
            return &[];
        };
        let known = self.known.entry(network.clone()).or_insert_with(|| (Stamp::NEVER, Vec::new()));
        if known.0 != stamp {
            // What changes while it is read has another stamp next time.
            *known = (stamp, leases(&dir));
        }
        &known.1
    }
}

impl Stamp {
    const NEVER: Self = Self { inode: 0, changed: (0, 0) };
}

fn stamp(dir: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(dir).ok()?;
    Some(Stamp { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })
}

fn leases(dir: &Path) -> Vec<IpAddr> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Returns how many addresses of a block containers can have: all but its first, which stands for the host as a next
/// hop, the gateway, and of IPv4 the last.
pub(crate) fn size(block: IpNetwork) -> u64 {
    let (length, taken) = if block.is_ipv4() { (32, 3) } else { (128, 2) };
    if block.prefix() == length {
        return 1;
    }
    let all = 1_u64.checked_shl(u32::from(length - block.prefix())).unwrap_or(u64::MAX);
    all.saturating_sub(taken)
}

/// Returns how many of some addresses are in some blocks.
pub(crate) fn within(addresses: &[IpAddr], blocks: &[IpNetwork]) -> u64 {
    let inside = addresses.iter().filter(|address| blocks.iter().any(|block| block.contains(**address)));
    inside.count().try_into().unwrap_or(u64::MAX)
}

/// Returns whether blocks of one family are so full that another one is claimed.
pub(crate) fn is_full(used: u64, size: u64) -> bool {
    used.saturating_mul(100) >= size.saturating_mul(FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_counted_as_they_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(Some(dir.path().into()));
        let (mut usage, blue) = (Usage::new(&root), "blue".parse().unwrap());
        assert!(usage.of(&blue).is_empty());
        let leases = root.cni_networks_dir().join("blue");
        let lease = |name: &str| {
            weft_state::atomic::write(&leases.join(name), b"x", weft_state::atomic::Durability::Boot, 0o600)
                .unwrap();
        };
        lease("10.1.0.2");
        lease("last_reserved_ip.0");
        lease("lock");
        assert_eq!(usage.of(&blue), ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        lease("2001:db8::2");
        assert_eq!(usage.of(&blue).len(), 2);
        let blocks = ["10.1.0.0/26".parse().unwrap()];
        assert_eq!(within(usage.of(&blue), &blocks), 1, "of the block's family");
        std::fs::remove_file(leases.join("10.1.0.2")).unwrap();
        assert_eq!(within(usage.of(&blue), &blocks), 0);
    }

    #[test]
    fn a_block_is_full_before_it_is_used_up() {
        let size = size("10.1.0.0/26".parse().unwrap());
        assert_eq!(size, 61);
        assert!(!is_full(48, size) && is_full(49, size) && is_full(61, size));
        assert_eq!(super::size("2001:db8::/122".parse().unwrap()), 62);
        assert_eq!(super::size("2001:db8::/56".parse().unwrap()), u64::MAX - 2);
        assert!(is_full(0, 0), "without a block there is none to be had");
    }
}
