//! Waiting for what the kernel announces.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::link::{LinkInfo, get_index};
use crate::wire::Message;
use crate::{Error, Socket};

/// What happened to a link.
pub(crate) enum LinkEvent {
    Changed(LinkInfo),
    Deleted(LinkInfo),
}

/// Announcements about the links of a network namespace.
pub(crate) struct Monitor(Socket);

impl Monitor {
    /// Subscribes to the links of the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let mut socket = Socket::open()?;
        socket.subscribe(libc::RTMGRP_LINK)?;
        Ok(Self(socket))
    }

    /// Receives the announcements that are there; `None` when some were lost because we were slow.
    pub(crate) fn events(&mut self) -> Result<Option<Vec<LinkEvent>>, Error> {
        let mut events = Vec::new();
        let received = self.0.receive(|message| {
            events.extend(event(message));
            Ok(())
        });
        match received {
            Ok(()) => Ok(Some(events)),
            Err(Error::Socket { errno: Errno::ENOBUFS, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(crate) fn event(message: Message<'_>) -> Option<LinkEvent> {
    // KERNEL: the same group carries what bridges say about their ports, as AF_BRIDGE; a port that
    // leaves its bridge is an RTM_DELLINK there and lives on (br_ifinfo_notify, net/bridge/br_netlink.c).
    if message.payload.first() != Some(&0) {
        return None;
    }
    let link = LinkInfo::read(message.payload)?;
    match message.kind {
        libc::RTM_NEWLINK => Some(LinkEvent::Changed(link)),
        libc::RTM_DELLINK => Some(LinkEvent::Deleted(link)),
        _ => None,
    }
}

/// Waits until one of the descriptors is readable or the deadline has passed; returns which are.
pub(crate) fn readable<const N: usize>(
    descriptors: [std::os::fd::BorrowedFd<'_>; N],
    deadline: Instant,
) -> Result<[bool; N], Error> {
    let mut polled = descriptors.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A whole millisecond more, so that what is left is never rounded to a busy loop.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) => return Ok(polled.map(|one| one.revents().is_some_and(|events| !events.is_empty()))),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Socket { action: "wait for", errno }),
        }
    }
}

/// Waits until frames pass a link: until its operational state is UP.
///
/// The calling thread must be in the socket's namespace.
///
/// KERNEL: a link is up at once, its carrier is told to the rest of the kernel by a work queue
/// (net/core/link_watch.c). A port that is not yet UP drops what its bridge should forward, and the
/// first packet of a connection is repeated after a whole second.
///
/// # Errors
///
/// [`Error::Timeout`] when the limit passes; otherwise the kernel's refusal, or the socket's failure.
pub fn wait_operational(socket: &mut Socket, index: u32, limit: Duration) -> Result<LinkInfo, Error> {
    let deadline = Instant::now() + limit;
    let link = present(socket, index)?;
    if link.operational {
        return Ok(link);
    }
    let mut monitor = Monitor::open()?;
    // Once more now that nothing can be missed between the look and the wait.
    let mut link = present(socket, index)?;
    while !link.operational {
        if Instant::now() >= deadline {
            let state = format!("the operational state of {} is {}", link.name, operstate(link.operstate));
            return Err(Error::Timeout { state, limit });
        }
        if readable([monitor.as_fd()], deadline)? == [false] {
            continue;
        }
        match monitor.events()? {
            None => link = present(socket, index)?,
            Some(events) => {
                for event in events {
                    match event {
                        LinkEvent::Changed(changed) if changed.index == index => link = changed,
                        LinkEvent::Deleted(gone) if gone.index == index => {
                            return Err(Error::refused(Errno::ENODEV));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(link)
}

fn present(socket: &mut Socket, index: u32) -> Result<LinkInfo, Error> {
    socket.link(get_index(index))?.ok_or(Error::refused(Errno::ENODEV))
}

/// Names an operational state as `ip link` does (RFC 2863).
fn operstate(number: u8) -> &'static str {
    match number {
        1 => "NOTPRESENT",
        2 => "DOWN",
        3 => "LOWERLAYERDOWN",
        4 => "TESTING",
        5 => "DORMANT",
        6 => "UP",
        _ => "UNKNOWN",
    }
}
