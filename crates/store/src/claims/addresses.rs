//! Blocks and single addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::NetworkName;
use weft_overlay::blocks::{Claimer, Way, candidates, length_in, way_to};
use weft_overlay::ids::random_bytes;
use weft_overlay::records::{
    Block, BlockState, Borrow, BorrowState, Cluster, Host, Member, Network, Removal, encode,
};
use weft_overlay::snapshot::Record;
use weft_overlay::{HostId, Key, NetworkId};

use super::{ATTEMPTS, ClaimError, Claims, Found, only, pause, sifted};
use crate::{Compare, Op, Read};

/// So many blocks are considered before the store is asked again what is free.
const CANDIDATES: usize = 8;

/// What is known of a network's addresses.
struct Addresses {
    network: Found<Network>,
    cluster: Cluster,
    blocks: Vec<Found<Block>>,
    borrows: Vec<Borrow>,
    /// When each of the borrowed addresses was last changed.
    modified: BTreeMap<IpAddr, i64>,
}

impl Addresses {
    fn blocks(&self) -> Vec<Block> {
        self.blocks.iter().map(|found| found.value.clone()).collect()
    }

    /// Returns blocks of a family that may be claimed, best first.
    ///
    /// One that somebody has borrowed an address of is not among them: whoever claims it would give that out as well.
    fn free(&self, claimer: Claimer, v6: bool) -> Vec<IpNetwork> {
        let (known, lengths) = (self.blocks(), self.cluster.block_length);
        let subnets = self.network.value.subnets.iter().filter(|subnet| subnet.is_ipv6() == v6);
        let free = subnets
            .flat_map(|subnet| candidates(*subnet, length_in(*subnet, lengths), &known, claimer, CANDIDATES));
        let whole = |cidr: &IpNetwork| !self.borrows.iter().any(|borrow| cidr.contains(borrow.address));
        free.filter(whole).take(CANDIDATES).collect()
    }

    /// Returns an epoch for a claim: now, but later than every claim that is known, whatever clocks say.
    fn epoch(&self, now: u64) -> u64 {
        self.blocks.iter().map(|found| found.value.epoch + 1).max().unwrap_or(0).max(now)
    }

