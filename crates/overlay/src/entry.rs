//! What a store holds and tells, whatever the store is.

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value: JSON of a record, or anything at all when somebody else wrote it.
    pub value: Vec<u8>,
    /// The revision at which the key was made.
    pub created: i64,
    /// The revision of its last change.
    pub modified: i64,
}

/// All entries below a prefix as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in the order of their keys.
    pub entries: Vec<Entry>,
    /// The revision at which all of this was true.
    pub revision: i64,
    /// Which store it is: changes when the store was made anew.
    pub store: u64,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(Entry),
    /// The key is gone.
    Delete {
        /// Which key.
        key: String,
        /// The revision at which it went.
        revision: i64,
    },
}

impl Event {
    /// Returns the key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// Returns the revision of the change.
    pub const fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}
