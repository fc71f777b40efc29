//! Hash tables in a file or in memory, read and written a few entries at a time.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

/// How much of a table is read at once: 16 slots or 8 blocks.
const WINDOW: usize = 640;

/// Where the tables are.
#[derive(Debug)]
pub(crate) enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

/// A hash table of entries of one size, with linear probing. There is always an empty entry.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) at: usize,
    pub(crate) width: usize,
    pub(crate) entries: usize,
    /// How many entries are not as they were at first.
    pub(crate) used: usize,
}

impl Table {
    pub(crate) fn end(&self) -> usize {
        self.at + self.entries * self.width
    }

    pub(crate) fn position(&self, entry: usize) -> usize {
        self.at + entry * self.width
    }

    /// Shows the entries from where `hash` belongs onwards, until the visitor has seen enough.
    pub(crate) fn walk(
        &self,
        bytes: &Bytes,
        hash: u64,
        mut visit: impl FnMut(usize, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut window = [0; WINDOW];
        let mut entry = usize::try_from(hash & (self.entries as u64 - 1)).map_err(io::Error::other)?;
        let mut left = self.entries;
        while left > 0 {
            let count = (WINDOW / self.width).min(self.entries - entry).min(left);
            let window = &mut window[..count * self.width];
            bytes.read(self.position(entry), window)?;
            for (index, one) in window.chunks_exact(self.width).enumerate() {
                if visit(entry + index, one).is_break() {
                    return Ok(());
                }
            }
            left -= count;
            entry = (entry + count) % self.entries;
        }
        Ok(())
    }

    /// Returns the first entry for `hash` that is `vacant`.
    pub(crate) fn vacancy(
        &self,
        bytes: &Bytes,
        hash: u64,
        mut vacant: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<usize> {
        let mut found = None;
        self.walk(bytes, hash, |entry, bytes| match vacant(bytes) {
            true => {
                found = Some(entry);
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        })?;
        found.ok_or_else(|| io::Error::other("the index is full"))
    }

    /// Returns whether three quarters of the entries are in use: then a larger table is due.
    pub(crate) fn is_full(&self) -> bool {
        self.used + 1 > self.entries / 4 * 3
    }
}

impl Bytes {
    pub(crate) fn read(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, at as u64),
            Self::Memory(bytes) => {
                buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
                Ok(())
            }
        }
    }

    pub(crate) fn write(&mut self, at: usize, data: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(data, at as u64),
            Self::Memory(bytes) => {
                bytes[at..at + data.len()].copy_from_slice(data);
                Ok(())
            }
        }
    }
}

pub(crate) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(&bytes[at..at + 8]))
}
