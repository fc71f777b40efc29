//! What is in the lease directory, arranged for finding.
//!
//! How we got here: the directory of lease files is the truth, because the reference plugin and many a
//! script read and write it. But finding an attachment in it means reading every file, which at 60,000
//! leases takes a third of a second for each ADD and each DEL. So a second file, outside the directory,
//! holds two hash tables: from attachment to addresses, and from block of 512 addresses to their bitmap.
//! An operation touches a few hundred bytes of it, whatever its size.
//!
//! The index is a cache. It says which state of the directory it describes ([`State`]); when the directory
//! is not in that state, the index is thrown away and made again from the files ([`crate::scan`]).
//! It is binary, little-endian, and versioned by its first bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;

use weft_state::StateError;
use weft_state::atomic::{self, Durability};

use crate::key::mix;
use crate::table::{Bytes, Table, array, u64_at};

const MAGIC: [u8; 8] = *b"weftip1\n";
const HEAD: usize = 64;
/// The size of a slot: holder 8, address 16, boot 8, time of writing 8.
const SLOT: usize = 40;
/// The size of a block: its number and one 16, its bitmap 64.
const BLOCK: usize = 80;
/// Addresses in a block.
const SPAN: u128 = 512;

/// The hash field of a slot that was never used, where a search ends.
const EMPTY: u64 = 0;
/// The hash field of a slot that was given up, where a search goes on.
const GONE: u64 = 1;
/// Stands for the holder of something that is no lease file but has an address for a name.
pub const NOBODY: u64 = 2;

/// The state of the lease directory that an index describes.
///
/// The inode tells a directory that was made anew. The time is the directory's modification time, which
/// we set to a moment in the past after each operation of ours: whoever else adds or removes a file sets
/// it to the present, however coarse the file system's clock is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The directory's inode number.
    pub inode: u64,
    /// The whole seconds of its modification time.
    pub seconds: i64,
    /// The rest of it.
    pub nanos: i64,
    /// The boot in which that was so: a power loss may keep one file and lose another.
    pub boot: u64,
}

/// One lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Stands for the holder, see [`crate::key::Key::hash`].
    pub holder: u64,
    /// The address.
    pub address: IpAddr,
    /// The boot in which we made it; 0 when somebody else did.
    pub boot: u64,
    /// The modification time of its file in nanoseconds, which tells it from a later one of the same name.
    pub written: u64,
}

/// The index of one network's leases.
#[derive(Debug)]
pub struct Index {
    /// How many lease files that nobody needs are kept for reuse.
    pub spares: usize,
    bytes: Bytes,
    slots: Table,
    blocks: Table,
}

impl Index {
    /// Returns an index of these leases, in memory.
    pub fn new(leases: &[Lease]) -> Self {
        let blocks: BTreeSet<u128> = leases.iter().map(|lease| number(lease.address) / SPAN).collect();
        let room = |entries: usize, least: usize| (entries * 2).next_power_of_two().max(least);
        let mut index = Self::with_room(room(leases.len(), 128), room(blocks.len(), 32));
        for lease in leases {
            let put = index.put(lease);
            debug_assert!(put.is_ok(), "there is room, and memory has no errors");
        }
        index
    }

    fn with_room(slots: usize, blocks: usize) -> Self {
        let slots = Table { at: HEAD, width: SLOT, entries: slots, used: 0 };
        let blocks = Table { at: slots.end(), width: BLOCK, entries: blocks, used: 0 };
        Self { spares: 0, bytes: Bytes::Memory(vec![0; blocks.end()]), slots, blocks }
    }

