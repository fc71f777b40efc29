//! Deleting a link without waiting for the kernel to forget it.
//!
//! How we got here: deleting a veth takes the kernel about 0.9 ms until the link is gone and announced,
//! and then 14 to 20 ms more in which the caller sits in `rcu_barrier` (netdev_run_todo, net/core/dev.c)
//! although nothing that anybody can see is left to do. Down first, out of the bridge first, from the
//! other end, several at once: all alike. A thread does not help, because a process ends only when its
//! threads do. So a forked child asks for the deletion and sits out the barrier, and we return as soon
//! as the kernel has announced that the link is gone.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use weft_netns::Here;

use crate::link::{LinkInfo, delete_index, get_index};
use crate::monitor::{LinkEvent, Monitor, readable};
use crate::wire::{messages, u32_at};
use crate::{Batch, Error, Socket};

/// How long the kernel may take until the link is gone.
const LIMIT: Duration = Duration::from_secs(30);

/// What became of a link that should be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Gone,
    /// It was not there.
    Absent,
}

/// Deletes a link of the calling thread's namespace and returns when the kernel has announced that it is gone.
///
/// What remains of the work is done by a child process that has none of our descriptors, so that
/// nobody who waits for the end of our output waits for it. It ends some 20 ms later and is then for
/// our parent's reaper: for processes that live on, a plain deletion suits better.
///
/// # Errors
///
/// The kernel's refusal, or the failure of a socket or of `fork`.
pub fn delete_announced(socket: &mut Socket, link: &LinkInfo) -> Result<Removed, Error> {
    let mut monitor = Monitor::open()?;
    // The child's own socket: an answer to it must not be taken by us.
    let asking = Socket::open()?;
    let mut batch = Batch::new();
    batch.push(delete_index(link.index));
    let request = batch.numbered(0..1, 1);
    let here = Here::stay();
    let child = spawn(asking.as_fd().as_raw_fd(), request);
    here.leave();
    let child = child?;
    match announced(socket, &mut monitor, link, &child)? {
        Some(removed) => Ok(removed),
        None => Err(Error::Timeout { state: format!("{} is still there", link.name), limit: LIMIT }),
    }
}

struct Child {
    pid: Pid,
    handle: Option<OwnedFd>,
}

fn spawn(socket: RawFd, request: &[u8]) -> Result<Child, Error> {
    let failed = |errno| Error::Socket { action: "fork for", errno };
    #[expect(unsafe_code, reason = "fork is unsafe in a process with threads")]
    // SAFETY: the child runs `ask`, which only makes system calls: it takes no lock and allocates
    // nothing that another thread could have held at the fork.
    match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => ask(socket, request),
        ForkResult::Parent { child: pid } => Ok(Child { pid, handle: pidfd(pid) }),
    }
}

/// Opens a descriptor that becomes readable when the process ends; none before Linux 5.3.
fn pidfd(pid: Pid) -> Option<OwnedFd> {
    #[expect(unsafe_code, reason = "the C library has no pidfd_open")]
    // SAFETY: pidfd_open takes two integers; a result that is not negative is a descriptor of ours alone.
    unsafe {
        let descriptor = RawFd::try_from(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0)).unwrap_or(-1);
        (descriptor >= 0).then(|| OwnedFd::from_raw_fd(descriptor))
    }
}

/// The child: sends the request, waits for the verdict, and ends with the error number as its exit code.
#[expect(unsafe_code, reason = "between fork and exit only bare system calls are safe")]
fn ask(socket: RawFd, request: &[u8]) -> ! {
    // 4 for the error number, 16 for our request's header, 16 for the answer's; the rest is the kernel's words.
    let mut answer = [0u8; 512];
    // SAFETY: `request` and `answer` are valid for the lengths given; descriptors are plain numbers;
    // nothing after the fork allocates, locks or unwinds; _exit runs no handlers of the parent's.
    unsafe {
        // Signals to our parent's process group are not for us.
        libc::setsid();
        libc::dup2(socket, 0);
        if libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) < 0 {
            for descriptor in 1..1024 {
                libc::close(descriptor);
            }
        }
        let sent = libc::send(0, request.as_ptr().cast(), request.len(), 0);
        let received = if sent < 0 { -1 } else { libc::recv(0, answer.as_mut_ptr().cast(), answer.len(), 0) };
        let Ok(received) = usize::try_from(received) else { libc::_exit(Errno::last_raw()) };
        let verdict = answer.get(..received).and_then(|bytes| messages(bytes).next()?.ok());
        let code = verdict.and_then(|message| u32_at(message.payload, 0)).map(u32::cast_signed);
        libc::_exit(code.map_or(libc::EBADMSG, i32::saturating_neg))
    }
}

/// Waits for the announcement, or for the child's verdict if that is first; nothing when time is up.
fn announced(
    socket: &mut Socket,
    monitor: &mut Monitor,
    link: &LinkInfo,
    child: &Child,
) -> Result<Option<Removed>, Error> {
    let Some(handle) = &child.handle else { return verdict(waitpid(child.pid, None)).map(Some) };
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let [announcement, ended] = readable([monitor.as_fd(), handle.as_fd()], deadline)?;
        if announcement {
            let gone = match monitor.events()? {
                Some(events) => events
                    .iter()
                    .any(|event| matches!(event, LinkEvent::Deleted(gone) if gone.index == link.index)),
                None => socket.link(get_index(link.index))?.is_none(),
            };
            if gone {
                return Ok(Some(Removed::Gone));
            }
        } else if ended {
            return verdict(waitid(Id::PIDFd(handle.as_fd()), WaitPidFlag::WEXITED)).map(Some);
        }
    }
    Ok(None)
}

fn verdict(status: Result<WaitStatus, Errno>) -> Result<Removed, Error> {
    match status {
        Ok(WaitStatus::Exited(_, 0)) => Ok(Removed::Gone),
        Ok(WaitStatus::Exited(_, code)) => match Error::refused(Errno::from_raw(code)) {
            // Somebody was faster: the container's end, or its whole namespace, went first.
            error if error.is_missing() => Ok(Removed::Absent),
            error => Err(error),
        },
        Ok(_) => Err(Error::Malformed("the process that deletes was killed")),
        Err(errno) => Err(Error::Socket { action: "wait for", errno }),
    }
}
