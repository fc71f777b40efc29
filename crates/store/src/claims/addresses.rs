//! Blocks and single addresses.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::NetworkName;
use weft_overlay::blocks::{Claimer, Way, candidates, length_in, way_to};
use weft_overlay::ids::random_bytes;
use weft_overlay::records::{Block, BlockState, Borrow, Cluster, Host, Member, Network, encode};
use weft_overlay::snapshot::Record;
use weft_overlay::{HostId, Key, NetworkId};

use super::{ATTEMPTS, ClaimError, Claims, Found, pause};
use crate::{Compare, Op};

/// So many blocks are considered before the store is asked again what is free.
const CANDIDATES: usize = 8;

/// What is known of a network's addresses.
struct Addresses {
    network: Found<Network>,
    cluster: Cluster,
    blocks: Vec<Found<Block>>,
    borrows: Vec<Borrow>,
}

impl Addresses {
    fn blocks(&self) -> Vec<Block> {
        self.blocks.iter().map(|found| found.value.clone()).collect()
    }

    /// Returns blocks of a family that may be claimed, best first.
    fn free(&self, claimer: Claimer, v6: bool) -> Vec<IpNetwork> {
        let (known, lengths) = (self.blocks(), self.cluster.block_length);
        let subnets = self.network.value.subnets.iter().filter(|subnet| subnet.is_ipv6() == v6);
        let free = subnets
            .flat_map(|subnet| candidates(*subnet, length_in(*subnet, lengths), &known, claimer, CANDIDATES));
        free.take(CANDIDATES).collect()
    }

    /// Returns an epoch for a claim: now, but later than every claim that is known, whatever clocks say.
    fn epoch(&self, now: u64) -> u64 {
        self.blocks.iter().map(|found| found.value.epoch + 1).max().unwrap_or(0).max(now)
    }

    /// The condition that a block is what it was, or not there as it was.
    fn unchanged(&self, block: &Block) -> Compare {
        let key = Key::Block(block.network, block.cidr);
        match self.blocks.iter().find(|found| found.value.cidr == block.cidr) {
            Some(found) => Compare::unchanged(&key, found.modified),
            None => Compare::absent(&key),
        }
    }
}

impl Claims {
    /// Sees to it that a host takes part in a network and has a block of each family; returns all it has.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Exhausted`] when none is left; [`ClaimError::NotJoined`], [`ClaimError::NoNetwork`].
    pub async fn ensure_blocks(&self, host: HostId, name: &NetworkName) -> Result<Vec<Block>, ClaimError> {
        let known = self.addresses(name).await?;
        let mut own: Vec<Block> = known.blocks();
        own.retain(|block| block.host == host && block.state == BlockState::Active);
        for v6 in [false, true] {
            let wanted = known.network.value.subnets.iter().any(|subnet| subnet.is_ipv6() == v6);
            if wanted && !own.iter().any(|block| block.cidr.is_ipv6() == v6) {
                own.push(self.claim_block(host, name, v6).await?);
            }
        }
        Ok(own)
    }

