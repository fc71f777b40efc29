//! Networks are made and removed.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;
use weft_model::{Mtu, NetworkName};
use weft_overlay::blocks::{check_subnets, free_subnet};
use weft_overlay::records::{Cluster, Egress, Encryption, Network, VniClaim, encode};
use weft_overlay::{Key, NetworkId, Vni, keys};

use super::{ATTEMPTS, ClaimError, Claims, pause};
use crate::{Compare, Op};

/// A network to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewNetwork {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// Its VNI; none chooses one.
    pub vni: Option<Vni>,
    /// Its subnets; none takes one of the cluster's pools.
    pub subnets: Vec<IpNetwork>,
    /// What protects it between hosts.
    pub encryption: Encryption,
    /// Whether it lives in a namespace of its own.
    pub isolated: bool,
    /// How its containers reach what is not the network.
    pub egress: Egress,
    /// The MTU somebody asked for.
    pub mtu: Option<Mtu>,
    /// What people wrote on it.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver as they were given.
    pub options: BTreeMap<String, String>,
}

impl Claims {
    /// Makes a network, with a VNI and subnets that no other has.
    ///
    /// # Errors
    ///
    /// A name, VNI or subnet that another network has, or a subnet that a host's underlay address is in.
    pub async fn create_network(&self, new: &NewNetwork) -> Result<Network, ClaimError> {
        for attempt in 0..ATTEMPTS {
            if let Some(network) = self.try_create(new).await? {
                return Ok(network);
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy("the cluster's networks".into()))
    }

    async fn try_create(&self, new: &NewNetwork) -> Result<Option<Network>, ClaimError> {
        let cluster = self.cluster_found().await?;
        let others = self.networks().await?;
        if others.iter().any(|other| other.name == new.name) {
            return Err(ClaimError::NetworkExists(new.name.clone()));
        }
        let underlays: Vec<_> = self.underlays().await?.into_iter().map(|(address, _)| address).collect();
        let subnets = if new.subnets.is_empty() {
            let free = free_subnet(&cluster.value.pools, &others, underlays.iter().copied());
            vec![free.ok_or(ClaimError::NoSubnet)?]
        } else {
            new.subnets.clone()
        };
        let network = Network {
            id: new.id,
            name: new.name.clone(),
            generation: 1,
            vni: self.free_vni(new, &cluster.value).await?,
            subnets,
            encryption: new.encryption,
            isolated: new.isolated,
            egress: new.egress,
            mtu: new.mtu,
            labels: new.labels.clone(),
            options: new.options.clone(),
            created: weft_state::time::now(),
        };
        check_subnets(&network, cluster.value.block_length, &others, underlays)?;
        let (name, vni) = (Key::Network(network.name.clone()), Key::Vni(network.vni));
        // Two networks made at the same moment have different keys, and might overlap nevertheless: whoever makes a network
        // writes the cluster's record again, so of two only one comes through and the other looks once more.
        let compares = [
            Compare::absent(&name),
            Compare::absent(&vni),
            Compare::unchanged(&Key::Cluster, cluster.modified),
        ];
        let ops = [
            Op::put(&Key::Cluster, cluster.raw),
            Op::put(&vni, encode(&VniClaim { network: network.id })),
            Op::put(&name, encode(&network)),
        ];
        Ok(self.txn(&compares, &ops).await?.then_some(network))
    }

    /// Returns the VNI asked for, or the first free one from where the id points to.
    async fn free_vni(&self, new: &NewNetwork, cluster: &Cluster) -> Result<Vni, ClaimError> {
        let (good, bad) = self.records(&format!("{}vni/", keys::PREFIX)).await?;
        let keys = good.iter().map(|found| found.value.key()).chain(bad);
        let taken: BTreeSet<Vni> =
            keys.filter_map(|key| if let Key::Vni(vni) = key { Some(vni) } else { None }).collect();
        if let Some(vni) = new.vni {
            return if taken.contains(&vni) { Err(ClaimError::VniTaken(vni)) } else { Ok(vni) };
        }
        let (first, last) = cluster.vni_range;
        let count = u64::from(last.get().saturating_sub(first.get())) + 1;
        let [a, b, c, d, ..] = *new.id.bytes();
        let start = u64::from(u32::from_be_bytes([a, b, c, d]));
        (0..count)
            .filter_map(|step| {
                let offset = u32::try_from((start + step) % count).ok()?;
                Vni::try_from(first.get() + offset).ok()
            })
            .find(|vni| !taken.contains(vni))
            .ok_or(ClaimError::NoVni(first, last))
    }
}
