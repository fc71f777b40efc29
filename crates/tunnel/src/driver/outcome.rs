//! What came of an attempt.

use std::collections::BTreeMap;

use weft_overlay::records::{self, Slots};

use crate::mesh::MeshError;
use crate::slot::Slot;

/// What was done, and what others must know.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The keys this host has. They are on its disk already.
    pub wireguard: Slots<Option<records::Slot>>,
    /// The slots whose device is not as it should be.
    pub down: Slots<bool>,
    /// The first failure; what could be done despite it was done.
    pub failure: Option<MeshError>,
    /// Whether anything was changed.
    pub changed: bool,
    /// Which programs work on the devices, where those are ours and have said so.
    pub versions: BTreeMap<Slot, String>,
    /// What was done, a line for each thing, for people.
    pub done: Vec<String>,
}

impl Outcome {
    pub(super) fn say(&mut self, line: String) {
        self.changed = true;
        self.done.push(line);
    }

    pub(super) fn note(&mut self, result: Result<(), MeshError>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error);
        }
    }

    /// Returns what this host's record should say, given what it says: nobody is sent to a slot that is down, and
    /// nobody is called away from one that may be mended.
    pub fn record(&self, told: &Slots<Option<records::Slot>>) -> Slots<Option<records::Slot>> {
        let mut record = self.wireguard;
        for slot in Slot::ALL.into_iter().filter(|slot| *slot.of(&self.down)) {
            *slot.of_mut(&mut record) = *slot.of(told);
        }
        record
    }
}
