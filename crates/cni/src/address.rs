//! Addresses as Go writes and reads them.
//!
//! CNI: the wire format is what Go's `net.IP` and `net.IPNet` print, so an IPv4 address in IPv6 clothing is an
//! IPv4 address, a prefix is a number, never a mask, and host bits are kept.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, de};

/// A text is not an address or not in CIDR notation. The texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is not an address.
    #[error("invalid IP address: {0}")]
    Ip(String),
    /// The text is not an address, a slash and a prefix length.
    #[error("invalid CIDR address: {0}")]
    Cidr(String),
}

/// Reads an address.
///
/// # Errors
///
/// When the text is anything else.
pub fn parse_ip(text: &str) -> Result<IpAddr, AddressError> {
    let ip: IpAddr = text.parse().map_err(|_| AddressError::Ip(text.into()))?;
    Ok(ip.to_canonical())
}

/// Reads an address with its prefix length; bits after the prefix are kept.
///
/// # Errors
///
/// When the text is anything else.
pub fn parse_cidr(text: &str) -> Result<IpNetwork, AddressError> {
    cidr(text).ok_or_else(|| AddressError::Cidr(text.into()))
}

fn cidr(text: &str) -> Option<IpNetwork> {
    let (ip, prefix) = text.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let prefix: u8 = prefix.parse().ok()?;
    match (ip, ip.to_canonical()) {
        (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if (96..=128).contains(&prefix) => {
            IpNetwork::new(v4, prefix - 96).ok()
        }
        _ => IpNetwork::new(ip, prefix).ok(),
    }
}

/// For `#[serde(deserialize_with)]`: an address with its prefix length.
///
/// # Errors
///
/// When the value is anything else.
pub fn deserialize_cidr<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNetwork, D::Error> {
    parse_cidr(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// For `#[serde(default, deserialize_with)]`: an address; null and the empty string are none.
///
/// # Errors
///
/// When the value is anything else.
pub fn deserialize_optional_ip<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => parse_ip(text).map(Some).map_err(de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        for (text, printed) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:DB8:0::0:1", "2001:db8::1"),
            ("::", "::"),
        ] {
            assert_eq!(parse_ip(text).unwrap().to_string(), printed);
        }
        for bad in ["", "10.1.2", "10.1.2.03", "10.1.2.3/24", " 10.1.2.3", "fe80::1%eth0"] {
            assert_eq!(parse_ip(bad).unwrap_err().to_string(), format!("invalid IP address: {bad}"));
        }
    }

    #[test]
    fn cidrs_keep_their_host_bits() {
        for (text, printed) in [
            ("10.1.2.3/24", "10.1.2.3/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::1/64", "2001:db8::1/64"),
            ("::ffff:10.1.2.3/120", "10.1.2.3/24"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse_cidr(text).unwrap().to_string(), printed);
        }
        for bad in [
            "",
            "10.1.2.3",
            "10.1.2.3/",
            "10.1.2.3/33",
            "10.1.2.3/255.255.255.0",
            "10.1.2.3/+8",
            "x/8",
            "::/129",
            "::/256",
        ] {
            assert_eq!(parse_cidr(bad).unwrap_err().to_string(), format!("invalid CIDR address: {bad}"));
        }
    }
}
