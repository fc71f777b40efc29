//! `ip link add type ipvlan`.

use std::fmt;
use std::str::FromStr;

use netlink_packet_route::link::{InfoData, InfoIpVlan, IpVlanFlags, IpVlanMode};

use crate::wire::{attributes, u16_at};

/// A link with addresses of its own on another link, whose MAC address it shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipvlan {
    /// What the lower link passes on.
    pub mode: Mode,
    /// Who reaches whom.
    pub flag: Flag,
}

/// What the lower link passes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Frames: the link answers for its addresses itself.
    #[default]
    L2,
    /// Packets: there is neither ARP nor broadcast, and others need routes to the link's addresses.
    L3,
    /// Packets, which pass the host's firewall on their way.
    L3s,
}

/// Who of the links on one lower link reaches whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flag {
    /// Each the others.
    #[default]
    Bridge,
    /// None the others.
    Private,
    /// Each the others by way of a switch that sends frames back.
    Vepa,
}

macro_rules! names {
    ($kind:ident: $($value:ident $name:literal)*) => {
        impl $kind {
            /// Every value, in the order in which they are told.
            pub const ALL: [Self; 3] = [$(Self::$value),*];

            /// Returns the name as ip-link(8) has it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }
        }

        impl FromStr for $kind {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or(())
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }
    };
}

names! { Mode: L2 "l2" L3 "l3" L3s "l3s" }
names! { Flag: Bridge "bridge" Private "private" Vepa "vepa" }

/// The attributes we read (include/uapi/linux/if_link.h).
mod ifla {
    pub(super) const MODE: u16 = 1;
    pub(super) const FLAGS: u16 = 2;
}

impl Ipvlan {
    pub(crate) fn info(self) -> InfoData {
        let mode = match self.mode {
            Mode::L2 => IpVlanMode::L2,
            Mode::L3 => IpVlanMode::L3,
            Mode::L3s => IpVlanMode::L3S,
        };
        let flags = match self.flag {
            Flag::Bridge => IpVlanFlags::empty(),
            Flag::Private => IpVlanFlags::Private,
            Flag::Vepa => IpVlanFlags::Vepa,
        };
        InfoData::IpVlan(vec![InfoIpVlan::Mode(mode), InfoIpVlan::Flags(flags)])
    }

    /// Reads a link's own data; nothing when it is none of ours.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let find = |wanted| attributes(data).find(|(kind, _)| *kind == wanted);
        let number = |wanted| find(wanted).and_then(|(_, value)| u16_at(value, 0));
        let mode = Mode::ALL.get(usize::from(number(ifla::MODE)?)).copied()?;
        // Bit 0 is private, bit 1 is VEPA.
        let flag = Flag::ALL.get(usize::from(number(ifla::FLAGS).unwrap_or_default())).copied()?;
        Some(Self { mode, flag })
    }
}

impl fmt::Display for Ipvlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ipvlan mode {}", self.mode)?;
        match self.flag {
            Flag::Bridge => Ok(()),
            flag => write!(out, " {flag}"),
        }
    }
}
