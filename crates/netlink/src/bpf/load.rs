//! `bpf(2)`: a program is given to the kernel, which judges it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::Instruction;
use super::call::{self, Command, Words, pair};

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
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    // KERNEL: helpers that look up routes and neighbours are for programs whose licence is the kernel's own
    // (`gpl_only`). It compares the text with few others, and of those that say more than one this is the one that it
    // knows (license_is_gpl_compatible, include/linux/license.h).
    let license = c"Dual MIT/GPL";
    let mut words: Words = [0; 16];
    words[0] = pair(BPF_PROG_TYPE_SCHED_CLS, u32::try_from(code.len()).unwrap_or(u32::MAX));
    (words[1], words[2]) = (code.as_ptr() as u64, license.as_ptr() as u64);
    if !log.is_empty() {
        words[3] = pair(1, u32::try_from(log.len()).unwrap_or_default());
        words[4] = log.as_mut_ptr() as u64;
    }
    // The version of the kernel, which has no meaning, and flags stand before the name.
    (words[6], words[7]) = (u64::from_ne_bytes(*b"weft_sho"), u64::from_ne_bytes(*b"rtcut\0\0\0"));
    call::open(Command::LoadProgram, &mut words).map(Program)
}
