//! Ids of hosts, networks and clusters, the VNI, and what is derived from them.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use weft_model::Mac;

/// A text is not an id or a number of the overlay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayIdError {
    /// An id has another form.
    #[error("{0:?} is not an id: 32 hex digits in lower case are expected")]
    NotAnId(String),

    /// A VNI does not fit the header.
    #[error("{0} is not a VNI: 1 to 16777215 is expected (RFC 7348, section 5)")]
    NotAVni(u32),

    /// A WireGuard key has another form.
    #[error("{0:?} is not a WireGuard key: 32 bytes in base64, 44 characters, are expected")]
    NotAKey(String),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Returns the id made of these bytes.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Returns an id nobody else has.
            pub fn random() -> Self {
                Self(random_bytes())
            }

            /// Returns the id's bytes.
            pub const fn bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Returns the first 12 hex digits, the form people see and type.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = OverlayIdError;

            fn from_str(text: &str) -> Result<Self, OverlayIdError> {
                from_hex(text).map(Self).ok_or_else(|| OverlayIdError::NotAnId(shortened(text)))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text).and_then(|id| id.map(Self).map_err(D::Error::custom))
            }
        }
    };
}

id! {
    /// A host: made when it joins and kept on its disk, so that a reboot or another address does not make it another host.
    HostId
}

id! {
    /// An overlay network. A network that is removed and made again under its name is another one.
    NetworkId
}

id! {
    /// A cluster: the hosts that share a store's prefix.
    ClusterId
}

/// A VXLAN network identifier: 24 bits, not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The highest number that fits.
    pub const MAX: u32 = (1 << 24) - 1;

    /// The first that networks get: what people set up by hand has low numbers, and flannel has 1.
    pub const FIRST: Self = Self(4096);

    /// The last there is.
    pub const LAST: Self = Self(Self::MAX);

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = OverlayIdError;

    fn try_from(number: u32) -> Result<Self, OverlayIdError> {
        if (1..=Self::MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(OverlayIdError::NotAVni(number))
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A WireGuard public key, written in base64 as `wg(8)` does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in self.0.chunks(3) {
            let bits =
                group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for place in 0..4 {
                let letter = BASE64[(bits >> (18 - 6 * place) & 63) as usize];
                write!(out, "{}", if place > group.len() { '=' } else { char::from(letter) })?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = OverlayIdError;

    fn from_str(text: &str) -> Result<Self, OverlayIdError> {
        let bad = || OverlayIdError::NotAKey(shortened(text));
        let digits = text.strip_suffix('=').filter(|digits| digits.len() == 43).ok_or_else(bad)?;
        let (mut bytes, mut filled, mut bits, mut held) = ([0; 32], 0, 0u32, 0);
        for digit in digits.bytes() {
            let value = BASE64.iter().position(|letter| *letter == digit).ok_or_else(bad)?;
            bits = bits << 6 | u32::try_from(value).map_err(|_| bad())?;
            held += 6;
            if held >= 8 && filled < 32 {
                held -= 8;
                bytes[filled] = (bits >> held & 0xff) as u8;
                filled += 1;
            }
        }
        // What is left over of the last digit must be zero, or two texts would name one key.
        let key = Self(bytes);
        if key.to_string() == text { Ok(key) } else { Err(bad()) }
    }
}

impl TryFrom<String> for PublicKey {
    type Error = OverlayIdError;

    fn try_from(text: String) -> Result<Self, OverlayIdError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// Returns the address that a host's VXLAN device of a network has: `02` and five bytes of SHA-256(host, network).
///
/// It follows from the ids, so no peer has to be told again after a device was made anew, and an address somebody changed is
/// known to be wrong.
pub fn vtep_mac(host: HostId, network: NetworkId) -> Mac {
    let hash = Sha256::new().chain_update(host.0).chain_update(network.0).finalize();
    Mac([0x02, hash[0], hash[1], hash[2], hash[3], hash[4]])
}

/// Returns random bytes for an id. Not for keys.
pub fn random_bytes() -> [u8; 16] {
    // The standard library seeds its hasher from the kernel, once a thread; what is hashed tells the two halves apart.
    let keys = RandomState::new();
    let half = |salt: u8| {
        let mut hasher = keys.build_hasher();
        hasher.write_u8(salt);
        hasher.finish().to_ne_bytes()
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&half(0));
    bytes[8..].copy_from_slice(&half(1));
    bytes
}

/// Reads the text of an id where it stands: hosts read thousands of them.
struct Text;

impl Visitor<'_> for Text {
    type Value = Result<[u8; 16], OverlayIdError>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an id")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(from_hex(text).ok_or_else(|| OverlayIdError::NotAnId(shortened(text))))
    }
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    // One id has one text.
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// Returns as much of a hostile text as an error should repeat.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_printing() {
        let id = HostId::new([0xab; 16]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(id.to_string().parse::<HostId>().unwrap(), id);
        assert_eq!(id.short(), "abababababab");
        for bad in ["", "ab", &"AB".repeat(16), &"zz".repeat(16), &"ab".repeat(17), &"+a".repeat(16)] {
            assert!(bad.parse::<NetworkId>().is_err(), "{bad:?}");
        }
        assert_ne!(HostId::random(), HostId::random());
    }

    #[test]
    fn a_vni_has_24_bits() {
        for (number, good) in [(0, false), (1, true), (Vni::MAX, true), (Vni::MAX + 1, false)] {
            assert_eq!(Vni::try_from(number).is_ok(), good, "{number}");
        }
        assert!(serde_json::from_str::<Vni>("16777216").is_err());
    }

    #[test]
    fn a_key_is_written_as_wg_does() {
        // wg pubkey of a private key of 32 bytes 0x01 (with the usual clamping)
        let text = "pOCSkraZgZxgOBTWMGZ3EUu0OaNfiqjvwBsUxg9RzHQ=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(PublicKey([0; 32]).to_string(), format!("{}=", "A".repeat(43)));
        let over = format!("{}B=", "A".repeat(42));
        for bad in ["", "=", &text[1..], &"A".repeat(44), &"*".repeat(44), &over] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_vtep_address_follows_from_the_ids() {
        let (host, network) = (HostId::new([1; 16]), NetworkId::new([2; 16]));
        let mac = vtep_mac(host, network);
        assert_eq!(mac, vtep_mac(host, network));
        assert_eq!(mac.0[0], 2);
        assert_ne!(mac, vtep_mac(HostId::new([3; 16]), network));
        assert_ne!(mac, vtep_mac(host, NetworkId::new([3; 16])));
    }
}
