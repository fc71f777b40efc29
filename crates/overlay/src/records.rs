//! The records hosts share: what a key's value means.
//!
//! Written as JSON with `"schema": 1` in front. Fields that are not known here are passed over, so a newer weft may add some;
//! a higher schema is refused, because then something known here means something else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use weft_model::{Mtu, NetworkName};

use crate::ids::{ClusterId, HostId, NetworkId, PublicKey, Vni};

/// The schema of every record written here.
pub const SCHEMA: u64 = 1;

/// A longer value is not looked at: records are some hundred bytes, and etcd itself refuses 1.5 MiB.
pub const MAX_BYTES: usize = 64 * 1024;

/// A value is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than any record.
    #[error("{0} bytes, where a record has {MAX_BYTES} at most")]
    TooLong(usize),

    /// Written by a later version.
    #[error("schema {0}, where this version reads schemas up to {SCHEMA}: a newer weft wrote it")]
    Newer(u64),

    /// Not JSON, or not of this record.
    #[error("{0}")]
    Malformed(String),

    /// The record says another name than its key.
    #[error("the record is about {0}, its key is not")]
    Elsewhere(String),
}

#[derive(Serialize)]
struct Written<'a, T> {
    schema: u64,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct Header {
    schema: Option<u64>,
}

/// Returns a record as it stands in the store.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Only maps with keys that are no texts fail, and no record has such.
    serde_json::to_vec(&Written { schema: SCHEMA, record }).unwrap_or_default()
}

/// Reads a record.
///
/// # Errors
///
/// Says what is wrong with the value, in one line that does not repeat it.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, RecordError> {
    if value.len() > MAX_BYTES {
        return Err(RecordError::TooLong(value.len()));
    }
    let malformed = |error: serde_json::Error| {
        // A hostile value may be quoted by the parser: one line of it is enough.
        RecordError::Malformed(error.to_string().chars().filter(|c| !c.is_control()).take(200).collect())
    };
    let header: Header = serde_json::from_slice(value).map_err(malformed)?;
    match header.schema {
        Some(SCHEMA) => serde_json::from_slice(value).map_err(malformed),
        Some(newer) if newer > SCHEMA => Err(RecordError::Newer(newer)),
        Some(other) => Err(RecordError::Malformed(format!("there is no schema {other}"))),
        None => Err(RecordError::Malformed("it has no \"schema\"".into())),
    }
}

/// What all hosts agree on. Written once, by the first host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's id.
    pub id: ClusterId,
    /// Where subnets of networks come from that name none.
    pub pools: Vec<Pool>,
    /// How long the prefix of a host's block is.
    pub block_length: BlockLength,
    /// VNIs that networks get, both ends included. Lower ones are left to what people set up by hand.
    pub vni_range: (Vni, Vni),
    /// The UDP port of VXLAN of plain networks.
    pub plain_port: u16,
    /// The UDP port of VXLAN inside the WireGuard mesh, never seen on the wire.
    pub secure_port: u16,
    /// The UDP ports of the two WireGuard slots.
    pub wireguard_ports: Slots<u16>,
    /// The addresses of hosts inside the mesh: a /48 that follows from the id.
    pub mesh_prefix: Ipv6Network,
    /// Seconds for which a block that was given up is nobody's.
    pub quarantine: u64,
    /// Seconds after which a host that is not heard of may be forgotten, or its underlay address taken.
    pub grace: u64,
    /// What follows from the secret that all hosts have and the store does not: whoever has another one is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_proof: Option<PublicKey>,
}

