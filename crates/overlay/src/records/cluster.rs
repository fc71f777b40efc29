//! What all hosts agree on.

use std::net::Ipv6Addr;

use ipnetwork::{IpNetwork, Ipv6Network};
use serde::{Deserialize, Serialize};

use super::RecordError;
use crate::ids::{ClusterId, PublicKey, Vni};

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

    /// Refuses ports that are none, or that are each other's: the guard could not tell packets apart.
    pub(crate) fn check_ports(&self) -> Result<(), RecordError> {
        let Slots { a, b } = self.wireguard_ports;
        let named = [
            ("plain_port", self.plain_port),
            ("secure_port", self.secure_port),
            ("wireguard_ports", a),
            ("wireguard_ports", b),
        ];
        for (index, (name, port)) in named.into_iter().enumerate() {
            if port == 0 || named[..index].iter().any(|(_, other)| *other == port) {
                return Err(RecordError::Port(name));
            }
        }
        Ok(())
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
