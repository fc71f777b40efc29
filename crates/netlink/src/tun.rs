//! `ip tuntap`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use weft_model::IfName;

use crate::Error;
use crate::wire::{attributes, u32_at};

/// A link whose frames a program reads and writes, and which stays without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tap {
    /// Whether the program may open it several times.
    pub multi_queue: bool,
    /// The user who may open it; absent means whoever has CAP_NET_ADMIN.
    pub owner: Option<u32>,
    /// The group that may open it; absent means whoever has CAP_NET_ADMIN.
    pub group: Option<u32>,
    /// Whose it is to SELinux; absent, or where there is no SELinux, it is its maker's. The kernel does not tell.
    pub selinux: Option<String>,
}

/// Where programs ask for such links.
const DEVICE: &str = "/dev/net/tun";
/// There where SELinux is.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// The context that a program started by this thread gets.
const LABEL: &str = "/proc/thread-self/attr/exec";

// include/uapi/linux/if_tun.h; the numbers of ioctl(2) are _IOW('T', n, int).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
const TUNSETOWNER: libc::Ioctl = 0x4004_54cc;
const TUNSETGROUP: libc::Ioctl = 0x4004_54ce;
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// Creates a link in the calling thread's namespace.
///
/// # Errors
///
/// `EEXIST` when there is a link of that name, `EOPNOTSUPP` when the kernel has no such links, or the kernel's other
/// refusals.
pub fn create(name: &IfName, tap: &Tap) -> Result<(), Error> {
    match &tap.selinux {
        // Where there is no SELinux, a context means nothing.
        Some(context) if Path::new(SELINUX).exists() => create_as(context, name, tap),
        _ => open(name, tap),
    }
}

/// Creates a link that belongs to another SELinux context than ours.
///
/// KERNEL: a link gets the context of the process that makes it (selinux_tun_dev_alloc_security,
/// security/selinux/hooks.c), and a process changes its own only by starting a program. As with the reference
/// plugin that is `ip`, which policies have a rule for.
fn create_as(context: &str, name: &IfName, tap: &Tap) -> Result<(), Error> {
    let label = |text: &str| OpenOptions::new().write(true).open(LABEL)?.write_all(text.as_bytes());
    let failed = |error: io::Error| Error::Program(format!("as {context}: {error}"));
    label(context).map_err(failed)?;
    #[expect(clippy::disallowed_methods, reason = "starting a program is what changes the context")]
    let ended = Command::new("ip").args(words(name, tap)).output();
    label("").map_err(failed)?;
    let ended = ended.map_err(failed)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    match ended.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(Error::refused(Errno::EEXIST)),
        false => Err(Error::Program(format!("as {context}: {}", said.trim()))),
    }
}

/// The words of `ip tuntap`.
fn words(name: &IfName, tap: &Tap) -> Vec<String> {
    let mut words: Vec<String> =
        ["tuntap", "add", "mode", "tap", name.as_str()].map(str::to_owned).into_iter().collect();
    words.extend(tap.multi_queue.then(|| "multi_queue".to_owned()));
    for (word, number) in [("user", tap.owner), ("group", tap.group)] {
        words.extend(number.into_iter().flat_map(|number| [word.to_owned(), number.to_string()]));
    }
    words
}

fn open(name: &IfName, tap: &Tap) -> Result<(), Error> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(|error| refused(&error))?;
    let queues = if tap.multi_queue { IFF_MULTI_QUEUE } else { 0 };
    attach(&device, name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL | queues)?;
    for (request, value) in [(TUNSETOWNER, tap.owner), (TUNSETGROUP, tap.group)] {
        if let Some(value) = value {
            set(&device, request, value)?;
        }
    }
    set(&device, TUNSETPERSIST, 1)
}

fn refused(error: &io::Error) -> Error {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
    match errno {
        // The driver is not there, or not its device file.
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => Error::refused(Errno::EOPNOTSUPP),
        errno => Error::refused(errno),
    }
}

fn attach(device: &File, name: &IfName, flags: u16) -> Result<(), Error> {
    // struct ifreq: 16 bytes of name, then the flags; 40 bytes in all.
    let mut request = [0_u8; 40];
    request[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    #[expect(unsafe_code, reason = "the C library has no function for it")]
    // SAFETY: the descriptor is open, and `request` is as long as the struct the kernel reads and writes.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        // KERNEL: whatever has the name, IFF_TUN_EXCL calls it busy (tun_set_iff, drivers/net/tun.c).
        Err(Errno::EBUSY) => Err(Error::refused(Errno::EEXIST)),
        Err(errno) => Err(Error::refused(errno)),
    }
}

fn set(device: &File, request: libc::Ioctl, value: u32) -> Result<(), Error> {
    #[expect(unsafe_code, reason = "the C library has no function for it")]
    // SAFETY: the descriptor is open, and these requests take their argument by value.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), request, libc::c_ulong::from(value)) };
    Errno::result(done).map(drop).map_err(Error::refused)
}

impl Tap {
    /// Reads a link's own data; nothing for a link of packets instead of frames.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        const IFLA_TUN_OWNER: u16 = 1;
        const IFLA_TUN_GROUP: u16 = 2;
        const IFLA_TUN_TYPE: u16 = 3;
        const IFLA_TUN_MULTI_QUEUE: u16 = 7;
        let find = |wanted| attributes(data).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let byte = |wanted| find(wanted).and_then(|value| value.first().copied()).unwrap_or_default();
        let number = |wanted| find(wanted).and_then(|value| u32_at(value, 0));
        (u16::from(byte(IFLA_TUN_TYPE)) == IFF_TAP).then(|| Self {
            multi_queue: byte(IFLA_TUN_MULTI_QUEUE) != 0,
            owner: number(IFLA_TUN_OWNER),
            group: number(IFLA_TUN_GROUP),
            selinux: None,
        })
    }
}

impl Tap {
    /// Returns whether `found`, read from the kernel, is such a link.
    pub fn is_met_by(&self, found: &Self) -> bool {
        Self { selinux: None, ..self.clone() } == *found
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("tap")?;
        if self.multi_queue {
            out.write_str(" multi_queue")?;
        }
        for (word, number) in [("user", self.owner), ("group", self.group)] {
            if let Some(number) = number {
                write!(out, " {word} {number}")?;
            }
        }
        match &self.selinux {
            Some(context) => write!(out, " selinux {context}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ip_say_it_all() {
        let name = "eth0".parse().unwrap();
        let tap = Tap { multi_queue: true, owner: Some(0), group: Some(7), selinux: Some("u:r:t".into()) };
        assert_eq!(words(&name, &tap).join(" "), "tuntap add mode tap eth0 multi_queue user 0 group 7");
        assert_eq!(words(&name, &Tap::default()).join(" "), "tuntap add mode tap eth0");
    }
}
