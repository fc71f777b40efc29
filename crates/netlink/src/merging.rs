//! `ethtool -K LINK gro on | off`: whether a link merges the segments that arrive into larger packets.

use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use weft_model::IfName;

use crate::Error;

// include/uapi/linux/sockios.h and include/uapi/linux/ethtool.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;

/// Returns whether a link of the calling thread's namespace does.
///
/// # Errors
///
/// `ENODEV` when there is no such link, or the kernel's other refusals.
pub fn is_on(name: &IfName) -> Result<bool, Error> {
    ask(name, ETHTOOL_GGRO, 0).map(|value| value != 0)
}

/// Tells a link of the calling thread's namespace to do so, or not to.
///
/// # Errors
///
/// As [`is_on`].
pub fn set(name: &IfName, on: bool) -> Result<(), Error> {
    ask(name, ETHTOOL_SGRO, on.into()).map(drop)
}

fn ask(name: &IfName, command: u32, value: u32) -> Result<u32, Error> {
    /// `struct ifreq`: the name, and a union of 24 bytes, of which this is the pointer.
    #[repr(C)]
    struct Question {
        name: [u8; 16],
        value: *mut [u32; 2],
        rest: [u64; 2],
    }

    // Any socket will do, and this one needs nothing of the namespace.
    let refused =
        |error: &std::io::Error| Error::refused(Errno::from_raw(error.raw_os_error().unwrap_or_default()));
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| refused(&error))?;
    // `struct ethtool_value`.
    let mut pair = [command, value];
    let mut question = Question { name: [0; 16], value: &raw mut pair, rest: [0; 2] };
    question.name[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    #[expect(unsafe_code, reason = "the C library has no function for it")]
    // SAFETY: the descriptor is open, `question` is laid out as the struct that the kernel reads, and what it points to is as
    // long as these commands' argument and lives until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut question) };
    Errno::result(done).map_err(Error::refused)?;
    Ok(pair[1])
}
