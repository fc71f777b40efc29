//! Network namespaces: open, create, pin, run inside.
//!
//! The only crate that calls `setns` or `unshare`. Whoever enters a namespace ([`Netns::run`]) is back
//! when the call returns, or the process ends: nobody is left in the wrong one.

mod error;
mod here;
mod home;
mod isolate;
mod pin;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::statfs::fstatfs;

pub use error::NetnsError;
pub use here::Here;
pub use isolate::isolate;
pub use pin::{apart, create, pin, pin_folder, unpin};

/// The namespace of the calling thread, as opposed to that of the process's first thread.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// The stack of a thread that makes a namespace and pins it.
const STACK: usize = 128 * 1024;

/// An open network namespace. It exists as long as this value does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Which namespace something was. It keeps none: another one may have the same identity when this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Returns whether `path` names that namespace. What cannot be looked at is not.
    pub fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode))
    }
}

impl Netns {
    /// Opens the namespace that `path` names: a mount such as `/run/netns/red`, or `/proc/1234/ns/net`.
    ///
    /// # Errors
    ///
    /// [`NetnsError::Missing`] when there is nothing at `path`, [`NetnsError::NotANamespace`] when there
    /// is something else, such as the plain file that an unmounted namespace leaves behind.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref();
        let wrap = |source| NetnsError::open(path, source);
        // O_NONBLOCK: opening a named pipe must not wait for a writer that never comes.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(wrap)?;
        if !is_network_namespace(&file).map_err(wrap)? {
            return Err(NetnsError::NotANamespace { path: path.into() });
        }
        Self::of(file, path)
    }

    fn of(file: File, path: &Path) -> Result<Self, NetnsError> {
        let meta = file.metadata().map_err(|source| NetnsError::open(path, source))?;
        Ok(Self { file, path: path.into(), device: meta.dev(), inode: meta.ino() })
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When CAP_NET_ADMIN is lacking and `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        let path = Path::new(CURRENT);
        Self::of(home::of_thread()?.try_clone().map_err(|source| NetnsError::open(path, source))?, path)
    }

    /// Returns whether this is the namespace that `path` names. What cannot be looked at is not.
    pub fn is_at(&self, path: &Path) -> bool {
        self.identity().is_at(path)
    }

    /// Returns which namespace it is, for whoever does not want to keep it.
    pub fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode }
    }

    /// Opens the host's namespace: the one we were started in.
    ///
    /// # Errors
    ///
    /// As [`Netns::current`].
    pub fn host() -> Result<Self, NetnsError> {
        Self::current()
    }

    /// Returns the path the namespace was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether both are one namespace, whatever their paths.
    pub fn same_as(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Returns a second handle to the namespace.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn try_clone(&self) -> Result<Self, NetnsError> {
        let file = self.file.try_clone().map_err(|source| NetnsError::open(&self.path, source))?;
        Ok(Self { file, path: self.path.clone(), ..*self })
    }

    /// Runs `work` inside this namespace and returns its value.
    ///
    /// The calling thread goes there and comes back, on panic, too; other threads stay where they are.
    /// A thread that cannot come back ends the process, because every later change would hit the
    /// wrong namespace. A thread of its own for the visit would be just as safe and cost ten times as
    /// much, which is a tenth of an ADD (docs/adr/0005-visits-on-the-calling-thread.md).
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered (CAP_SYS_ADMIN is needed).
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let home = home::of_thread()?;
        enter(&self.file)
            .map_err(|errno| NetnsError::Enter { path: self.path.clone(), source: errno.into() })?;
        let _back = Return { home };
        home::left();
        Ok(work())
    }
}

#[expect(clippy::disallowed_methods, reason = "every call is paired with a `Return`, or is one")]
fn enter(netns: &File) -> nix::Result<()> {
    nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)
}

/// Brings the calling thread back home when it is dropped.
struct Return {
    home: Arc<File>,
}

impl Drop for Return {
    fn drop(&mut self) {
        if enter(&self.home).is_err() {
            std::process::abort();
        }
        home::returned();
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a new thread once `enter` has moved that thread to where it belongs.
fn inside<T: Send>(
    enter: impl FnOnce() -> Result<(), NetnsError> + Send,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    let here = Here::stay();
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || {
            here.leave();
            enter().map(|()| work())
        });
        here.leave();
        thread.map_err(NetnsError::Thread)?.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Returns whether the file is a namespace, and of the network kind.
fn is_network_namespace(file: &File) -> io::Result<bool> {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

    if fstatfs(file)?.filesystem_type().0 != NSFS_MAGIC {
        return Ok(false);
    }
    #[expect(unsafe_code, reason = "the kind of a namespace is told by an ioctl alone")]
    // SAFETY: the descriptor is open for the whole call, and NS_GET_NSTYPE takes no argument.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    Ok(kind == libc::CLONE_NEWNET)
}
