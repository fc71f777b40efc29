//! Who may change what, as values: a function that changes something asks to see the proof.
//!
//! The order is container, then networks; whoever has a network alone waits for no container. So nobody
//! waits in a circle.

use std::path::PathBuf;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use weft_model::{ContainerId, NetworkName};
use weft_state::lock::FileLock;
use weft_state::{Root, StateError};

/// The directory of locks.
#[derive(Clone, Debug)]
pub(crate) struct Locks {
    dir: PathBuf,
}

/// Proof that this process alone gives out subnets and network names.
#[derive(Debug)]
pub(crate) struct Pools {
    _lock: FileLock,
}

/// Proof that nobody connects to, changes or removes a network.
#[derive(Debug)]
pub(crate) struct Alone {
    network: NetworkName,
    lock: FileLock,
}

/// Proof that nobody removes or changes a network.
#[derive(Debug)]
pub(crate) struct Shared {
    _lock: FileLock,
}

/// Proof that this process alone connects and disconnects a container.
#[derive(Debug)]
pub(crate) struct Mine {
    container: ContainerId,
    lock: FileLock,
}

impl Alone {
    pub(crate) fn network(&self) -> &NetworkName {
        &self.network
    }

    /// Lets go of a network that is no more, and removes the lock's file.
    pub(crate) fn finish(self) -> Result<(), StateError> {
        self.lock.unlink()
    }
}

impl Mine {
    pub(crate) fn container(&self) -> &ContainerId {
        &self.container
    }

    /// Runs `work` with plugins that keep the lock for as long as they run.
    ///
    /// If this process is killed, its plugin finishes what it does, and nobody takes its half-made
    /// attachment for one to be mended meanwhile. Only for ADD: what a DEL leaves running in the background
    /// must keep nobody waiting.
    pub(crate) fn lent<T>(&self, work: impl FnOnce() -> T) -> T {
        let set = |flags| {
            // A lock that cannot be lent is a lock all the same.
            fcntl(self.lock.as_ref(), FcntlArg::F_SETFD(flags)).ok();
        };
        set(FdFlag::empty());
        let outcome = work();
        set(FdFlag::FD_CLOEXEC);
        outcome
    }

    /// Lets go of a container that is connected to nothing, and removes the lock's file.
    pub(crate) fn finish(self) -> Result<(), StateError> {
        self.lock.unlink()
    }
}

impl Locks {
    pub(crate) fn new(root: &Root) -> Self {
        Self { dir: root.locks_dir() }
    }

    pub(crate) fn pools(&self) -> Result<Pools, StateError> {
        Ok(Pools { _lock: FileLock::exclusive(&self.dir.join("pools"))? })
    }

    pub(crate) fn alone(&self, network: &NetworkName) -> Result<Alone, StateError> {
        let lock = FileLock::exclusive(&self.network(network))?;
        Ok(Alone { network: network.clone(), lock })
    }

    pub(crate) fn shared(&self, network: &NetworkName) -> Result<Shared, StateError> {
        Ok(Shared { _lock: FileLock::shared(&self.network(network))? })
    }

    pub(crate) fn container(&self, id: &ContainerId) -> Result<Mine, StateError> {
        let lock = FileLock::exclusive(&self.dir.join(format!("container-{id}")))?;
        Ok(Mine { container: id.clone(), lock })
    }

    /// Returns whether somebody is at work on a container.
    pub(crate) fn is_busy(&self, id: &ContainerId) -> bool {
        match FileLock::try_exclusive(&self.dir.join(format!("container-{id}"))) {
            Ok(Some(lock)) => {
                // An empty file that stays is harmless.
                lock.unlink().ok();
                false
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    fn network(&self, name: &NetworkName) -> PathBuf {
        self.dir.join(format!("network-{name}"))
    }
}
