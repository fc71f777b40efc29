//! `ip link add type macvlan`.

use std::fmt;
use std::str::FromStr;

use netlink_packet_route::link::{InfoData, InfoMacVlan, MacVlanMode};

use crate::wire::{attributes, u32_at};

/// A link with a MAC address of its own on another link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macvlan {
    /// Who reaches whom.
    pub mode: Mode,
    /// How many broadcasts may wait; absent means the kernel's thousand.
    pub broadcast_queue: Option<u32>,
    /// From how many receivers on broadcasts wait at all, -1 for never; absent means the kernel's one.
    pub broadcast_cutoff: Option<i32>,
}

/// Who of the links on one lower link reaches whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Each the others.
    #[default]
    Bridge,
    /// None the others, not even by way of a switch that sends frames back.
    Private,
    /// Each the others by way of a switch that sends frames back.
    Vepa,
    /// There is one, and it has the lower link for itself.
    Passthru,
}

impl Mode {
    /// The modes, in the order in which they are told.
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Private, Self::Vepa, Self::Passthru];

    /// Returns the mode's name as ip-link(8) has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
        }
    }

    fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| u32::from(MacVlanMode::from(*mode)) == number)
    }
}

impl From<Mode> for MacVlanMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Bridge => Self::Bridge,
            Mode::Private => Self::Private,
            Mode::Vepa => Self::Vepa,
            Mode::Passthru => Self::Passthrough,
        }
    }
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or(())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The attributes we read (include/uapi/linux/if_link.h).
mod ifla {
    pub(super) const MODE: u16 = 1;
    pub(super) const BC_QUEUE_LEN: u16 = 7;
    pub(super) const BC_CUTOFF: u16 = 9;
}

impl Macvlan {
    pub(crate) fn info(&self) -> InfoData {
        let mut info = vec![InfoMacVlan::Mode(self.mode.into())];
        info.extend(self.broadcast_queue.map(InfoMacVlan::BcQueueLen));
        info.extend(self.broadcast_cutoff.map(InfoMacVlan::BcCutoff));
        InfoData::MacVlan(info)
    }

    /// Reads a link's own data; nothing when its mode is none of ours.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let find = |wanted| attributes(data).find(|(kind, _)| *kind == wanted);
        let number = |wanted| find(wanted).and_then(|(_, value)| u32_at(value, 0));
        Some(Self {
            mode: Mode::of_number(number(ifla::MODE)?)?,
            broadcast_queue: number(ifla::BC_QUEUE_LEN),
            broadcast_cutoff: number(ifla::BC_CUTOFF).map(u32::cast_signed),
        })
    }
}

impl fmt::Display for Macvlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "macvlan mode {}", self.mode)?;
        if let Some(length) = self.broadcast_queue {
            write!(out, " bcqueuelen {length}")?;
        }
        match self.broadcast_cutoff {
            Some(cutoff) => write!(out, " bclim {cutoff}"),
            None => Ok(()),
        }
    }
}
