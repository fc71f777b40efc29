//! Sets and maps, their elements and their keys.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::Table;
use crate::expr::Verdict;

/// The type of a key, of one field of a concatenated key, or of mapped data.
///
/// The kernel only cares about the length; the number is for `nft`, which prints by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An IPv4 address.
    Ipv4Addr,
    /// An IPv6 address.
    Ipv6Addr,
    /// An Ethernet address.
    EtherAddr,
    /// A transport protocol's number.
    InetProto,
    /// A port.
    InetService,
    /// An interface's name.
    IfName,
}

impl Type {
    /// Returns libnftables' number of the type (`enum datatypes`, include/datatype.h).
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::EtherAddr => 9,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::IfName => 41,
        }
    }

    /// Returns the length of a value in bytes.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::InetProto => 1,
            Self::InetService => 2,
            Self::Ipv4Addr => 4,
            Self::EtherAddr => 6,
            Self::Ipv6Addr | Self::IfName => 16,
        }
    }

    /// Returns the length a field of this type takes in a concatenation: whole 32-bit words.
    pub(crate) const fn padded_len(self) -> usize {
        self.len().next_multiple_of(4)
    }
}

/// What a map gives for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// A verdict, usually a jump.
    Verdict,
    /// A value, or several one after the other.
    Data(&'static [Type]),
    /// Two values one after the other, the first and the last to choose from; each in several fields.
    Range(&'static [Type]),
}

/// A named set, or a map when it has values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The table it is in.
    pub table: Table,
    /// Its name within the table.
    pub name: Cow<'static, str>,
    /// The fields of a key.
    pub key: &'static [Type],
    /// What a key leads to, or `None` for a plain set.
    pub values: Option<Values>,
    /// Whether an element may be a range of keys.
    pub intervals: bool,
    /// Whether elements can expire, which is the cheap way to delete one: [`crate::Transaction::expire`].
    pub expiring: bool,
}

impl Set {
    /// Returns a plain set of single keys.
    pub fn new(table: Table, name: impl Into<Cow<'static, str>>, key: &'static [Type]) -> Self {
        Self { table, name: name.into(), key, values: None, intervals: false, expiring: false }
    }

    /// Returns the set with elements that can expire.
    pub fn expiring(mut self) -> Self {
        self.expiring = true;
        self
    }

    /// Returns the set with elements that may be ranges.
    pub fn intervals(mut self) -> Self {
        self.intervals = true;
        self
    }

    /// Returns the set as a map to these values.
    pub fn to(mut self, values: Values) -> Self {
        self.values = Some(values);
        self
    }

    pub(crate) fn is_concatenation(&self) -> bool {
        self.key.len() > 1
    }
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.values.is_some() { "map" } else { "set" };
        write!(out, "{what} {} {}", self.table, self.name)
    }
}

/// The bytes of a key: its fields one after the other, each filled up to whole 32-bit words when
/// there are several.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub(crate) Vec<u8>);

impl Key {
    /// Returns an empty key, to which fields are added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address.
    pub fn addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => self.field(&addr.octets()),
            IpAddr::V6(addr) => self.field(&addr.octets()),
        }
    }

    /// Adds an Ethernet address.
    pub fn ether(self, mac: [u8; 6]) -> Self {
        self.field(&mac)
    }

    /// Adds an interface name, which the kernel compares with its 16-byte buffer.
    pub fn ifname(mut self, name: &str) -> Self {
        let end = self.0.len() + 16;
        self.0.extend_from_slice(&name.as_bytes()[..name.len().min(15)]);
        self.0.resize(end, 0);
        self
    }

    /// Adds a port.
    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// Adds a transport protocol's number.
    pub fn proto(self, proto: u8) -> Self {
        self.field(&[proto])
    }

    /// Adds the fields of another key.
    pub fn followed_by(mut self, other: &Self) -> Self {
        self.0.extend_from_slice(&other.0);
        self
    }

    /// Adds an address of no bits of this one's family: what a mask without any bit makes of any address.
    pub fn any(self, family: IpAddr) -> Self {
        self.field(&vec![0; if family.is_ipv4() { 4 } else { 16 }])
    }

    /// Returns whether it is the key of `*`, the element for all keys that have none of their own.
    pub fn is_catch_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns its bytes, as the kernel has them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Returns the bytes as the set's key type wants them: padded only within a concatenation.
    pub(crate) fn bytes(&self, fields: &[Type]) -> &[u8] {
        match fields {
            [only] => &self.0[..only.len().min(self.0.len())],
            _ => &self.0,
        }
    }
}

/// What a map's element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// A value, made like a key.
    Value(Key),
}

/// An element of a set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub(crate) key: Key,
    /// The last key of a range.
    pub(crate) last: Option<Key>,
    pub(crate) data: Option<Data>,
    pub(crate) comment: Option<String>,
}

impl Element {
    /// Returns the element of one key.
    pub fn new(key: Key) -> Self {
        Self { key, last: None, data: None, comment: None }
    }

    /// Returns the element that stands for every key from `first` to `last`, both included.
    pub fn range(first: Key, last: Key) -> Self {
        Self { last: Some(last), ..Self::new(first) }
    }

    /// Returns the element with what its key leads to.
    pub fn to(mut self, data: Data) -> Self {
        self.data = Some(data);
        self
    }

    /// Returns the element with a comment.
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// Returns its key, or the first one of its range.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Returns whether what the kernel shows for its key leads to the same.
    pub fn has_value_of(&self, found: &FoundElement) -> bool {
        match &self.data {
            Some(Data::Value(value)) => found.value.as_deref() == Some(&value.0),
            Some(Data::Verdict(_)) | None => true,
        }
    }
}

/// An element as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundElement {
    /// Its comment.
    pub comment: Option<String>,
    /// The time until it is gone, if it is expiring.
    pub expires: Option<Duration>,
    /// The bytes of its value, if the set is a map of values.
    pub value: Option<Vec<u8>>,
}
