//! A record of any kind.

use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::ids::{HostId, Vni};
use crate::keys::Key;
use crate::records::{
    Alive, Block, Borrow, Cluster, Host, HostClaim, Left, Member, Network, RecordError, Removal, VniClaim,
    Written, check_text, decode,
};

/// A record of any kind that a store may hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// What all hosts agree on.
    Cluster(Cluster),
    /// A network.
    Network(Network),
    /// A VNI, and who has it.
    Vni(Vni, VniClaim),
    /// A host.
    Host(Host),
    /// An underlay address, and who has it.
    Underlay(IpAddr, HostClaim),
    /// A number in the mesh, and who has it.
    Mesh(u32, HostClaim),
    /// Addresses of a host.
    Block(Block),
    /// A host takes part in a network.
    Member(Member),
    /// A single address of a host.
    Borrow(Borrow),
    /// A host went on purpose.
    Left(Left),
    /// A host is there.
    Alive(Alive),
    /// A network is about to be removed.
    Removal(Removal),
}

/// As it stands in a store.
impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Cluster(record) => Written::of(record).serialize(serializer),
            Self::Network(record) => Written::of(record).serialize(serializer),
            Self::Vni(_, record) => Written::of(record).serialize(serializer),
            Self::Host(record) => Written::of(record).serialize(serializer),
            Self::Underlay(_, record) | Self::Mesh(_, record) => Written::of(record).serialize(serializer),
            Self::Block(record) => Written::of(record).serialize(serializer),
            Self::Member(record) => Written::of(record).serialize(serializer),
            Self::Borrow(record) => Written::of(record).serialize(serializer),
            Self::Left(record) => Written::of(record).serialize(serializer),
            Self::Alive(record) => Written::of(record).serialize(serializer),
            Self::Removal(record) => Written::of(record).serialize(serializer),
        }
    }
}

macro_rules! views {
    ($($name:ident, $kind:ident;)*) => {$(
        #[doc = concat!("Returns the record, if it is of the kind `", stringify!($kind), "`.")]
        pub const fn $name(&self) -> Option<&$kind> {
            if let Self::$kind(record) = self { Some(record) } else { None }
        }
    )*};
}

impl Record {
    /// Reads an entry of a store.
    ///
    /// # Errors
    ///
    /// Says why the entry is passed over.
    pub fn parse(key: &str, value: &[u8]) -> Result<(Key, Self), String> {
        let key: Key = key.parse().map_err(|error: crate::keys::KeyError| error.to_string())?;
        let record = Self::of(&key, value).map_err(|error| error.to_string())?;
        record.check().map_err(|error| error.to_string())?;
        if record.key() == key {
            Ok((key, record))
        } else {
            Err(RecordError::Elsewhere(record.key().to_string()).to_string())
        }
    }

    fn of(key: &Key, value: &[u8]) -> Result<Self, RecordError> {
        Ok(match key {
            Key::Cluster => Self::Cluster(decode(value)?),
            Key::Network(_) => Self::Network(decode(value)?),
            Key::Vni(vni) => Self::Vni(*vni, decode(value)?),
            Key::Host(_) => Self::Host(decode(value)?),
            Key::Underlay(address) => Self::Underlay(*address, decode(value)?),
            Key::Mesh(number) => Self::Mesh(*number, decode(value)?),
            Key::Block(..) => Self::Block(decode(value)?),
            Key::Member(..) => Self::Member(decode(value)?),
            Key::Borrow(..) => Self::Borrow(decode(value)?),
            Key::Left(_) => Self::Left(decode(value)?),
            Key::Alive(_) => Self::Alive(decode(value)?),
            Key::Removal(_) => Self::Removal(decode(value)?),
        })
    }

    /// Refuses what no host of ours writes: it would be shown to people, or handed to the firewall.
    fn check(&self) -> Result<(), RecordError> {
        let texts: Vec<(&'static str, &str)> = match self {
            Self::Cluster(cluster) => return cluster.check_ports(),
            Self::Host(host) => {
                host.check_ports()?;
                vec![("name", &host.name), ("boot", &host.boot), ("version", &host.version)]
            }
            Self::Borrow(borrow) => vec![("holder", &borrow.holder)],
            Self::Left(left) => vec![("reason", &left.reason)],
            Self::Alive(alive) => {
                vec![("boot", &alive.boot), ("degraded", alive.degraded.as_deref().unwrap_or_default())]
            }
            _ => Vec::new(),
        };
        texts.into_iter().try_for_each(|(field, text)| check_text(field, text))
    }

    /// Returns where the record belongs.
    pub fn key(&self) -> Key {
        match self {
            Self::Cluster(_) => Key::Cluster,
            Self::Network(network) => Key::Network(network.name.clone()),
            Self::Vni(vni, _) => Key::Vni(*vni),
            Self::Host(host) => Key::Host(host.id),
            Self::Underlay(address, _) => Key::Underlay(*address),
            Self::Mesh(number, _) => Key::Mesh(*number),
            Self::Block(block) => Key::Block(block.network, block.cidr),
            Self::Member(member) => Key::Member(member.network, member.host),
            Self::Borrow(borrow) => Key::Borrow(borrow.network, borrow.address),
            Self::Left(left) => Key::Left(left.host),
            Self::Alive(alive) => Key::Alive(alive.host),
            Self::Removal(removal) => Key::Removal(removal.network),
        }
    }

    /// Returns the record as it stands in a store.
    pub fn value(&self) -> Vec<u8> {
        // Only maps with keys that are no texts fail, and no record has such.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the host whose record this is, which alone writes it as long as it is there.
    pub const fn owner(&self) -> Option<HostId> {
        match self {
            Self::Cluster(_) | Self::Network(_) | Self::Vni(..) | Self::Left(_) => None,
            Self::Host(host) => Some(host.id),
            Self::Underlay(_, claim) | Self::Mesh(_, claim) => Some(claim.host),
            Self::Block(block) => Some(block.host),
            Self::Member(member) => Some(member.host),
            Self::Borrow(borrow) => Some(borrow.host),
            Self::Alive(alive) => Some(alive.host),
            Self::Removal(removal) => Some(removal.host),
        }
    }

    views! {
        as_cluster, Cluster;
        as_network, Network;
        as_host, Host;
        as_block, Block;
        as_member, Member;
        as_borrow, Borrow;
        as_left, Left;
        as_alive, Alive;
        as_removal, Removal;
    }
}
