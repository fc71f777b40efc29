//! Namespaces that outlive the process: pinned by a mount, as `ip netns add` does it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;

use crate::{CURRENT, Netns, NetnsError, inside};

/// Where `ip netns` keeps its namespaces.
const NAMED: &str = "/run/netns";

/// No path: the argument of `mount` that a flag makes meaningless.
const NONE: Option<&Path> = None;

/// Creates a namespace pinned at `/run/netns/<name>`, which `ip netns` lists too.
///
/// # Errors
///
/// [`NetnsError::Exists`] when the name is taken; otherwise whatever the kernel refuses.
pub fn create(name: &str) -> Result<Netns, NetnsError> {
    let dir = Path::new(NAMED);
    pin_folder(dir)?;
    pin(dir.join(name))
}

/// Makes a directory that namespaces can be pinned in: processes with mounts of their own see them, too.
///
/// # Errors
///
/// Whatever the kernel refuses.
pub fn pin_folder(dir: &Path) -> Result<(), NetnsError> {
    let refused = |source| NetnsError::create(format!("create {}", dir.display()), source);
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(refused)?;
    share(dir).map_err(|errno| refused(errno.into()))
}

/// Makes mounts below `dir` reach namespaces of mounts that exist already, and unmounts too.
///
/// KERNEL: only a mount point has a propagation, so a plain directory is mounted onto itself first.
fn share(dir: &Path) -> Result<(), Errno> {
    let shared = || mount(NONE, dir, NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE);
    match shared() {
        Err(Errno::EINVAL) => {
            mount(Some(dir), dir, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
            shared()
        }
        other => other,
    }
}

/// Creates a namespace and pins it at `path`, which must not exist.
///
/// # Errors
///
/// [`NetnsError::Exists`] when `path` exists; otherwise whatever the kernel refuses.
pub fn pin(path: impl Into<PathBuf>) -> Result<Netns, NetnsError> {
    let path = path.into();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path);
    drop(file.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => NetnsError::Exists { path: path.clone() },
        _ => NetnsError::create(format!("create {}", path.display()), source),
    })?);
    let pinned = inside(leave, || mount(Some(CURRENT), &path, NONE, MsFlags::MS_BIND, NONE))
        .and_then(|mounted| {
            mounted.map_err(|errno| NetnsError::create(format!("mount {}", path.display()), errno))
        })
        .and_then(|()| Netns::open(&path));
    if pinned.is_err() {
        // Best effort: the error that matters is the one that brought us here.
        drop(unpin(&path));
    }
    pinned
}

/// Runs `work` in a namespace that nobody else has and that goes when it returns: what it does there touches nothing.
///
/// # Errors
///
/// Whatever the kernel refuses.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    inside(leave, work)
}

fn leave() -> Result<(), NetnsError> {
    #[expect(clippy::disallowed_methods, reason = "the thread that calls this ends inside")]
    let left = nix::sched::unshare(CloneFlags::CLONE_NEWNET);
    left.map_err(|errno| NetnsError::create("create a network namespace", errno))
}

/// Removes a pin. The namespace itself goes when nothing else holds it.
///
/// # Errors
///
/// [`NetnsError::Missing`] when there is no pin; otherwise whatever the kernel refuses.
pub fn unpin(path: impl AsRef<Path>) -> Result<(), NetnsError> {
    let path = path.as_ref();
    match umount2(path, MntFlags::MNT_DETACH) {
        // A pin whose mount is gone, as after a reboot, is a plain file.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(Errno::ENOENT) => return Err(NetnsError::Missing { path: path.into() }),
        Err(errno) => return Err(NetnsError::create(format!("unmount {}", path.display()), errno)),
    }
    fs::remove_file(path).map_err(|source| NetnsError::create(format!("remove {}", path.display()), source))
}
