//! The namespace that an isolated network has in the host's place.

use std::path::{Path, PathBuf};

use weft_model::NetworkName;
use weft_netns::{Netns, NetnsError};
use weft_state::Root;
use weft_state::lock::FileLock;

use super::error::KernelError;
use crate::local::LocalNetwork;

/// Returns where the namespace of an isolated network is pinned.
pub fn netns_path(root: &Root, name: &NetworkName) -> PathBuf {
    root.overlay_run_dir().join("netns").join(name.as_str())
}

/// Returns the namespace that a network has in the host's place: none unless it is isolated. With `make` it is made if
/// it is not there.
///
/// # Errors
///
/// When the kernel refuses.
pub fn home(local: &LocalNetwork, root: &Root, make: bool) -> Result<Option<Netns>, KernelError> {
    if !local.isolated {
        return Ok(None);
    }
    let path = netns_path(root, &local.name);
    match find(&path)? {
        None if make => {
            // An agent that starts and plugins may all find none.
            let _alone = FileLock::exclusive(&root.locks_dir().join("overlay-netns"))?;
            match find(&path)? {
                None => make_anew(&path).map(Some),
                found => Ok(found),
            }
        }
        found => Ok(found),
    }
}

fn find(path: &Path) -> Result<Option<Netns>, NetnsError> {
    match Netns::open(path) {
        Ok(netns) => Ok(Some(netns)),
        Err(NetnsError::Missing { .. } | NetnsError::NotANamespace { .. }) => Ok(None),
        // Anything else says nothing about the namespace, and the one that is there is full of containers.
        Err(error) => Err(error),
    }
}

fn make_anew(path: &Path) -> Result<Netns, KernelError> {
    // A plain file is what a reboot, or an unmount by hand, has left of a pin.
    match weft_netns::unpin(path) {
        Ok(()) | Err(NetnsError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(folder) = path.parent() {
        weft_netns::pin_folder(folder)?;
    }
    Ok(weft_netns::pin(path)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::local::tests::network;

    /// Makes the namespace many times at once, and returns how many others there were besides the one that is pinned.
    fn made_at_once(local: &LocalNetwork, root: &Root) -> usize {
        const MANY: usize = 16;
        let start = Barrier::new(MANY);
        let make = || {
            start.wait();
            home(local, root, true).unwrap().unwrap()
        };
        let all: Vec<Netns> = thread::scope(|scope| {
            let running: Vec<_> = (0..MANY).map(|_| scope.spawn(make)).collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        });
        all.iter().filter(|home| !home.is_at(&netns_path(root, &local.name))).count()
    }

    #[test]
    fn whoever_comes_at_the_same_time_gets_the_same_namespace() {
        weft_netns::isolate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(Some(folder.path().into()));
        let local = LocalNetwork { isolated: true, ..network() };
        let path = netns_path(&root, &local.name);
        assert!(home(&local, &root, false).unwrap().is_none(), "nobody has made it");
        for round in 0..10 {
            assert_eq!(made_at_once(&local, &root), 0, "round {round}");
            match round % 3 {
                0 => weft_netns::unpin(&path).unwrap(),
                // The file stays, as after a reboot.
                1 => nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).unwrap(),
                _ => {}
            }
        }
    }
}
