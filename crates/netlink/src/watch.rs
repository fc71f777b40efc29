//! Hearing of what others do to links, what decides about their packets, addresses, neighbours and routes.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use crate::wire::{Message, u32_at};
use crate::{Error, Socket};

const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_NEIGH
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE
    | libc::RTMGRP_TC;

/// What somebody wants to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Indexes of links whose state and addresses count, and that filters are taken from.
    pub links: BTreeSet<u32>,
    /// Indexes of links all of whose neighbours and forwarding entries count.
    pub neighbours: BTreeSet<u32>,
    /// Routes count that have one of these protocols (rtnetlink(7), `rtm_protocol`), and those that took the place of
    /// others.
    pub protocols: BTreeSet<u8>,
}

/// Announcements of a network namespace about links, addresses, neighbours and routes, whoever changes them.
///
/// What containers come and go with is announced, too: only what is of [`Interest`] is a change.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    interest: Interest,
}

impl Watch {
    /// Subscribes to the calling thread's network namespace, without an interest in anything yet.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left, or the kernel does not let us listen.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::open()?;
        socket.subscribe(GROUPS)?;
        socket.set_non_blocking()?;
        Ok(Self { socket, interest: Interest::default() })
    }

    /// Says what counts from now on.
    pub fn concern(&mut self, interest: Interest) {
        self.interest = interest;
    }

    /// Reads the announcements that are there without waiting for more, and returns whether one of them is of interest.
    /// Announcements that were lost because we were slow are: nobody knows what they said.
    ///
    /// # Errors
    ///
    /// When the socket fails.
    pub fn changed(&mut self) -> Result<bool, Error> {
        let mut changed = false;
        loop {
            let interest = &self.interest;
            let received = self.socket.receive(|message| {
                changed |= interest.covers(message);
                Ok(())
            });
            match received {
                Ok(()) => {}
                Err(Error::Socket { errno: Errno::EAGAIN, .. }) => return Ok(changed),
                Err(Error::Socket { errno: Errno::ENOBUFS, .. }) => changed = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl Interest {
    fn covers(&self, message: Message<'_>) -> bool {
        /// The request that led to it replaced something (linux/netlink.h).
        const NLM_F_REPLACE: u16 = 0x100;

        // KERNEL: ifinfomsg, ifaddrmsg, ndmsg and tcmsg all have the link's index at offset 4 (linux/rtnetlink.h, if_addr.h,
        // neighbour.h); rtmsg has the protocol at offset 5.
        let index = u32_at(message.payload, 4).unwrap_or_default();
        let is_ours = message.payload.get(5).is_some_and(|protocol| self.protocols.contains(protocol));
        match message.kind {
            // KERNEL: what a bridge says about its ports is AF_BRIDGE; ports are containers.
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                message.payload.first() == Some(&0) && self.links.contains(&index)
            }
            libc::RTM_NEWADDR | libc::RTM_DELADDR | libc::RTM_DELTFILTER | libc::RTM_DELQDISC => {
                self.links.contains(&index)
            }
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => self.neighbours.contains(&index),
            libc::RTM_DELROUTE => is_ours,
            libc::RTM_NEWROUTE => message.flags & NLM_F_REPLACE != 0 && !is_ours,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(kind: u16, flags: u16, payload: &[u8]) -> bool {
        let interest = Interest { links: [7].into(), neighbours: [9].into(), protocols: [201, 202].into() };
        interest.covers(Message { kind, flags, sequence: 0, payload })
    }

    fn about(index: u32) -> Vec<u8> {
        [&[0; 4][..], &index.to_ne_bytes()].concat()
    }

    #[test]
    fn only_what_is_of_interest_is_a_change() {
        assert!(covers(libc::RTM_DELLINK, 0, &about(7)));
        assert!(!covers(libc::RTM_DELLINK, 0, &about(8)), "another link");
        let mut port = about(7);
        port[0] = 7;
        assert!(!covers(libc::RTM_DELLINK, 0, &port), "a port left its bridge");
        assert!(covers(libc::RTM_DELADDR, 0, &about(7)));
        assert!(covers(libc::RTM_DELNEIGH, 0, &about(9)));
        assert!(!covers(libc::RTM_NEWNEIGH, 0, &about(7)), "a container's neighbour on the bridge");
        let route = |protocol| [2, 24, 0, 0, 254, protocol, 0, 1];
        assert!(covers(libc::RTM_DELROUTE, 0, &route(201)));
        assert!(!covers(libc::RTM_DELROUTE, 0, &route(2)), "a container's link went");
        assert!(!covers(libc::RTM_NEWROUTE, 0x500, &route(201)), "our own");
        assert!(!covers(libc::RTM_NEWROUTE, 0x500, &route(202)), "the mesh's");
        assert!(covers(libc::RTM_NEWROUTE, 0x500, &route(3)), "ip route replace");
        assert!(!covers(libc::RTM_NEWROUTE, 0x400, &route(3)), "ip route add");
        assert!(!covers(libc::RTM_DELLINK, 0, &[]), "nothing is nothing");
    }
}
