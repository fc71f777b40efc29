//! A private host for tests.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::{NetnsError, home};

/// Moves the calling thread into network and mount namespaces of its own, for good.
///
/// What it then sees of the network is an up `lo` and nothing else; what it mounts stays its own;
/// `/run` is empty. Threads and processes it starts share all of this. A test calls it first.
///
/// # Errors
///
/// When the kernel refuses: CAP_SYS_ADMIN is needed.
pub fn isolate() -> Result<(), NetnsError> {
    let refused = |action: &str| {
        let action = action.to_owned();
        move |errno: nix::Error| NetnsError::create(action, errno)
    };
    #[expect(clippy::disallowed_methods, reason = "staying there is the purpose")]
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(refused("create network and mount namespaces"))?;
    home::moved();
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
        .map_err(refused("make mounts private"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).map_err(refused("mount /run"))?;
    loopback_up().map_err(|source| NetnsError::create("bring lo up", source))
}

/// Brings `lo` up by the old interface, so that this crate needs no netlink.
fn loopback_up() -> io::Result<()> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    #[expect(unsafe_code, reason = "an ioctl takes a C structure")]
    // SAFETY: an all-zero ifreq is valid; its name stays NUL-terminated as "lo" fills two of sixteen
    // bytes; the union's flags are what SIOCSIFFLAGS reads; the pointer outlives the call.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = 1; // IFF_UP
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