impl Cluster {
    /// Returns a cluster of this id with the customary values.
    pub fn new(id: ClusterId) -> Self {
        let [a, b, c, d, e, ..] = *id.bytes();
        // RFC 4193, section 3.1: fd, then 40 bits that are random.
        let mesh = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        Self {
            id,
            pools: Vec::new(),
            block_length: BlockLength { v4: 26, v6: 122 },
            vni_range: (Vni::FIRST, Vni::LAST),
            plain_port: 4789,
            secure_port: 8473,
            wireguard_ports: Slots { a: 51820, b: 51821 },
            mesh_prefix: Ipv6Network::new(mesh, 48).unwrap_or_else(|_| mesh.into()),
            quarantine: 24 * 3600,
            grace: 72 * 3600,
            secret_proof: None,
        }
    }

    /// Returns the address inside the mesh of the host with this number.
    pub fn mesh_address(&self, number: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.mesh_prefix.network().to_bits() | u128::from(number))
    }
}

/// Addresses that networks are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// All of them.
    pub base: IpNetwork,
    /// The length of the prefix that a network gets.
    pub size: u8,
}

/// The length of the prefix of a host's block, of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLength {
    /// Of IPv4: 26 makes 62 containers.
    pub v4: u8,
    /// Of IPv6: 122 makes as many.
    pub v6: u8,
}

/// One thing for each of the two WireGuard slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots<T> {
    /// Slot A.
    pub a: T,
    /// Slot B.
    pub b: T,
}

/// A network that exists on every host that takes part in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name, the same on every host.
    pub name: NetworkName,
    /// Goes up with every change.
    pub generation: u64,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Its subnets, one or two of a family at most, that blocks are cut from.
    pub subnets: Vec<IpNetwork>,
    /// What protects it between hosts.
    #[serde(default)]
    pub encryption: Encryption,
    /// Whether it lives in a namespace of its own, so that its subnets may be another network's as well.
    #[serde(default)]
    pub isolated: bool,
    /// How its containers reach what is not the network.
    #[serde(default)]
    pub egress: Egress,
    /// The MTU somebody asked for; none follows each host's underlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// What people wrote on it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Options of the driver as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// When it was created, in RFC 3339.
    pub created: String,
}

/// What protects a network between hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Nothing: plain VXLAN.
    #[default]
    None,
    /// VXLAN inside the WireGuard mesh.
    Wireguard,
}

/// How containers reach what is not the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// With the host's address.
    #[default]
    Nat,
    /// With their own.
    Routed,
    /// Not at all.
    None,
}

impl Egress {
    /// Returns what it is when nobody says: a network that is cut off from its hosts leads nowhere.
    pub const fn of(isolated: bool) -> Self {
        if isolated { Self::None } else { Self::Nat }
    }
}

/// A host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// Its name, for people.
    pub name: String,
    /// Goes up each time it takes over an underlay address from another host.
    pub incarnation: u64,
    /// The kernel's boot id.
    pub boot: String,
    /// Its addresses outside.
    pub underlay: Underlay,
    /// Its number in the mesh.
    pub mesh: u32,
    /// Its keys.
    #[serde(default)]
    pub wireguard: Slots<Option<Slot>>,
    /// The MTU of its underlay interface.
    pub mtu: u32,
    /// The version of weft on it.
    #[serde(default)]
    pub version: String,
    /// When it joined, in milliseconds since 1970: of two that claim one thing the earlier has it.
    pub epoch: u64,
    /// The host that has taken its underlay address: it is out, and may not come back under this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<HostId>,
}

/// A host's addresses outside, at least one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Underlay {
    /// Of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl Underlay {
    /// Returns the addresses there are, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// What a host publishes of a WireGuard slot. The private key never leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The public key.
    pub public_key: PublicKey,
    /// The UDP port it listens on.
    pub port: u16,
    /// Goes up with every key of the host, whichever the slot.
    pub epoch: u64,
    /// What the slot is for at present.
    pub state: SlotState,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// Peers send here once a handshake has succeeded.
    #[default]
    Active,
    /// Peers that send here still should move to the other slot.
    Retiring,
}

