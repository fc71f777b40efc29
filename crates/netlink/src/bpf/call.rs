//! `bpf(2)` itself: the C library has no function for it.

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// What the kernel is asked for (`enum bpf_cmd`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    CreateMap = 0,
    UpdateElement = 2,
    LoadProgram = 5,
    DescribeObject = 15,
    QueryPrograms = 16,
    OpenLink = 30,
    NextLink = 31,
}

/// The kernel's own words: so many that an answer fits, too. The kernel takes what is longer than it knows if that is zero.
pub(super) type Words = [u64; 16];

/// Asks, and returns what is returned: a descriptor for some, nothing for others. An answer takes the place of the question.
///
/// What the words point to has to live until this returns, and be as long as they say.
pub(super) fn bpf(command: Command, words: &mut Words) -> Result<i32, Errno> {
    #[expect(unsafe_code, reason = "the C library has no function for it")]
    // SAFETY: the words are as many as is said, and no field of the kernel's union is but a number or an address that whoever
    // calls answers for: buffers that outlive the call, of the length that goes with them.
    let outcome = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, words.as_mut_ptr(), size_of::<Words>())
    };
    i32::try_from(Errno::result(outcome)?).map_err(|_| Errno::EBADF)
}

/// The same, of what returns a descriptor.
pub(super) fn open(command: Command, words: &mut Words) -> Result<OwnedFd, Errno> {
    let fd = bpf(command, words)?;
    #[expect(unsafe_code, reason = "the kernel has just returned it")]
    // SAFETY: nobody else has the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two fields of 32 bits, as they follow each other.
pub(super) fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Returns both fields again.
pub(super) fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// Returns the first words of what the kernel says of an object: what it is, and its id for most.
pub(super) fn describe(fd: u32) -> Result<Words, Errno> {
    let mut answer: Words = [0; 16];
    let mut words: Words = [0; 16];
    let length = u32::try_from(size_of::<Words>()).unwrap_or_default();
    (words[0], words[1]) = (pair(fd, length), answer.as_mut_ptr() as u64);
    bpf(Command::DescribeObject, &mut words)?;
    Ok(answer)
}