    /// Claims one more block of a family for a host, which takes part in the network from then on.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Exhausted`] when none is left; [`ClaimError::NotJoined`], [`ClaimError::NoNetwork`].
    pub async fn claim_block(&self, host: HostId, name: &NetworkName, v6: bool) -> Result<Block, ClaimError> {
        for attempt in 0..ATTEMPTS {
            let known = self.addresses(name).await?;
            self.must_be_in(host).await?;
            let [a, b, c, d, e, f, g, h, ..] = random_bytes();
            let claimer = Claimer {
                host,
                now: self.now(),
                quarantine: known.cluster.quarantine,
                start: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            };
            let free = known.free(claimer, v6);
            if free.is_empty() {
                let family = if v6 { "IPv6" } else { "IPv4" };
                return Err(ClaimError::Exhausted { network: name.clone(), family });
            }
            for cidr in free {
                let epoch = known.epoch(claimer.now);
                let block =
                    Block { network: known.network.value.id, cidr, host, epoch, state: BlockState::Active };
                if self.take(&known, &block).await? {
                    return Ok(block);
                }
                // Somebody has taken just this one, or the network changed: then all others fail as well.
                if self.store.get(&Key::Block(block.network, cidr).to_string()).await?.is_none() {
                    break;
                }
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(format!("the blocks of network {name}")))
    }

    async fn take(&self, known: &Addresses, block: &Block) -> Result<bool, ClaimError> {
        let network = &known.network;
        let compares = [
            known.unchanged(block),
            Compare::present(&Key::Host(block.host)),
            Compare::absent(&Key::Left(block.host)),
            Compare::unchanged(&Key::Network(network.value.name.clone()), network.modified),
        ];
        let key = Key::Block(block.network, block.cidr);
        let ops = [Op::put(&key, encode(block)), self.member(block.network, block.host)];
        self.txn(&compares, &ops).await
    }

    fn member(&self, network: NetworkId, host: HostId) -> Op {
        let member = Member { network, host, since: weft_state::time::now() };
        Op::put(&Key::Member(network, host), encode(&member))
    }

    /// Gives a block up. It is in quarantine then; the same host may have it back at once.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering. A block that is not the host's is as well.
    pub async fn release_block(
        &self,
        host: HostId,
        network: NetworkId,
        cidr: IpNetwork,
    ) -> Result<(), ClaimError> {
        let key = Key::Block(network, cidr);
        for attempt in 0..ATTEMPTS {
            let Some(found) = self.read::<Block>(&key).await? else { return Ok(()) };
            if found.value.host != host || found.value.state != BlockState::Active {
                return Ok(());
            }
            let state = BlockState::Quarantine { since: self.now() };
            let released = Block { state, ..found.value };
            if self
                .txn(&[Compare::unchanged(&key, found.modified)], &[Op::put(&key, encode(&released))])
                .await?
            {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(key.to_string()))
    }

    /// Gets a host a single address; in a block of its own there is nothing to do.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Taken`] says who has it, or which host's block it is in.
    pub async fn borrow(
        &self,
        host: HostId,
        name: &NetworkName,
        address: IpAddr,
        holder: &str,
    ) -> Result<Way, ClaimError> {
        for attempt in 0..ATTEMPTS {
            let known = self.addresses(name).await?;
            self.must_be_in(host).await?;
            let network = &known.network.value;
            let length = known.cluster.block_length;
            let way = way_to(network, address, host, length, &known.blocks(), &known.borrows)?;
            let Way::Borrow { block } = way else { return Ok(way) };
            // The block around it becomes nobody's, so that no host claims it as a whole meanwhile or later.
            let around = Block {
                network: network.id,
                cidr: block,
                host,
                epoch: known.epoch(self.now()),
                state: BlockState::Reserved,
            };
            let borrow =
                Borrow { network: network.id, address, host, holder: holder.into(), epoch: around.epoch };
            let key = Key::Borrow(network.id, address);
            let mut compares = vec![
                known.unchanged(&around),
                Compare::present(&Key::Host(host)),
                Compare::absent(&Key::Left(host)),
                Compare::unchanged(&Key::Network(name.clone()), known.network.modified),
            ];
            let mut ops = vec![Op::put(&key, encode(&borrow)), self.member(network.id, host)];
            if known.borrows.iter().all(|borrow| borrow.address != address) {
                compares.push(Compare::absent(&key));
            }
            if known.blocks.iter().all(|found| found.value.cidr != block) {
                ops.push(Op::put(&Key::Block(network.id, block), encode(&around)));
            }
            if self.txn(&compares, &ops).await? {
                return Ok(way);
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(format!("the addresses of network {name}")))
    }

    /// Gives a single address back. The block around it stays nobody's.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering. An address that the host does not have is as well.
    pub async fn give_back(
        &self,
        host: HostId,
        network: NetworkId,
        address: IpAddr,
    ) -> Result<(), ClaimError> {
        let key = Key::Borrow(network, address);
        for attempt in 0..ATTEMPTS {
            let Some(found) = self.read::<Borrow>(&key).await? else { return Ok(()) };
            if found.value.host != host
                || self.txn(&[Compare::unchanged(&key, found.modified)], &[Op::delete(&key)]).await?
            {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(key.to_string()))
    }

    async fn must_be_in(&self, host: HostId) -> Result<(), ClaimError> {
        let Some(found) = self.read::<Host>(&Key::Host(host)).await? else {
            return Err(self.gone(host).await?);
        };
        match found.value.superseded_by {
            Some(by) => Err(ClaimError::Superseded { host, by }),
            None => Ok(()),
        }
    }

    async fn addresses(&self, name: &NetworkName) -> Result<Addresses, ClaimError> {
        let cluster = self.cluster().await?;
        let key = Key::Network(name.clone());
        let network = self.read::<Network>(&key).await?.ok_or_else(|| ClaimError::NoNetwork(name.clone()))?;
        let (found, bad) = self.records(&Key::blocks_of(network.value.id)).await?;
        let mut blocks: Vec<Found<Block>> = Vec::new();
        for found in found {
            if let Record::Block(value) = found.value {
                blocks.push(Found { value, modified: found.modified });
            }
        }
        // A record that makes no sense is somebody's all the same.
        for key in bad {
            if let Key::Block(network, cidr) = key {
                let value = Block {
                    network,
                    cidr,
                    host: HostId::new([0; 16]),
                    epoch: 0,
                    state: BlockState::Reserved,
                };
                blocks.push(Found { value, modified: 0 });
            }
        }
        let (found, _) = self.records(&Key::borrows_of(network.value.id)).await?;
        let borrows = found.into_iter().filter_map(|found| found.value.as_borrow().cloned()).collect();
        Ok(Addresses { network, cluster, blocks, borrows })
    }
}