/// Addresses of a network that one host gives out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Of which network.
    pub network: NetworkId,
    /// Which addresses.
    pub cidr: IpNetwork,
    /// Whose it is, or was.
    pub host: HostId,
    /// When it was claimed, in milliseconds since 1970, never less than any claim the claimer knew of.
    pub epoch: u64,
    /// What may be done with it.
    pub state: BlockState,
}

/// What may be done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is")]
pub enum BlockState {
    /// Its host gives out addresses of it, and every peer has a route.
    Active,
    /// Nobody may until the quarantine is over: somebody may still send to what was there.
    Quarantine {
        /// Since when, in milliseconds since 1970.
        since: u64,
    },
    /// Nobody ever: an administrator keeps it out.
    Reserved,
}

/// A single address that a host has out of another's block, or of none: somebody asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borrow {
    /// Of which network.
    pub network: NetworkId,
    /// Which address.
    pub address: IpAddr,
    /// Who has it.
    pub host: HostId,
    /// For which name or container, for people.
    pub holder: String,
    /// When it was claimed, in milliseconds since 1970.
    pub epoch: u64,
}

/// A host takes part in a network: only such hosts are peers in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// In which network.
    pub network: NetworkId,
    /// Which host.
    pub host: HostId,
    /// Since when, in RFC 3339.
    pub since: String,
}

/// A host is gone on purpose: others may drop what they know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Which host.
    pub host: HostId,
    /// Since when, in milliseconds since 1970.
    pub at: u64,
    /// Why: it left, or it was forgotten.
    pub reason: String,
}

/// A host is there. The only record with a lease; nothing but a host's being suspect follows from its absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Which host.
    pub host: HostId,
    /// The kernel's boot id.
    pub boot: String,
    /// Why it is not as it should be, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Addresses in use on it, by network: told when the first comes and the last goes, and now and then between.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<NetworkId, u64>,
}

/// Who has a VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VniClaim {
    /// The network.
    pub network: NetworkId,
}

/// Who has an underlay address, or a number in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClaim {
    /// The host.
    pub host: HostId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        Block {
            network: NetworkId::new([1; 16]),
            cidr: "10.1.0.0/26".parse().unwrap(),
            host: HostId::new([2; 16]),
            epoch: 7,
            state: BlockState::Quarantine { since: 5 },
        }
    }

    #[test]
    fn a_record_survives_the_store() {
        let bytes = encode(&block());
        assert!(bytes.starts_with(br#"{"schema":1,"network":"01"#), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(decode::<Block>(&bytes).unwrap(), block());
        let cluster = Cluster::new(ClusterId::new([0xab; 16]));
        assert_eq!(decode::<Cluster>(&encode(&cluster)).unwrap(), cluster);
        assert_eq!(cluster.mesh_prefix.to_string(), "fdab:abab:abab::/48");
        assert_eq!(cluster.mesh_address(258).to_string(), "fdab:abab:abab::102");
    }

    #[test]
    fn a_newer_field_is_passed_over_and_a_newer_schema_is_not() {
        let text = String::from_utf8(encode(&block())).unwrap();
        let more = text.replacen("{", r#"{"colour":"blue","#, 1);
        assert_eq!(decode::<Block>(more.as_bytes()).unwrap(), block());
        let newer = text.replacen(r#""schema":1"#, r#""schema":2"#, 1);
        assert_eq!(decode::<Block>(newer.as_bytes()), Err(RecordError::Newer(2)));
    }

    #[test]
    fn what_is_no_record_is_said_in_a_line() {
        let long = vec![b' '; MAX_BYTES + 1];
        assert_eq!(decode::<Block>(&long), Err(RecordError::TooLong(MAX_BYTES + 1)));
        for bad in
            [&b""[..], b"{", b"\xff\xfe", b"[]", b"{}", b"{\"schema\":0}", b"{\"schema\":1}", &[b'['; 9000]]
        {
            let why = decode::<Block>(bad).unwrap_err().to_string();
            assert!(!why.is_empty() && why.len() <= 300 && !why.contains('\n'), "{why:?}");
        }
    }
}
