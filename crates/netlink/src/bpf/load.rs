//! `bpf(2)`: a program is given to the kernel, which judges it.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::Instruction;

/// A program that the kernel has accepted. It lives as long as this or anything that it is attached to.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why the kernel does not take a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel takes no program that decides about packets: {}{}", errno.desc().to_lowercase(), said(verdict.as_deref()))]
pub struct LoadError {
    /// Its error number: `EPERM` where root may not, `ENOSYS` or `EINVAL` of a kernel that cannot.
    pub errno: Errno,
    /// The last thing that the verifier has said.
    pub verdict: Option<String>,
}

fn said(verdict: Option<&str>) -> String {
    verdict.map(|verdict| format!(" ({verdict})")).unwrap_or_default()
}

/// The first part of `union bpf_attr` for BPF_PROG_LOAD (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
}

/// Loads a program of the kind that `tc` attaches.
///
/// # Errors
///
/// The kernel's refusal, with the verifier's last line.
pub fn load(code: &[Instruction]) -> Result<Program, LoadError> {
    match attempt(code, &mut []) {
        Ok(program) => Ok(program),
        Err(errno) => {
            // Once more, for the reason. A kernel that has none says nothing.
            let mut log = vec![0; 1 << 16];
            let again = attempt(code, &mut log);
            again.map_err(|_| LoadError { errno, verdict: last_words(&log) })
        }
    }
}

fn last_words(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
    let lines = text.lines().rev().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("processed ")).map(str::to_owned).next()
}

fn attempt(code: &[Instruction], log: &mut [u8]) -> Result<Program, Errno> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    let mut name = [0; 16];
    name[..13].copy_from_slice(b"weft_shortcut");
    // KERNEL: helpers that look up routes and neighbours are for programs whose licence is the kernel's own
    // (`gpl_only`). It compares the text with few others, and of those that say more than one this is the one that it
    // knows (license_is_gpl_compatible, include/linux/license.h).
    let license = c"Dual MIT/GPL";
    let attr = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: u32::try_from(log.len()).unwrap_or_default(),
        log: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
        name,
        ..Load::default()
    };
    #[expect(unsafe_code, reason = "the C library has no function for it")]
    // SAFETY: `attr` is laid out as the kernel's union begins, and what it points to lives until the call returns: `code` is
    // only read, `log` is written and as long as is said.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<Load>()) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    #[expect(unsafe_code, reason = "the kernel has just returned it")]
    // SAFETY: nobody else has the descriptor.
    Ok(Program(unsafe { OwnedFd::from_raw_fd(fd) }))
}
