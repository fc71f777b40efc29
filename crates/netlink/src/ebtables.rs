//! The old filter of frames that pass a bridge.

use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::Error;

/// Its tables, each of which has a module of its own.
const TABLES: [&str; 3] = ["broute", "filter", "nat"];

/// Returns the names of the modules by which the old filter of bridges may have rules, none of nf_tables: those of its tables,
/// or of all of it where the kernel has it built in.
///
/// # Errors
///
/// The kernel's refusal to say.
pub fn modules() -> Result<Vec<String>, Error> {
    let is_loaded = |module: &str| std::path::Path::new("/sys/module").join(module).exists();
    let tables = TABLES.iter().map(|table| format!("ebtable_{table}"));
    let mut found: Vec<String> = tables.filter(|module| is_loaded(module)).collect();
    if found.is_empty() && !is_loaded("ebtables") && is_built_in_once()? {
        found.push("ebtables".into());
    }
    Ok(found)
}

/// Where it is built in, asking may start `modprobe`; and that does not change.
fn is_built_in_once() -> Result<bool, Error> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    is_built_in().map(|is_built_in| *KNOWN.get_or_init(|| is_built_in))
}

/// Asks for a table that there is not: a kernel without any of it has never heard of the question.
fn is_built_in() -> Result<bool, Error> {
    /// EBT_SO_GET_INFO (include/uapi/linux/netfilter_bridge/ebtables.h).
    const GET_INFO: libc::c_int = 128;
    let errno = |action| move |errno| Error::Socket { action, errno };
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        nix::sys::socket::SockProtocol::Icmp,
    )
    .map_err(errno("open"))?;
    // A `struct ebt_replace` with a name of no characters.
    let mut table = [0_u64; 15];
    let mut length = libc::socklen_t::try_from(size_of_val(&table)).unwrap_or_default();
    #[expect(unsafe_code, reason = "the C library has no type for it")]
    // SAFETY: the kernel writes no more than the length says, and both live until the call returns.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            GET_INFO,
            table.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match Errno::result(outcome) {
        Err(Errno::ENOPROTOOPT) => Ok(false),
        Err(errno @ (Errno::EPERM | Errno::EACCES)) => Err(Error::refused(errno)),
        _ => Ok(true),
    }
}
