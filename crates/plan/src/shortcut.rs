//! Packets from one link to another of the same network, past what the host asks others.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use weft_model::{IfName, Mac};
use weft_netlink::bpf::{self, Instruction, LoadError, shortcut};
use weft_netlink::tc;

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

/// Says why this kernel has no shortcuts; nothing when it has.
///
/// # Errors
///
/// The kernel's refusal of the program.
pub fn possible() -> Result<(), LoadError> {
    let nowhere = shortcut::Shortcut { from: 1, station: Mac([0; 6]), to: 1 };
    bpf::load(&shortcut::program(&nowhere)).map(drop)
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
        let code = shortcut::program(&shortcut::Shortcut { from: from.index, station, to: to.index });
        let mut hasher = DefaultHasher::new();
        code.hash(&mut hasher);
        let name = format!("weft shortcut {:016x}", hasher.finish());
        let there = tc::deciders(self.socket(place)?, dev.index)?.contains(&name);
        Ok((!there).then_some(Decider { index: dev.index, code, name }))
    }

    pub(crate) fn observe_shortcut(
        &mut self,
        place: Place,
        wanted: &Shortcut,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        if self.find(place, &wanted.dev, found)?.is_some()
            && self.lacks_shortcut(place, wanted)?.is_some()
            && possible().is_ok()
        {
            found.push(format!("{place} interface {} has no shortcut to {}", wanted.dev, wanted.to));
        }
        Ok(())
    }
}
