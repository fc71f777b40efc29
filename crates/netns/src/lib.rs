//! Network namespaces: open, create, pin, run inside.
//!
//! The only crate that calls `setns` or `unshare`. A namespace is entered by a thread that never
//! comes back ([`Netns::run`]), so nobody can be left in the wrong one.

mod error;
mod here;
mod isolate;
mod pin;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::statfs::fstatfs;

pub use error::NetnsError;
pub use here::Here;
pub use isolate::isolate;
pub use pin::{create, pin, unpin};

/// The namespace of the calling thread, as opposed to that of the process's first thread.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// The stack of a thread inside a namespace. It opens a socket and writes a few files.
const STACK: usize = 128 * 1024;

/// An open network namespace. It exists as long as this value does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    device: u64,
    inode: u64,
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
        let meta = file.metadata().map_err(wrap)?;
        Ok(Self { file, path: path.into(), device: meta.dev(), inode: meta.ino() })
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(CURRENT)
    }

    /// Opens the host's namespace: the one we were started in.
    ///
    /// # Errors
    ///
    /// When `/proc` is not mounted.
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
    /// The work runs on a thread of its own. The caller's namespace therefore never changes: not on
    /// error, not on `?`, not on panic.
    ///
    /// # Errors
    ///
    /// When no thread can be made or the namespace cannot be entered (CAP_SYS_ADMIN is needed).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        inside(|| self.enter(), work)
    }

    fn enter(&self) -> Result<(), NetnsError> {
        #[expect(clippy::disallowed_methods, reason = "the thread that calls this ends inside")]
        let entered = nix::sched::setns(&self.file, CloneFlags::CLONE_NEWNET);
        entered.map_err(|errno| NetnsError::Enter { path: self.path.clone(), source: errno.into() })
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