    /// The condition that an address's borrower is who it was, or nobody as it was.
    fn unborrowed(&self, key: &Key, address: IpAddr) -> Compare {
        match self.modified.get(&address) {
            Some(modified) => Compare::unchanged(key, *modified),
            None => Compare::absent(key),
        }
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
    /// Claims one more block of a family for a host, which takes part in the network from then on.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Exhausted`] when none is left; [`ClaimError::NotJoined`], [`ClaimError::NoNetwork`].
    pub async fn claim_block(&self, host: HostId, name: &NetworkName, v6: bool) -> Result<Block, ClaimError> {
        for attempt in 0..ATTEMPTS {
            let known = self.addresses(name, host).await?;
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
                self.must_stay(&known.network.value).await?;
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
            Compare::absent(&Key::Removal(network.value.id)),
        ];
        let key = Key::Block(block.network, block.cidr);
        let ops = [Op::put(&key, encode(block)), self.member(block.network, block.host)];
        self.txn(&compares, &ops).await
    }

    fn member(&self, network: NetworkId, host: HostId) -> Op {
        let member = Member { network, host, since: weft_state::time::now() };
        Op::put(&Key::Member(network, host), encode(&member))
    }

    /// Gets a host a single address; in a block of its own there is nothing to do, and in another's only the question is put: it is
    /// returned then.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Taken`] says who has it, or why nobody may; [`ClaimError::Silent`] who cannot be asked.
    pub async fn borrow(
        &self,
        host: HostId,
        name: &NetworkName,
        address: IpAddr,
        holder: &str,
    ) -> Result<Option<Borrow>, ClaimError> {
        for attempt in 0..ATTEMPTS {
            let known = self.addresses(name, host).await?;
            let network = &known.network.value;
            let length = known.cluster.block_length;
            let way = way_to(network, address, host, length, &known.blocks(), &known.borrows)?;
            let (block, state) = match way {
                Way::Own => return Ok(None),
                Way::Borrow { block } => (block, BorrowState::Active),
                Way::Ask { block, owner } => {
                    self.must_be_heard_of(owner, address).await?;
                    (block, BorrowState::Asked)
                }
            };
            // A block that is nobody's stays so, lest a host claims it as a whole meanwhile or later.
            let around = Block {
                network: network.id,
                cidr: block,
                host,
                epoch: known.epoch(self.now()),
                state: BlockState::Reserved,
            };
            let epoch = around.epoch;
            let borrow = Borrow { network: network.id, address, host, holder: holder.into(), epoch, state };
            let key = Key::Borrow(network.id, address);
            let compares = [
                known.unchanged(&around),
                known.unborrowed(&key, address),
                Compare::present(&Key::Host(host)),
                Compare::absent(&Key::Left(host)),
                Compare::unchanged(&Key::Network(name.clone()), known.network.modified),
                Compare::absent(&Key::Removal(network.id)),
            ];
            let mut ops = vec![Op::put(&key, encode(&borrow)), self.member(network.id, host)];
            if known.blocks.iter().all(|found| found.value.cidr != block) {
                ops.push(Op::put(&Key::Block(network.id, block), encode(&around)));
            }
            if self.txn(&compares, &ops).await? {
                return Ok(Some(borrow).filter(|borrow| !borrow.is_active()));
            }
            self.must_stay(network).await?;
            pause(attempt).await;
        }
        Err(ClaimError::Busy(format!("the addresses of network {name}")))
    }

    /// Answers a host that has asked for an address of a block of `owner`'s: with a reason, it does not get it.
    ///
    /// The owner must have seen to it that it does not give the address out itself. Whoever has asked may have thought better of it
    /// meanwhile; then nothing is done.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering.
    pub async fn lend(
        &self,
        owner: HostId,
        asked: &Borrow,
        block: IpNetwork,
        refusal: Option<String>,
    ) -> Result<(), ClaimError> {
        let (key, around) = (Key::Borrow(asked.network, asked.address), Key::Block(asked.network, block));
        for attempt in 0..ATTEMPTS {
            let found = self.read::<Borrow>(&key).await?.filter(|found| found.value == *asked);
            let own = self.read::<Block>(&around).await?;
            let own = own.filter(|own| own.value.host == owner && own.value.state == BlockState::Active);
            let (Some(found), Some(own)) = (found, own) else { return Ok(()) };
            let state = match refusal.clone() {
                Some(why) => BorrowState::Refused { why },
                None => BorrowState::Active,
            };
            let answered = Borrow { state, ..found.value.clone() };
            let compares =
                [Compare::unchanged(&key, found.modified), Compare::unchanged(&around, own.modified)];
            if self.txn(&compares, &[Op::put(&key, found.rewritten(&answered))]).await? {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(key.to_string()))
    }

    /// Gives a single address back. The block around it stays whose it is.
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

    /// Says so when somebody is about to remove a network.
    async fn must_stay(&self, network: &Network) -> Result<(), ClaimError> {
        match self.read::<Removal>(&Key::Removal(network.id)).await? {
            Some(removal) => {
                Err(ClaimError::BeingRemoved { network: network.name.clone(), host: removal.value.host })
            }
            None => Ok(()),
        }
    }

    /// Says so when a host that would have to lend an address is not there to do so.
    async fn must_be_heard_of(&self, owner: HostId, address: IpAddr) -> Result<(), ClaimError> {
        if self.store.get(&Key::Alive(owner).to_string()).await?.is_some() {
            return Ok(());
        }
        let name = self.read::<Host>(&Key::Host(owner)).await?.map(|found| found.value.name);
        Err(ClaimError::Silent { address, owner, owner_name: name.unwrap_or_default() })
    }

    /// Returns what is known of a network's addresses, for a host that has to be in the cluster.
    async fn addresses(&self, name: &NetworkName, host: HostId) -> Result<Addresses, ClaimError> {
        let wanted = [Key::Cluster, Key::Network(name.clone()), Key::Host(host)];
        let mut answers = self.store.read(&wanted.each_ref().map(Read::key)).await?.into_iter();
        let cluster =
            only::<Cluster>(&mut answers)?.ok_or_else(|| ClaimError::NoCluster(self.store.name()))?;
        let network = only::<Network>(&mut answers)?.ok_or_else(|| ClaimError::NoNetwork(name.clone()))?;
        match only::<Host>(&mut answers)? {
            None => return Err(self.gone(host).await?),
            Some(Found { value: Host { superseded_by: Some(by), .. }, .. }) => {
                return Err(ClaimError::Superseded { host, by });
            }
            Some(_) => {}
        }
        let wanted = [Key::blocks_of(network.value.id), Key::borrows_of(network.value.id)].map(Read::Prefix);
        let mut answers = self.store.read(&wanted).await?.into_iter();
        let (found, bad) = sifted(answers.next().unwrap_or_default());
        let mut blocks: Vec<Found<Block>> = Vec::new();
        for found in found {
            if let Record::Block(value) = found.value {
                blocks.push(Found { value, modified: found.modified, raw: found.raw });
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
                blocks.push(Found { value, modified: 0, raw: Vec::new() });
            }
        }
        let (found, _) = sifted(answers.next().unwrap_or_default());
        let modified = found
            .iter()
            .filter_map(|found| Some((found.value.as_borrow()?.address, found.modified)))
            .collect();
        let borrows = found.into_iter().filter_map(|found| found.value.as_borrow().cloned()).collect();
        Ok(Addresses { network, cluster: cluster.value, blocks, borrows, modified })
    }
}
