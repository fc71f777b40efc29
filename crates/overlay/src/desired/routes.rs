//! Which addresses of a network each host has, as far as what they claim can be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::PassedOver;
use crate::ids::{HostId, NetworkId};
use crate::keys::Key;
use crate::records::{Block, BlockState, Network};
use crate::snapshot::Snapshot;

/// Addresses by network and host, in order.
#[derive(Default)]
pub(super) struct Given {
    pub(super) blocks: BTreeMap<(NetworkId, HostId), Vec<IpNetwork>>,
    pub(super) borrowed: BTreeMap<(NetworkId, HostId), Vec<IpAddr>>,
}

/// Returns what each host has, and claims from which nothing follows: outside of the network, or a block inside of what this
/// host gives out itself or another host has claimed before.
///
/// A store writer could else have this host send anything anywhere.
pub(super) fn of(snapshot: &Snapshot, own: HostId) -> (Given, Vec<PassedOver>) {
    let networks: BTreeMap<NetworkId, &Network> =
        snapshot.networks().map(|network| (network.id, network)).collect();
    let (mut given, mut bad) = (Given::default(), Vec::new());
    let active: Vec<&Block> = snapshot.blocks().filter(|block| block.state == BlockState::Active).collect();
    let inside = |network: NetworkId, cidr: IpNetwork| match networks.get(&network) {
        Some(network) => lies_in(network, cidr).then_some(()).ok_or("it is in no subnet of its network"),
        None => Ok(()),
    };
    let mut kept = Vec::with_capacity(active.len());
    for block in active {
        match inside(block.network, block.cidr) {
            Ok(()) => kept.push(block),
            Err(why) => bad.push(PassedOver { key: Key::Block(block.network, block.cidr), why: why.into() }),
        }
    }
    let kept = settled(kept, own, &mut bad);
    for block in kept.blocks.values() {
        given.blocks.entry((block.network, block.host)).or_default().push(block.cidr);
    }
    for borrow in snapshot.borrows().filter(|borrow| borrow.is_active()) {
        let cidr = IpNetwork::from(borrow.address);
        match inside(borrow.network, cidr) {
            Ok(()) => {
                given.borrowed.entry((borrow.network, borrow.host)).or_default().push(borrow.address);
            }
            Err(why) => {
                let key = Key::Borrow(borrow.network, borrow.address);
                bad.push(PassedOver { key, why: why.into() });
            }
        }
    }
    given.blocks.values_mut().for_each(|routes| routes.sort_unstable());
    (given, bad)
}

/// Returns whether a network has all these addresses.
pub(crate) fn lies_in(network: &Network, cidr: IpNetwork) -> bool {
    let holds = |subnet: &IpNetwork| subnet.prefix() <= cidr.prefix() && subnet.contains(cidr.network());
    network.subnets.iter().any(holds)
}

/// Blocks of which none overlaps another host's.
#[derive(Default)]
struct Settled<'a> {
    blocks: BTreeMap<(NetworkId, IpAddr, u8), &'a Block>,
    lengths: BTreeSet<u8>,
}

/// Settles who has what: of two blocks that overlap this host's own stays, or else the one that was claimed first.
fn settled<'a>(mut blocks: Vec<&'a Block>, own: HostId, bad: &mut Vec<PassedOver>) -> Settled<'a> {
    blocks.sort_unstable_by_key(|block| (block.host != own, block.epoch, block.host));
    let mut kept = Settled::default();
    for block in blocks {
        let around = kept.around(block.network, block.cidr, block.host);
        match around.or_else(|| kept.inside(block)) {
            Some(other) => {
                let why = format!("it overlaps {} of host {}", other.cidr, other.host.short());
                bad.push(PassedOver { key: Key::Block(block.network, block.cidr), why });
            }
            None => {
                kept.blocks.insert((block.network, block.cidr.network(), block.cidr.prefix()), block);
                kept.lengths.insert(block.cidr.prefix());
            }
        }
    }
    kept
}

impl<'a> Settled<'a> {
    /// Returns the block of another host that has all of these addresses.
    fn around(&self, network: NetworkId, cidr: IpNetwork, host: HostId) -> Option<&'a Block> {
        self.lengths.range(..=cidr.prefix()).find_map(|length| {
            let first = IpNetwork::new(cidr.network(), *length).ok()?.network();
            self.blocks.get(&(network, first, *length)).filter(|block| block.host != host).copied()
        })
    }

    /// Returns a block of another host inside of this one.
    fn inside(&self, block: &Block) -> Option<&'a Block> {
        let from = (block.network, block.cidr.network(), block.cidr.prefix())..;
        let within =
            |other: &&&Block| other.network == block.network && block.cidr.contains(other.cidr.network());
        self.blocks
            .range(from)
            .map(|(_, other)| other)
            .take_while(within)
            .find(|other| other.host != block.host)
            .copied()
    }
}
