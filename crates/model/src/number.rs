//! Bounded numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number is outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value} is not between {min} and {max}")]
pub struct NumberError {
    what: &'static str,
    value: i64,
    min: i64,
    max: i64,
}

fn bounded(what: &'static str, value: i64, min: i64, max: i64) -> Result<i64, NumberError> {
    if (min..=max).contains(&value) { Ok(value) } else { Err(NumberError { what, value, min, max }) }
}

/// A link's MTU in bytes: 68 (RFC 791) to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Mtu(u32);

impl Mtu {
    /// Ethernet's MTU.
    pub const ETHERNET: Self = Self(1500);

    /// Returns the number of bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Reads what a configuration says of a link's MTU; 0 leaves it to the kernel.
    ///
    /// # Errors
    ///
    /// If it is another number that is no MTU.
    pub fn written(value: i64) -> Result<Option<Self>, NumberError> {
        if value == 0 { Ok(None) } else { Self::try_from(value).map(Some) }
    }
}

impl TryFrom<i64> for Mtu {
    type Error = NumberError;

    fn try_from(value: i64) -> Result<Self, NumberError> {
        let value = bounded("MTU", value, 68, 65_535)?;
        Ok(Self(u32::try_from(value).unwrap_or(u32::MAX)))
    }
}

impl From<Mtu> for i64 {
    fn from(mtu: Mtu) -> Self {
        mtu.0.into()
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// An IEEE 802.1Q VLAN id: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct VlanId(u16);

impl VlanId {
    /// The VLAN a bridge port is in until told otherwise (KERNEL: br_vlan_init, net/bridge/br_vlan.c).
    pub const DEFAULT: Self = Self(1);

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<i64> for VlanId {
    type Error = NumberError;

    fn try_from(value: i64) -> Result<Self, NumberError> {
        let value = bounded("VLAN id", value, 1, 4094)?;
        Ok(Self(u16::try_from(value).unwrap_or(u16::MAX)))
    }
}

impl From<VlanId> for i64 {
    fn from(vlan: VlanId) -> Self {
        vlan.0.into()
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        for (value, ok) in [(67, false), (68, true), (65_535, true), (65_536, false), (-1, false)] {
            assert_eq!(Mtu::try_from(value).is_ok(), ok, "{value}");
        }
        assert_eq!((Mtu::written(0), Mtu::written(1500)), (Ok(None), Ok(Some(Mtu::ETHERNET))));
        assert!(Mtu::written(67).is_err());
        for (value, ok) in [(0, false), (1, true), (4094, true), (4095, false)] {
            assert_eq!(VlanId::try_from(value).is_ok(), ok, "{value}");
        }
        assert_eq!(Mtu::try_from(9).unwrap_err().to_string(), "MTU 9 is not between 68 and 65535");
    }
}
