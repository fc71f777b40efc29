//! Ethernet addresses.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit Ethernet address, written as six pairs of lower-case hex digits with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// Why a text is not the Ethernet address that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// It is none.
    #[error("{0:?} is not a MAC address: six pairs of hex digits with colons are expected")]
    Form(String),
    /// It is none of an interface.
    #[error("{0} is a group's MAC address or nobody's, which no interface can have")]
    Unassignable(Mac),
}

impl Mac {
    /// Returns a random address of the locally administered, unicast kind (IEEE 802, bits 1 and 0 of the first octet).
    ///
    /// Links get their addresses from us and not from the kernel: udev leaves alone what was set on purpose
    /// (systemd.link(5), MACAddressPolicy), and we know it without asking.
    pub fn random() -> Self {
        // The standard library seeds its hasher from the kernel: eight random bytes without another dependency.
        let [a, b, c, d, e, f, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
        Self([a & 0xfc | 0x02, b, c, d, e, f])
    }

    /// Returns whether the address names a group of stations, which no interface may have.
    pub fn is_multicast(&self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Returns whether an interface can have the address: all zeroes are nobody's.
    pub fn is_assignable(&self) -> bool {
        !self.is_multicast() && *self != Self([0; 6])
    }

    /// Reads the address that an interface is to have.
    ///
    /// # Errors
    ///
    /// If the text is no address, or none that an interface can have.
    pub fn of_interface(text: &str) -> Result<Self, MacError> {
        let mac: Self = text.parse()?;
        if mac.is_assignable() { Ok(mac) } else { Err(MacError::Unassignable(mac)) }
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError::Form(text.into());
        let mut bytes = [0; 6];
        let mut pairs = text.split([':', '-']);
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or_else(bad)?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        if pairs.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_macs_are_local_and_unicast() {
        let macs: Vec<Mac> = (0..100).map(|_| Mac::random()).collect();
        assert!(macs.iter().all(|mac| mac.0[0] & 3 == 2));
        assert_ne!(macs[0], macs[1]);
    }

    #[test]
    fn an_interface_has_an_address_of_its_own() {
        assert_eq!(Mac::of_interface("02:00:00:00:00:01"), Ok(Mac([2, 0, 0, 0, 0, 1])));
        for (text, group) in
            [("01:00:5e:00:00:01", true), ("ff:ff:ff:ff:ff:ff", true), ("00:00:00:00:00:00", false)]
        {
            let mac: Mac = text.parse().unwrap();
            assert_eq!((mac.is_multicast(), mac.is_assignable()), (group, false), "{text}");
            assert_eq!(Mac::of_interface(text), Err(MacError::Unassignable(mac)));
        }
        assert!(matches!(Mac::of_interface("x"), Err(MacError::Form(_))));
    }

    #[test]
    fn a_mac_survives_printing() {
        for text in ["c2:11:22:33:44:55", "00:00:00:00:00:00"] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), text);
        }
        assert_eq!("C2-11-22-33-44-5F".parse::<Mac>().unwrap().to_string(), "c2:11:22:33:44:5f");
        for bad in
            ["", "c2", "c2:11:22:33:44", "c2:11:22:33:44:55:66", "c2:11:22:33:44:5", "+2:11:22:33:44:55"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }
}
