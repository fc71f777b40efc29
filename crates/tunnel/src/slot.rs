//! The two slots: two complete WireGuard devices, so that a key is replaced without a packet lost.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weft_model::IfName;
use weft_overlay::records::Slots;
use weft_state::Root;

/// One of the two WireGuard devices that a host may have.
///
/// Mostly there is one. The other appears while a key is being replaced, and then the first goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// What the names of both devices start with; firewall rules match it as `weftwg*`.
    pub const DEVICE_PREFIX: &'static str = "weftwg";

    /// Returns the other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Returns the name of the slot's device: `weftwga` or `weftwgb`.
    pub fn device(self) -> IfName {
        // Both are names: the test below reads them.
        let name = format!("{}{}", Self::DEVICE_PREFIX, self.lower());
        name.parse().unwrap_or_else(|_| unreachable!("{name} is an interface name"))
    }

    /// Returns the name of a device that is made to see whether it can be.
    pub(crate) fn probe() -> IfName {
        let name = format!("{}probe", Self::DEVICE_PREFIX);
        name.parse().unwrap_or_else(|_| unreachable!("{name} is an interface name"))
    }

    const fn lower(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// Returns what is this slot's of a pair.
    pub const fn of<T>(self, pair: &Slots<T>) -> &T {
        match self {
            Self::A => &pair.a,
            Self::B => &pair.b,
        }
    }

    /// Returns what is this slot's of a pair, to be changed.
    pub const fn of_mut<T>(self, pair: &mut Slots<T>) -> &mut T {
        match self {
            Self::A => &mut pair.a,
            Self::B => &mut pair.b,
        }
    }

    /// Returns the file that holds the slot's private key.
    pub fn key_file(self, root: &Root) -> PathBuf {
        keys_dir(root).join(format!("wg-{}.key", self.lower()))
    }

    /// Returns the file that a userspace tunnel reads its peers from, also after a reboot with nobody to ask.
    pub fn config_file(self, root: &Root) -> PathBuf {
        root.path().join(format!("var/lib/weft/overlay/wg-{}.json", self.lower()))
    }

    /// Returns the socket that a userspace tunnel answers on.
    pub fn socket(self, root: &Root) -> PathBuf {
        root.path().join(format!("run/weft/overlay/wg-{}.sock", self.lower()))
    }

    /// Returns the file whose lock says that a userspace tunnel runs.
    pub fn lock_file(self, root: &Root) -> PathBuf {
        root.path().join(format!("run/weft/overlay/wg-{}.lock", self.lower()))
    }

    /// Returns the file that says what keeps a userspace tunnel that runs from carrying packets.
    pub fn why_file(self, root: &Root) -> PathBuf {
        root.path().join(format!("run/weft/overlay/wg-{}.why", self.lower()))
    }
}

/// Returns the directory of private keys and of the cluster's secret.
pub(crate) fn keys_dir(root: &Root) -> PathBuf {
    root.path().join("var/lib/weft/overlay/keys")
}

impl fmt::Display for Slot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// A text is not a slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a slot: A or B is expected")]
pub struct NotASlot(String);

impl FromStr for Slot {
    type Err = NotASlot;

    fn from_str(text: &str) -> Result<Self, NotASlot> {
        match text {
            "A" | "a" => Ok(Self::A),
            "B" | "b" => Ok(Self::B),
            _ => Err(NotASlot(text.chars().take(32).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_what_is_its_own() {
        assert_eq!(Slot::A.device().as_str(), "weftwga");
        assert_eq!(Slot::B.device().as_str(), "weftwgb");
        assert_eq!(Slot::probe().as_str(), "weftwgprobe");
        let pair = Slots { a: 1, b: 2 };
        assert_eq!((*Slot::A.of(&pair), *Slot::B.of(&pair)), (1, 2));
        assert_eq!("b".parse::<Slot>().unwrap(), Slot::A.other());
        assert_eq!("C".parse::<Slot>().unwrap_err().to_string(), "\"C\" is not a slot: A or B is expected");
    }
}
