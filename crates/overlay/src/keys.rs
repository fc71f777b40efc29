//! The keys of the store, and what each is about.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use weft_model::NetworkName;

use crate::ids::{HostId, NetworkId, Vni};

/// What all keys begin with.
pub const PREFIX: &str = "/weft/v1/";

/// A longer key is none of ours.
pub const MAX_BYTES: usize = 512;

/// A key of the store. Its text is what `etcdctl get --prefix /weft/v1/` shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `cluster`: [`crate::records::Cluster`].
    Cluster,
    /// `net/<name>`: [`crate::records::Network`].
    Network(NetworkName),
    /// `vni/<number>`: [`crate::records::VniClaim`].
    Vni(Vni),
    /// `host/<host>`: [`crate::records::Host`].
    Host(HostId),
    /// `underlay/<address>`: [`crate::records::HostClaim`], so that no two hosts have one address.
    Underlay(IpAddr),
    /// `mesh/<number>`: [`crate::records::HostClaim`].
    Mesh(u32),
    /// `block/<network>/<address>-<length>`: [`crate::records::Block`].
    Block(NetworkId, IpNetwork),
    /// `member/<network>/<host>`: [`crate::records::Member`].
    Member(NetworkId, HostId),
    /// `borrow/<network>/<address>`: [`crate::records::Borrow`].
    Borrow(NetworkId, IpAddr),
    /// `left/<host>`: [`crate::records::Left`].
    Left(HostId),
    /// `alive/<host>`: [`crate::records::Alive`], with a lease.
    Alive(HostId),
    /// `removal/<network>`: [`crate::records::Removal`], with a lease.
    Removal(NetworkId),
}

/// A key is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key of the overlay")]
pub struct KeyError(String);

impl Key {
    /// Returns the prefix of all blocks of a network.
    pub fn blocks_of(network: NetworkId) -> String {
        format!("{PREFIX}block/{network}/")
    }

    /// Returns the prefix of all borrowed addresses of a network.
    pub fn borrows_of(network: NetworkId) -> String {
        format!("{PREFIX}borrow/{network}/")
    }

    /// Returns the prefix of all members of a network.
    pub fn members_of(network: NetworkId) -> String {
        format!("{PREFIX}member/{network}/")
    }

    /// Returns whether the key goes with its lease: what it says is true of this moment only.
    pub const fn is_fleeting(&self) -> bool {
        matches!(self, Self::Alive(_) | Self::Removal(_))
    }

    /// Returns the prefix of all networks.
    pub fn networks() -> String {
        format!("{PREFIX}net/")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(PREFIX)?;
        match self {
            Self::Cluster => write!(out, "cluster"),
            Self::Network(name) => write!(out, "net/{name}"),
            Self::Vni(vni) => write!(out, "vni/{vni}"),
            Self::Host(host) => write!(out, "host/{host}"),
            Self::Underlay(address) => write!(out, "underlay/{address}"),
            Self::Mesh(number) => write!(out, "mesh/{number}"),
            Self::Block(network, cidr) => {
                write!(out, "block/{network}/{}-{}", cidr.network(), cidr.prefix())
            }
            Self::Member(network, host) => write!(out, "member/{network}/{host}"),
            Self::Borrow(network, address) => write!(out, "borrow/{network}/{address}"),
            Self::Left(host) => write!(out, "left/{host}"),
            Self::Alive(host) => write!(out, "alive/{host}"),
            Self::Removal(network) => write!(out, "removal/{network}"),
        }
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = || KeyError(text.chars().take(120).collect());
        text.strip_prefix(PREFIX).filter(|_| text.len() <= MAX_BYTES).and_then(parsed).ok_or_else(bad)
    }
}

/// Reads a part of a key. One key has one text: `vni/04096` is none of ours, or a claim could be made twice. Of names and ids
/// that is so anyway.
fn exact<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    text.parse().ok().filter(|value: &T| Text(text).is(value))
}

/// A text that is compared with what something is printed as, piece by piece.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn is(mut self, value: &impl fmt::Display) -> bool {
        use fmt::Write;
        write!(self, "{value}").is_ok() && self.0.is_empty()
    }
}

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(piece).ok_or(fmt::Error)?;
        Ok(())
    }
}

fn parsed(text: &str) -> Option<Key> {
    let mut words = text.split('/');
    let key = match (words.next()?, words.next(), words.next()) {
        ("cluster", None, None) => Key::Cluster,
        ("net", Some(name), None) => Key::Network(name.parse().ok()?),
        ("vni", Some(number), None) => Key::Vni(exact::<u32>(number)?.try_into().ok()?),
        ("host", Some(host), None) => Key::Host(host.parse().ok()?),
        ("underlay", Some(address), None) => Key::Underlay(exact(address)?),
        ("mesh", Some(number), None) => Key::Mesh(exact(number)?),
        ("block", Some(network), Some(cidr)) => {
            let (address, length) = cidr.split_once('-')?;
            let cidr = IpNetwork::new(exact(address)?, exact(length)?).ok()?;
            // Its first address, as the key has it.
            let cidr = Some(cidr).filter(|cidr| cidr.ip() == cidr.network())?;
            Key::Block(network.parse().ok()?, cidr)
        }
        ("member", Some(network), Some(host)) => Key::Member(network.parse().ok()?, host.parse().ok()?),
        ("borrow", Some(network), Some(address)) => Key::Borrow(network.parse().ok()?, exact(address)?),
        ("left", Some(host), None) => Key::Left(host.parse().ok()?),
        ("alive", Some(host), None) => Key::Alive(host.parse().ok()?),
        ("removal", Some(network), None) => Key::Removal(network.parse().ok()?),
        _ => return None,
    };
    words.next().is_none().then_some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let (network, host) = (NetworkId::new([1; 16]), HostId::new([2; 16]));
        for key in [
            Key::Cluster,
            Key::Network("blue".parse().unwrap()),
            Key::Vni(4096.try_into().unwrap()),
            Key::Host(host),
            Key::Underlay("192.0.2.1".parse().unwrap()),
            Key::Underlay("2001:db8::1".parse().unwrap()),
            Key::Mesh(7),
            Key::Block(network, "10.1.0.64/26".parse().unwrap()),
            Key::Block(network, "2001:db8::40/122".parse().unwrap()),
            Key::Member(network, host),
            Key::Borrow(network, "10.1.0.9".parse().unwrap()),
            Key::Left(host),
            Key::Alive(host),
            Key::Removal(network),
        ] {
            assert_eq!(key.to_string().parse::<Key>().as_ref(), Ok(&key), "{key}");
        }
        assert_eq!(
            Key::Block(network, "10.1.0.64/26".parse().unwrap()).to_string(),
            format!("/weft/v1/block/{}/10.1.0.64-26", "01".repeat(16))
        );
    }

    #[test]
    fn one_key_has_one_text() {
        let network = "01".repeat(16);
        for bad in [
            "",
            "/weft/v1/",
            "/weft/v1/cluster/",
            "/weft/v1/vni/04096",
            "/weft/v1/vni/0",
            "/weft/v1/net/",
            "/weft/v1/net/a/b",
            "/weft/v1/underlay/2001:DB8::1",
            &format!("/weft/v1/block/{network}/10.1.0.65-26"),
            &format!("/weft/v1/block/{network}/10.1.0.64-33"),
            &format!("/weft/v1/block/{network}/10.1.0.64-26/x"),
            "/other/v1/cluster",
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_fatal(text in "(/weft/v1/)?[a-z]{0,8}/?.{0,64}") {
            if let Ok(key) = text.parse::<Key>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