    /// Opens the index at `path` and returns it with the state it describes. One that is damaged is none.
    pub fn open(path: &Path) -> Option<(Self, State)> {
        let file = File::options().read(true).write(true).open(path).ok()?;
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0).ok()?;
        let (index, state) = Self::from_head(&head, Bytes::File(file))?;
        let Bytes::File(file) = &index.bytes else { return None };
        (file.metadata().ok()?.len() == u64::try_from(index.blocks.end()).ok()?).then_some((index, state))
    }

    /// Writes the index, so that it describes this state of the directory.
    ///
    /// # Errors
    ///
    /// When it cannot be written. It then describes the state it described before, or none.
    pub fn save(&mut self, path: &Path, state: &State) -> Result<(), StateError> {
        let head = self.head(state);
        match &mut self.bytes {
            Bytes::File(file) => file.write_all_at(&head, 0).map_err(StateError::io("write", path)),
            Bytes::Memory(bytes) => {
                bytes[..HEAD].copy_from_slice(&head);
                atomic::write(path, bytes, Durability::Boot, 0o600)
            }
        }
    }

    /// Returns the leases of a holder; another holder may by chance be meant by the same number.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, as with every function here; an index in memory has no errors.
    pub fn of_holder(&self, holder: u64) -> io::Result<Vec<Lease>> {
        let mut found = Vec::new();
        self.slots.walk(&self.bytes, holder, |_, slot| match hash_of(slot) {
            EMPTY => ControlFlow::Break(()),
            hash => {
                if hash == holder {
                    found.push(lease_of(slot));
                }
                ControlFlow::Continue(())
            }
        })?;
        Ok(found)
    }

    /// Returns every lease.
    pub fn leases(&self) -> io::Result<Vec<Lease>> {
        let mut table = vec![0; self.slots.entries * SLOT];
        self.bytes.read(self.slots.at, &mut table)?;
        Ok(table.chunks_exact(SLOT).filter(|slot| hash_of(slot) > GONE).map(lease_of).collect())
    }

    /// Returns the first address of `first..=last` that nobody holds.
    pub fn first_free(&self, first: IpAddr, last: IpAddr) -> io::Result<Option<IpAddr>> {
        let (mut from, to) = (number(first), number(last));
        while from <= to {
            let within = usize::try_from(from % SPAN).map_err(io::Error::other)?;
            let length =
                usize::try_from((to - from).min(SPAN - 1 - from % SPAN)).map_err(io::Error::other)? + 1;
            let free = match self.block(from / SPAN)? {
                Some((_, bits)) => first_zero(&bits, within..within + length),
                None => Some(within),
            };
            if let Some(bit) = free {
                return Ok(Some(address(from - from % SPAN + bit as u128)));
            }
            match from.checked_add(length as u128) {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(None)
    }

    /// Adds a lease.
    pub fn insert(&mut self, lease: &Lease) -> io::Result<()> {
        if self.slots.is_full() || self.blocks.is_full() {
            // Into memory, and twice as large unless most of it was given up.
            *self = Self { spares: self.spares, ..Self::new(&self.leases()?) };
        }
        self.put(lease)
    }

    /// Adds a lease for which there is room.
    fn put(&mut self, lease: &Lease) -> io::Result<()> {
        let mut unused = false;
        let slot = self.slots.vacancy(&self.bytes, lease.holder, |slot| {
            unused = hash_of(slot) == EMPTY;
            hash_of(slot) <= GONE
        })?;
        self.bytes.write(self.slots.position(slot), &bytes_of(lease))?;
        self.slots.used += usize::from(unused);
        self.mark(lease.address, true)
    }

    /// Removes a lease, if it is there.
    pub fn remove(&mut self, holder: u64, address: IpAddr) -> io::Result<()> {
        let mut found = None;
        self.slots.walk(&self.bytes, holder, |slot, bytes| match hash_of(bytes) {
            EMPTY => ControlFlow::Break(()),
            hash if hash == holder && lease_of(bytes).address == address => {
                found = Some(slot);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })?;
        let Some(slot) = found else { return Ok(()) };
        let mut next = [0; SLOT];
        self.bytes.read(self.slots.position((slot + 1) % self.slots.entries), &mut next)?;
        // A search that came this far ends here when it would end at the next slot anyway.
        let ends = hash_of(&next) == EMPTY;
        let hash = if ends { EMPTY } else { GONE };
        self.bytes.write(self.slots.position(slot), &hash.to_le_bytes())?;
        self.slots.used -= usize::from(ends);
        self.mark(address, false)
    }

    /// Notes whether an address is taken.
    fn mark(&mut self, address: IpAddr, taken: bool) -> io::Result<()> {
        let number = number(address);
        let block = number / SPAN;
        let bit = usize::try_from(number % SPAN).map_err(io::Error::other)?;
        let (entry, mut bits) = match self.block(block)? {
            Some(found) => found,
            None => {
                let entry =
                    self.blocks.vacancy(&self.bytes, block_hash(block), |entry| u128_at(entry, 0) == 0)?;
                self.bytes.write(self.blocks.position(entry), &(block + 1).to_le_bytes())?;
                self.blocks.used += 1;
                (entry, [0; 64])
            }
        };
        if taken {
            bits[bit / 8] |= 1 << (bit % 8);
        } else {
            bits[bit / 8] &= !(1 << (bit % 8));
        }
        self.bytes.write(self.blocks.position(entry) + 16, &bits)
    }

    /// Returns the place and the bitmap of a block, if any address of it was ever taken.
    fn block(&self, block: u128) -> io::Result<Option<(usize, [u8; 64])>> {
        let mut found = None;
        self.blocks.walk(&self.bytes, block_hash(block), |entry, bytes| match u128_at(bytes, 0) {
            0 => ControlFlow::Break(()),
            number if number == block + 1 => {
                let mut bits = [0; 64];
                bits.copy_from_slice(&bytes[16..BLOCK]);
                found = Some((entry, bits));
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })?;
        Ok(found)
    }

    fn head(&self, state: &State) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        let mut at = 0;
        let mut add = |bytes: &[u8]| {
            head[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        add(&MAGIC);
        add(&state.inode.to_le_bytes());
        add(&state.seconds.to_le_bytes());
        add(&state.nanos.to_le_bytes());
        add(&state.boot.to_le_bytes());
        let [slots, blocks] = [&self.slots, &self.blocks];
        for count in [slots.entries, slots.used, blocks.entries, blocks.used, self.spares] {
            add(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        head
    }

    fn from_head(head: &[u8; HEAD], bytes: Bytes) -> Option<(Self, State)> {
        let count = |at| usize::try_from(u32::from_le_bytes(array(&head[at..at + 4]))).ok();
        if head[..8] != MAGIC {
            return None;
        }
        let signed = |at| i64::from_le_bytes(array(&head[at..at + 8]));
        let state =
            State { inode: u64_at(head, 8), seconds: signed(16), nanos: signed(24), boot: u64_at(head, 32) };
        let slots = Table { at: HEAD, width: SLOT, entries: count(40)?, used: count(44)? };
        let blocks = Table { at: slots.end(), width: BLOCK, entries: count(48)?, used: count(52)? };
        let sound = |table: &Table| table.entries.is_power_of_two() && table.used < table.entries;
        let index = Self { spares: count(56)?, bytes, slots, blocks };
        (sound(&index.slots) && sound(&index.blocks)).then_some((index, state))
    }
}

/// Returns an address as a number. IPv4 has its place in IPv6, so that one table is enough.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped().into(),
        IpAddr::V6(six) => six.into(),
    }
}

fn address(number: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(number)).to_canonical()
}

fn block_hash(block: u128) -> u64 {
    let [high, low] =
        [block >> 64, block & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
    mix(low ^ high.rotate_left(32))
}

fn first_zero(bits: &[u8; 64], among: Range<usize>) -> Option<usize> {
    for word in among.start / 64..among.end.div_ceil(64) {
        let mut zeros = !u64_at(bits, word * 8);
        if word == among.start / 64 {
            zeros &= u64::MAX << (among.start % 64);
        }
        if zeros != 0 {
            let bit = word * 64 + zeros.trailing_zeros() as usize;
            return (bit < among.end).then_some(bit);
        }
    }
    None
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(&bytes[at..at + 16]))
}

fn hash_of(slot: &[u8]) -> u64 {
    u64_at(slot, 0)
}

fn lease_of(slot: &[u8]) -> Lease {
    Lease {
        holder: hash_of(slot),
        address: address(u128_at(slot, 8)),
        boot: u64_at(slot, 24),
        written: u64_at(slot, 32),
    }
}

fn bytes_of(lease: &Lease) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&lease.holder.to_le_bytes());
    slot[8..24].copy_from_slice(&number(lease.address).to_le_bytes());
    slot[24..32].copy_from_slice(&lease.boot.to_le_bytes());
    slot[32..].copy_from_slice(&lease.written.to_le_bytes());
    slot
}

#[cfg(test)]
mod tests;
