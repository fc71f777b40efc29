//! A number that programs read and we write: until when they may lead packets past others.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::call::{self, Command, Words, halves, pair};
use crate::Error;

/// A gate for packets, open until a moment that whoever keeps it puts off again and again. Nothing puts it off once that process
/// is gone or stuck, so it shuts by itself.
///
/// It is a map of one number (an array of BPF_MAP_TYPE_ARRAY), which programs read where it lies.
#[derive(Debug)]
pub struct Gate {
    map: OwnedFd,
    id: u32,
}

impl Gate {
    /// Returns a gate that is shut.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn new() -> Result<Self, Error> {
        const BPF_MAP_TYPE_ARRAY: u32 = 2;
        const BPF_F_RDONLY_PROG: u32 = 1 << 7;
        let mut words: Words = [0; 16];
        // Type and length of a key, length of a value and number of elements, flags.
        (words[0], words[1], words[2]) =
            (pair(BPF_MAP_TYPE_ARRAY, 4), pair(8, 1), pair(BPF_F_RDONLY_PROG, 0));
        // Behind a map inside of this one and a node of memory, both none, stands its name.
        (words[3], words[4]) = (pair(0, u32::from_ne_bytes(*b"weft")), u64::from_ne_bytes(*b"_gate\0\0\0"));
        let map = call::open(Command::CreateMap, &mut words).map_err(Error::refused)?;
        let fd = map.as_raw_fd().cast_unsigned();
        let [_, id] = halves(call::describe(fd).map_err(Error::refused)?[0]);
        Ok(Self { map, id })
    }

    /// Returns what the kernel tells it from others by, as long as it is up.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Returns how a program names it that is about to be loaded.
    pub fn descriptor(&self) -> u32 {
        self.map.as_raw_fd().cast_unsigned()
    }

    /// Returns what the clock says by which a gate shuts.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn now() -> Result<Duration, Error> {
        clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).map_err(Error::refused)
    }

    /// Opens it until its clock says so. A moment that is over leaves it shut.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub fn open_until(&self, until: Duration) -> Result<(), Error> {
        self.write(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Shuts it at once.
    ///
    /// # Errors
    ///
    /// The kernel's refusal. It shuts then when its time is over.
    pub fn shut(&self) -> Result<(), Error> {
        self.write(0)
    }

    fn write(&self, until: u64) -> Result<(), Error> {
        let (key, value) = (0_u32, until);
        let mut words: Words = [0; 16];
        words[0] = pair(self.descriptor(), 0);
        (words[1], words[2]) = (&raw const key as u64, &raw const value as u64);
        call::bpf(Command::UpdateElement, &mut words).map(drop).map_err(Error::refused)
    }
}
