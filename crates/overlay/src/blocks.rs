//! Blocks of addresses: how a subnet is cut, which block is taken next, and which subnets may not be.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use weft_model::NetworkName;

use crate::ids::HostId;
use crate::records::{Block, BlockLength, BlockState, Borrow, BorrowState, Network};

/// No more blocks of one subnet are looked at in one go: 2^20 of /26 make a /6, more than anybody has.
const MAX_BLOCKS: u128 = 1 << 20;

/// Returns the prefix length of blocks of a subnet: the cluster's, or the subnet's own when it is smaller.
pub fn length_in(subnet: IpNetwork, lengths: BlockLength) -> u8 {
    let wanted = if subnet.is_ipv4() { lengths.v4 } else { lengths.v6 };
    wanted.max(subnet.prefix())
}

/// Returns the address that a host has in a block of its own: containers' gateway, the one after the block's first.
pub fn gateway(block: IpNetwork) -> Option<IpAddr> {
    nth(block, 1).filter(|address| block.contains(*address))
}

/// Returns the address that stands for the host as a next hop of its peers: the block's first, which no container gets.
pub fn next_hop(block: IpNetwork) -> IpAddr {
    block.network()
}

/// Returns the block of a subnet with an index.
fn nth_block(subnet: IpNetwork, length: u8, index: u128) -> Option<IpNetwork> {
    let bits = if subnet.is_ipv4() { 32 } else { 128 };
    let step = 1u128.checked_shl(bits - u32::from(length)).unwrap_or(0);
    IpNetwork::new(nth(subnet, index.checked_mul(step)?)?, length).ok()
}

fn nth(subnet: IpNetwork, offset: u128) -> Option<IpAddr> {
    match subnet.network() {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).ok()?;
            first.to_bits().checked_add(offset).map(|bits| IpAddr::V4(bits.into()))
        }
        IpAddr::V6(first) => first.to_bits().checked_add(offset).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// Who asks for a block, and when.
#[derive(Clone, Copy, Debug)]
pub struct Claimer {
    /// The host.
    pub host: HostId,
    /// The present, in milliseconds since 1970.
    pub now: u64,
    /// The cluster's quarantine, in seconds.
    pub quarantine: u64,
    /// Where among the blocks that were never used the search begins, so that hosts that boot together do not all try the same.
    pub start: u64,
}

/// Returns the blocks of a subnet that may be claimed, best first, no more than `limit`.
///
/// First what the host itself had and gave up: its peers may know the way still. Then blocks that were never used. Then those
/// whose quarantine is over, the one that was given up first before the others.
pub fn candidates(
    subnet: IpNetwork,
    length: u8,
    known: &[Block],
    claimer: Claimer,
    limit: usize,
) -> Vec<IpNetwork> {
    let of_subnet = |block: &&Block| subnet.contains(block.cidr.network()) && block.cidr.prefix() == length;
    let mut own = Vec::new();
    let mut over = Vec::new();
    for block in known.iter().filter(of_subnet) {
        let BlockState::Quarantine { since } = block.state else { continue };
        if block.host == claimer.host {
            own.push((std::cmp::Reverse(since), block.cidr));
        } else if claimer.now >= since.saturating_add(claimer.quarantine.saturating_mul(1000)) {
            over.push((since, block.cidr));
        }
    }
    own.sort_unstable();
    over.sort_unstable();
    let taken: HashSet<IpAddr> = known.iter().map(|block| block.cidr.network()).collect();
    // A block of another length, from before the cluster's was changed, overlaps some of these.
    let odd: Vec<IpNetwork> =
        known.iter().filter(|block| block.cidr.prefix() != length).map(|block| block.cidr).collect();
    let count = 1u128.checked_shl(u32::from(length - subnet.prefix())).unwrap_or(MAX_BLOCKS).min(MAX_BLOCKS);
    let start = u128::from(claimer.start) % count;
    let fresh = (0..count)
        .filter_map(|index| nth_block(subnet, length, (start + index) % count))
        .filter(|cidr| !taken.contains(&cidr.network()));
    let own = own.into_iter().map(|(_, cidr)| cidr);
    let over = over.into_iter().map(|(_, cidr)| cidr);
    let is_free = |cidr: &IpNetwork| !odd.iter().any(|other| overlap(*other, *cidr));
    own.chain(fresh).chain(over).filter(is_free).take(limit).collect()
}

