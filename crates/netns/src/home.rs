//! The namespace a thread is in, to come back to.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::{getpid, gettid};

use crate::{CURRENT, NetnsError};

/// The request for the namespace of a socket (linux/sockios.h, SIOCGSKNS).
const NAMESPACE_OF_SOCKET: libc::Ioctl = 0x894C;

/// The namespace the process's first thread is in when it visits none, once somebody asked.
static HOME: OnceLock<Arc<File>> = OnceLock::new();
/// Whether some thread has moved for good: what the first one is in has to be asked each time then.
static MOVED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many visits the thread is on, one within the other.
    static VISITS: Cell<usize> = const { Cell::new(0) };
}

/// Counts a visit that begins.
pub(crate) fn left() {
    VISITS.set(VISITS.get() + 1);
}

/// Counts a visit that has ended.
pub(crate) fn returned() {
    VISITS.set(VISITS.get() - 1);
}

/// Takes note that a thread has moved for good.
pub(crate) fn moved() {
    MOVED.store(true, Ordering::Relaxed);
}

/// Opens the namespace of the calling thread. That of the first thread, at home, is opened once: a plugin asks three times.
pub(crate) fn of_thread() -> Result<Arc<File>, NetnsError> {
    let is_home = VISITS.get() == 0 && !MOVED.load(Ordering::Relaxed) && gettid() == getpid();
    match HOME.get() {
        Some(known) if is_home => Ok(known.clone()),
        _ => {
            let opened = Arc::new(open()?);
            if is_home {
                // Nobody else is this thread.
                HOME.set(opened.clone()).unwrap_or_default();
            }
            Ok(opened)
        }
    }
}

/// Opens the namespace of the calling thread: as that of a socket made here.
///
/// KERNEL: the first look below `/proc/self` makes a dozen inodes of a process that is a millisecond old, and its end takes them
/// apart: 0.04 ms. A socket costs a third of that. Who has no CAP_NET_ADMIN is refused that (net/socket.c, `sock_ioctl`).
fn open() -> Result<File, NetnsError> {
    let of_socket = || -> nix::Result<File> {
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        #[expect(unsafe_code, reason = "this request has no safe name")]
        // SAFETY: the request reads no argument; what it returns is a new descriptor that nobody else has.
        unsafe {
            let descriptor = Errno::result(libc::ioctl(socket.as_raw_fd(), NAMESPACE_OF_SOCKET))?;
            Ok(File::from_raw_fd(descriptor))
        }
    };
    of_socket()
        .or_else(|_| File::open(CURRENT))
        .map_err(|source| NetnsError::open(Path::new(CURRENT), source))
}
