//! Packets from one link to another of the same network, past what the host asks others.

use std::fmt;

use weft_model::{IfName, Mac};
use weft_netlink::bpf::{self, Instruction, LoadError, shortcut};
use weft_netlink::{Socket, tc};
use weft_netns::NetnsError;

use crate::{Cause, Kernel, Place};

/// A link's packets take the shortcut from one link of a network to another ([`shortcut`]). It goes with the link. Where
/// the kernel takes no such program they go the way of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortcut {
    /// The link that receives them.
    pub dev: IfName,
    /// The link that they come by, as routing sees it: `dev` itself, or the bridge that it is a port of.
    pub from: IfName,
    /// The link that they leave by.
    pub to: IfName,
}

impl fmt::Display for Shortcut {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "shortcut {} from {} to {}", self.dev, self.from, self.to)
    }
}

/// Why a kernel has no shortcuts.
#[derive(Debug, thiserror::Error)]
pub enum NoShortcuts {
    /// It takes no such program.
    #[error(transparent)]
    Program(#[from] LoadError),
    /// Nothing decides about what a link receives.
    #[error("the kernel has no queue for what a link receives (CONFIG_NET_SCH_INGRESS): {0}")]
    Queue(#[source] weft_netlink::Error),
    /// It takes programs, and nothing asks them.
    #[error("the kernel has no program decide about what a link receives (CONFIG_NET_CLS_BPF): {0}")]
    Classifier(#[source] weft_netlink::Error),
    /// It cannot be tried.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// It does not answer.
    #[error(transparent)]
    Socket(weft_netlink::Error),
}

/// Says why this kernel has no shortcuts; nothing when it has: one is made in a namespace that is gone when this returns.
///
/// # Errors
///
/// What the kernel refuses first.
pub fn possible() -> Result<(), NoShortcuts> {
    // In a namespace that is new.
    const LO: u32 = 1;
    let nowhere = shortcut::Shortcut { from: LO, station: Mac([0; 6]), to: LO };
    let program = bpf::load(&shortcut::program(&nowhere, None))?;
    weft_netns::apart(|| {
        let mut socket = Socket::open().map_err(NoShortcuts::Socket)?;
        socket.request(tc::watch_received(LO)).map_err(NoShortcuts::Queue)?;
        socket
            .request(tc::decide_received(LO, &program, "weft shortcut"))
            .map_err(NoShortcuts::Classifier)?;
        Ok(())
    })?
}

/// Why packets go the way of others.
#[derive(Debug, thiserror::Error)]
pub enum Slow {
    /// There is no other.
    #[error("packets go the slow way, by the firewall: {0}")]
    Kernel(#[source] NoShortcuts),
    /// Somebody took the shortcut away.
    #[error("{place} interface {dev} has no shortcut to {to}")]
    Missing {
        /// Where.
        place: Place,
        /// The link that receives them.
        dev: IfName,
        /// The link that they should leave by.
        to: IfName,
    },
}

/// What has to decide about a link's packets.
pub(crate) struct Decider {
    pub(crate) index: u32,
    pub(crate) code: Vec<Instruction>,
    /// It follows from the code, so that another one is told from it.
    pub(crate) name: String,
}

impl Kernel {
    /// Returns what it takes to have a shortcut; nothing when one of the links is not there, or it is had already.
    pub(crate) fn lacks_shortcut(
        &mut self,
        place: Place,
        wanted: &Shortcut,
    ) -> Result<Option<Decider>, Cause> {
        let mut look = |name| self.look(place, name);
        let (Some(dev), Some(from), Some(to)) = (look(&wanted.dev)?, look(&wanted.from)?, look(&wanted.to)?)
        else {
            return Ok(None);
        };
        let station = from.mac.unwrap_or(Mac([0; 6]));
        let wanted = shortcut::Shortcut { from: from.index, station, to: to.index };
        let code = shortcut::program(&wanted, None);
        let name = shortcut::name(&code);
        let there = tc::deciders(self.socket(place)?, dev.index)?.contains(&name);
        Ok((!there).then_some(Decider { index: dev.index, code, name }))
    }

    /// Returns why a link's packets do not take a shortcut; nothing when they do, or one of the links is not there.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub fn why_slow(&mut self, place: Place, wanted: &Shortcut) -> Result<Option<Slow>, Cause> {
        if self.lacks_shortcut(place, wanted)?.is_none() {
            return Ok(None);
        }
        let missing = || Slow::Missing { place, dev: wanted.dev.clone(), to: wanted.to.clone() };
        Ok(Some(possible().map_or_else(Slow::Kernel, |()| missing())))
    }

    pub(crate) fn observe_shortcut(
        &mut self,
        place: Place,
        wanted: &Shortcut,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        if self.find(place, &wanted.dev, found)?.is_some()
            && let Some(missing @ Slow::Missing { .. }) = self.why_slow(place, wanted)?
        {
            found.push(missing.to_string());
        }
        Ok(())
    }
}