/// Returns whether two subnets share an address.
pub fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    let (wide, narrow) = if one.prefix() <= other.prefix() { (one, other) } else { (other, one) };
    wide.contains(narrow.network())
}

/// Why an address or a subnet may not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// The network has no such address.
    #[error("{address} is in no subnet of network {network}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The network.
        network: NetworkName,
    },

    /// The first and the last address of a subnet are nobody's.
    #[error("{address} is the first or last address of {subnet}")]
    Edge {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },

    /// Another host has it already.
    #[error("host {host} has {address} already, for {holder}")]
    Borrowed {
        /// The address.
        address: IpAddr,
        /// The host.
        host: HostId,
        /// For whom.
        holder: String,
    },

    /// A host needs some addresses of its block itself.
    #[error("{address} is the first, the last or the gateway's of {block}, a block of host {host}")]
    OfHost {
        /// The address.
        address: IpAddr,
        /// The block.
        block: IpNetwork,
        /// Its host.
        host: HostId,
    },

    /// Somebody may still send to what had it.
    #[error("{address} is in {block}, which host {host} gave up: it is in quarantine")]
    Quarantined {
        /// The address.
        address: IpAddr,
        /// The block.
        block: IpNetwork,
        /// Whose it was.
        host: HostId,
    },

    /// Two subnets share addresses.
    #[error("subnet {subnet} overlaps {other} of {what}")]
    Overlap {
        /// The subnet that is asked for.
        subnet: IpNetwork,
        /// The one it overlaps.
        other: IpNetwork,
        /// Whose that is.
        what: String,
    },

    /// A subnet cannot hold a block.
    #[error(
        "subnet {0} is too small: a host's block needs a gateway and a container, four addresses at least"
    )]
    TooSmall(IpNetwork),
}

/// How a host comes to a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is in a block of its own, or the host has it already.
    Own,
    /// It is in another's block, and that host has to agree.
    Ask {
        /// The block.
        block: IpNetwork,
        /// The host.
        owner: HostId,
    },
    /// It borrows it, and the block around it stays nobody's as a whole.
    Borrow {
        /// The block around it.
        block: IpNetwork,
    },
}

/// Returns how a host may come to a single address of a network.
///
/// # Errors
///
/// Says who has it, or why nobody may.
pub fn way_to(
    network: &Network,
    address: IpAddr,
    host: HostId,
    lengths: BlockLength,
    blocks: &[Block],
    borrows: &[Borrow],
) -> Result<Way, Taken> {
    let Some(subnet) = network.subnets.iter().find(|subnet| subnet.contains(address)) else {
        return Err(Taken::Outside { address, network: network.name.clone() });
    };
    if address == subnet.network() || (subnet.is_ipv4() && address == subnet.broadcast()) {
        return Err(Taken::Edge { address, subnet: *subnet });
    }
    match borrows.iter().find(|borrow| borrow.address == address) {
        Some(Borrow { state: BorrowState::Refused { .. }, .. }) | None => {}
        Some(borrow) if borrow.host != host => {
            return Err(Taken::Borrowed { address, host: borrow.host, holder: borrow.holder.clone() });
        }
        Some(borrow) if borrow.is_active() => return Ok(Way::Own),
        Some(_) => {}
    }
    match blocks.iter().find(|block| block.cidr.contains(address)) {
        Some(block) if block.state == BlockState::Reserved => Ok(Way::Borrow { block: block.cidr }),
        Some(Block { cidr, host: owner, state: BlockState::Active, .. }) => match *owner == host {
            true => Ok(Way::Own),
            false if is_hosts_own(*cidr, address) => {
                Err(Taken::OfHost { address, block: *cidr, host: *owner })
            }
            false => Ok(Way::Ask { block: *cidr, owner: *owner }),
        },
        Some(block) => Err(Taken::Quarantined { address, block: block.cidr, host: block.host }),
        None => around(address, length_in(*subnet, lengths))
            .map(|block| Way::Borrow { block })
            .ok_or(Taken::Outside { address, network: network.name.clone() }),
    }
}

