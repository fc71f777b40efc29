//! Programs of somebody else, attached as others attach theirs: each lets pass nothing, or everything.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use weft_testkit::Host;

/// Where a program is attached, by the kernel's numbers of its type and of the place (include/uapi/linux/bpf.h).
#[derive(Clone, Copy)]
pub(crate) struct Place {
    kind: u32,
    at: u32,
    link: u32,
    flags: u32,
    verdict: i32,
}

/// To what netfilter has forwarded, of IPv4; it drops that.
pub(crate) const FORWARDED: Place = Place { kind: 32, at: 45, link: 0, flags: 0, verdict: 0 };

/// To what a link receives, without `tc`; it drops that (TC_ACT_SHOT).
pub(crate) fn received(link: u32) -> Place {
    Place { kind: 3, at: 46, link, flags: 0, verdict: 2 }
}

/// To what a link receives, before anybody else; it lets that pass.
pub(crate) fn early(link: u32) -> Place {
    Place { kind: 6, at: 37, link, flags: 2, verdict: 2 }
}

/// Attaches such a program in a host's namespace; nothing where the kernel has no such place. It goes with what is returned.
pub(crate) fn attach(host: &Host, place: Place) -> Option<OwnedFd> {
    host.inside(move || match program(place).and_then(|program| link(place, &program)) {
        Ok(link) => Some(link),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => None,
        Err(errno) => panic!("{errno}"),
    })
}

/// `r0 = verdict; exit`.
fn program(place: Place) -> Result<OwnedFd, Errno> {
    let mut code = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0_u8]];
    code[0][4..].copy_from_slice(&place.verdict.to_ne_bytes());
    let license = c"GPL";
    let mut words = [0_u32; 32];
    (words[0], words[1]) = (place.kind, 2);
    address(&mut words[2..], code.as_ptr() as u64);
    address(&mut words[4..], license.as_ptr() as u64);
    words[17] = if place.at == FORWARDED.at { place.at } else { 0 };
    bpf(5, &mut words)
}

fn link(place: Place, program: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut words = [0_u32; 32];
    let fd = program.as_raw_fd().cast_unsigned();
    (words[0], words[1], words[2], words[3]) = (fd, place.link, place.at, place.flags);
    if place.at == FORWARDED.at {
        // IPv4, what passes, and its turn.
        (words[4], words[5], words[6]) = (2, 2, 7);
    }
    bpf(28, &mut words)
}

fn address(words: &mut [u32], address: u64) {
    let bytes = address.to_ne_bytes();
    let half = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (words[0], words[1]) = (half(0), half(4));
}

fn bpf(command: libc::c_long, words: &mut [u32; 32]) -> Result<OwnedFd, Errno> {
    #[expect(unsafe_code, reason = "the C library has no function for it")]
    // SAFETY: the words are as many as is said, and what they point to lives until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    let fd = i32::try_from(Errno::result(fd)?).unwrap();
    #[expect(unsafe_code, reason = "the kernel has just returned it")]
    // SAFETY: nobody else has the descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
