//! Networks go, and what is left of networks and hosts that are gone.
//!
//! Containers come without asking the store, so that a network is to be removed is announced first. Then nobody begins to take part in
//! it, and each host that has no container on it lets go; when all have, the network goes in one transaction.

use std::collections::BTreeSet;

use weft_model::NetworkName;
use weft_overlay::records::{Left, Network, Removal, VniClaim, encode};
use weft_overlay::snapshot::Record;
use weft_overlay::{HostId, Key, NetworkId, keys};

use super::{ATTEMPTS, CHUNK, ClaimError, Claims, pause};
use crate::{Compare, LeaseId, Op, StoreError};

/// For so long it is known that a host has left, in milliseconds: whoever was away for longer learns it otherwise.
const REMEMBERED: u64 = 30 * 24 * 3600 * 1000;

impl Claims {
    /// Announces that a network is about to be removed, for as long as the lease lasts.
    ///
    /// # Errors
    ///
    /// [`ClaimError::NoNetwork`] when there is none, [`ClaimError::BeingRemoved`] when somebody else does so already.
    pub async fn announce_removal(
        &self,
        host: HostId,
        name: &NetworkName,
        lease: LeaseId,
    ) -> Result<Network, ClaimError> {
        let key = Key::Network(name.clone());
        for attempt in 0..ATTEMPTS {
            let found =
                self.read::<Network>(&key).await?.ok_or_else(|| ClaimError::NoNetwork(name.clone()))?;
            let network = found.value.id;
            let announced = Key::Removal(network);
            if let Some(removal) = self.read::<Removal>(&announced).await? {
                return Err(ClaimError::BeingRemoved { network: name.clone(), host: removal.value.host });
            }
            let put = Op::Put {
                key: announced.to_string(),
                value: encode(&Removal { network, host }),
                lease: Some(lease),
            };
            let compares = [Compare::unchanged(&key, found.modified), Compare::absent(&announced)];
            if self.txn(&compares, &[put]).await? {
                return Ok(found.value);
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(key.to_string()))
    }

    /// Has a host take no part any more in a network that is being removed. When it is not any more, nothing is done.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering.
    pub async fn let_go(&self, host: HostId, network: NetworkId) -> Result<(), ClaimError> {
        let mut keys = Vec::new();
        for prefix in [Key::blocks_of(network), Key::borrows_of(network), Key::members_of(network)] {
            let (found, _) = self.records(&prefix).await?;
            let own = found.into_iter().filter(|found| found.value.owner() == Some(host));
            keys.extend(own.map(|found| found.value.key()));
        }
        // The member is the last of them: until then others know that there is something left.
        for chunk in keys.chunks(CHUNK) {
            let ops: Vec<Op> = chunk.iter().map(Op::delete).collect();
            if !self.txn(&[Compare::present(&Key::Removal(network))], &ops).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes a network whose removal was announced, once nobody takes part in it.
    ///
    /// # Errors
    ///
    /// [`ClaimError::StillMember`] when a host does; [`ClaimError::NoNetwork`].
    pub async fn finish_removal(&self, network: &Network) -> Result<(), ClaimError> {
        // After the announcement nobody can have begun to.
        let (members, _) = self.records(&Key::members_of(network.id)).await?;
        if let Some(host) = members.iter().find_map(|member| member.value.owner()) {
            return Err(ClaimError::StillMember { network: network.name.clone(), host });
        }
        self.remove(&network.name, Some(Compare::present(&Key::Removal(network.id)))).await.map(drop)
    }

    /// Removes a network whatever hosts have on it, and with it every block, borrowed address and member there is.
    ///
    /// # Errors
    ///
    /// [`ClaimError::NoNetwork`] when there is none.
    pub async fn remove_network(&self, name: &NetworkName) -> Result<Network, ClaimError> {
        self.remove(name, None).await
    }

    async fn remove(&self, name: &NetworkName, only: Option<Compare>) -> Result<Network, ClaimError> {
        let key = Key::Network(name.clone());
        for attempt in 0..ATTEMPTS {
            let found =
                self.read::<Network>(&key).await?.ok_or_else(|| ClaimError::NoNetwork(name.clone()))?;
            let unchanged = Compare::unchanged(&key, found.modified);
            let compares: Vec<Compare> = only.iter().cloned().chain([unchanged]).collect();
            let gone = [key.clone(), Key::Vni(found.value.vni), Key::Removal(found.value.id)];
            // Nothing more can be claimed in it after this.
            if self.txn(&compares, &gone.each_ref().map(Op::delete)).await? {
                self.sweep_network(found.value.id).await?;
                return Ok(found.value);
            }
            if only.is_some() {
                // The announcement has run out: hosts may be taking part again.
                break;
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(key.to_string()))
    }

    async fn sweep_network(&self, network: NetworkId) -> Result<(), ClaimError> {
        let mut keys = Vec::new();
        for prefix in [Key::blocks_of(network), Key::borrows_of(network), Key::members_of(network)] {
            keys.extend(self.store.list(&prefix).await?.entries.into_iter().map(|entry| entry.key));
        }
        for chunk in keys.chunks(CHUNK) {
            let ops: Vec<Op> = chunk.iter().cloned().map(Op::Delete).collect();
            self.txn(&[], &ops).await?;
        }
        Ok(())
    }

    /// Removes what is left of networks that are gone: whoever removed them was killed meanwhile. Those that exist are left alone.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering.
    pub async fn collect_networks(
        &self,
        gone: impl IntoIterator<Item = NetworkId> + Send,
    ) -> Result<(), ClaimError> {
        let mut gone: BTreeSet<NetworkId> = gone.into_iter().collect();
        for network in self.networks().await? {
            gone.remove(&network.id);
        }
        for network in &gone {
            self.sweep_network(*network).await?;
        }
        let (vnis, _) = self.records(&format!("{}vni/", keys::PREFIX)).await?;
        let of_gone = |record: &Record| matches!(record, Record::Vni(_, VniClaim { network }) if gone.contains(network));
        let ops: Vec<Op> = vnis
            .iter()
            .filter(|found| of_gone(&found.value))
            .map(|found| Op::delete(&found.value.key()))
            .collect();
        if ops.is_empty() {
            return Ok(());
        }
        match self.txn(&[], &ops).await {
            // Not every host may write that; one that may does.
            Err(ClaimError::Store(StoreError::Refused { .. })) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Puts into quarantine, or removes, what is left of hosts that are out: whoever put them out was killed meanwhile. That
    /// they are out is forgotten after thirty days.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering.
    pub async fn collect_hosts(
        &self,
        out: impl IntoIterator<Item = HostId> + Send,
    ) -> Result<(), ClaimError> {
        for host in out.into_iter().collect::<Vec<_>>() {
            let key = Key::Left(host);
            let Some(left) = self.read::<Left>(&key).await? else { continue };
            self.clear(host).await?;
            if is_old(left.value.at, self.now()) {
                self.txn(&[Compare::unchanged(&key, left.modified)], &[Op::delete(&key)]).await?;
            }
        }
        Ok(())
    }
}

/// Returns whether it need not be known any more that a host left then. A time to come is a wrong clock's.
pub fn is_old(left: u64, now: u64) -> bool {
    now.saturating_sub(left) > REMEMBERED
}