/// Returns whether no container gets an address of a block.
fn is_hosts_own(block: IpNetwork, address: IpAddr) -> bool {
    let last = block.is_ipv4() && address == block.broadcast();
    last || address == next_hop(block) || gateway(block) == Some(address)
}

fn around(address: IpAddr, length: u8) -> Option<IpNetwork> {
    let exact = IpNetwork::new(address, length).ok()?;
    IpNetwork::new(exact.network(), length).ok()
}

/// Says whether a new network's subnets may be: big enough, and apart from each other, from other networks and from underlays.
///
/// Two networks that live in namespaces of their own may have the same subnets.
///
/// # Errors
///
/// Names the two subnets that overlap, and whose the other is.
pub fn check_subnets<'a>(
    network: &Network,
    lengths: BlockLength,
    others: impl IntoIterator<Item = &'a Network>,
    underlays: impl IntoIterator<Item = IpAddr>,
) -> Result<(), Taken> {
    for (index, subnet) in network.subnets.iter().enumerate() {
        let bits = if subnet.is_ipv4() { 32 } else { 128 };
        if bits - length_in(*subnet, lengths) < 2 {
            return Err(Taken::TooSmall(*subnet));
        }
        if let Some(other) = network.subnets[..index].iter().find(|other| overlap(**other, *subnet)) {
            return Err(Taken::Overlap { subnet: *subnet, other: *other, what: "the same network".into() });
        }
    }
    for other in others.into_iter().filter(|other| other.id != network.id) {
        if network.isolated && other.isolated {
            continue;
        }
        if let Some((subnet, other_subnet)) = shared(&network.subnets, &other.subnets) {
            let what = format!("network {}", other.name);
            return Err(Taken::Overlap { subnet, other: other_subnet, what });
        }
    }
    for address in underlays {
        if let Some((subnet, other)) = shared(&network.subnets, &[address.into()]) {
            return Err(Taken::Overlap { subnet, other, what: "a host's underlay".into() });
        }
    }
    Ok(())
}

fn shared(ours: &[IpNetwork], theirs: &[IpNetwork]) -> Option<(IpNetwork, IpNetwork)> {
    ours.iter()
        .flat_map(|one| theirs.iter().map(move |other| (*one, *other)))
        .find(|(one, other)| overlap(*one, *other))
}

/// Returns the first subnet of the cluster's pools that overlaps nothing.
pub fn free_subnet<'a>(
    pools: &[crate::records::Pool],
    others: impl IntoIterator<Item = &'a Network>,
    underlays: impl IntoIterator<Item = IpAddr>,
) -> Option<IpNetwork> {
    let mut taken: Vec<IpNetwork> =
        others.into_iter().flat_map(|other| other.subnets.iter().copied()).collect();
    taken.extend(underlays.into_iter().map(IpNetwork::from));
    pools.iter().filter(|pool| pool.size >= pool.base.prefix()).find_map(|pool| {
        let count = 1u128.checked_shl(u32::from(pool.size - pool.base.prefix())).unwrap_or(MAX_BLOCKS);
        (0..count.min(MAX_BLOCKS))
            .filter_map(|index| nth_block(pool.base, pool.size, index))
            .find(|subnet| !taken.iter().any(|other| overlap(*other, *subnet)))
    })
}

#[cfg(test)]
mod tests;
