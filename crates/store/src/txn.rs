//! Transactions.

use std::collections::HashSet;

use weft_overlay::Key;

use crate::{LeaseId, StoreError};

/// So many operations fit in a transaction, and as many conditions: etcd's `--max-txn-ops` unless it is set.
pub const MAX_OPS: usize = 128;

/// A longer value is refused: etcd takes requests of 1.5 MiB, and no record is longer than this.
pub const MAX_VALUE: usize = weft_overlay::records::MAX_BYTES;

/// Says whether every store would take a transaction.
pub(crate) fn check(store: &str, compares: &[Compare], ops: &[Op]) -> Result<(), StoreError> {
    let refuse = |reason: String| Err(StoreError::Invalid { store: store.into(), reason });
    if ops.len().max(compares.len()) > MAX_OPS {
        return refuse(format!("a transaction of more than {MAX_OPS} operations"));
    }
    let mut keys = HashSet::new();
    for op in ops {
        if op.key().is_empty() || op.key().len() > weft_overlay::keys::MAX_BYTES {
            return refuse(format!("a key of {} bytes", op.key().len()));
        }
        if !keys.insert(op.key()) {
            return refuse(format!("{} twice in one transaction", op.key()));
        }
        if let Op::Put { key, value, .. } = op
            && value.len() > MAX_VALUE
        {
            return refuse(format!("{key}: a value of {} bytes, {MAX_VALUE} at most", value.len()));
        }
    }
    Ok(())
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// There is no such key.
    Absent(String),
    /// There is such a key.
    Present(String),
    /// The key's last change was at this revision, so nobody has changed it since it was read.
    Modified(String, i64),
}

impl Compare {
    /// There is no such key.
    pub fn absent(key: &Key) -> Self {
        Self::Absent(key.to_string())
    }

    /// There is such a key.
    pub fn present(key: &Key) -> Self {
        Self::Present(key.to_string())
    }

    /// The key is what it was at this revision.
    pub fn unchanged(key: &Key, revision: i64) -> Self {
        Self::Modified(key.to_string(), revision)
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Modified(key, _) => key,
        }
    }
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Gives a key a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease it goes with.
        lease: Option<LeaseId>,
    },
    /// Removes a key; no key is as well.
    Delete(String),
}

impl Op {
    /// Gives a key a value.
    pub fn put(key: &Key, value: Vec<u8>) -> Self {
        Self::Put { key: key.to_string(), value, lease: None }
    }

    /// Removes a key.
    pub fn delete(key: &Key) -> Self {
        Self::Delete(key.to_string())
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All conditions held and everything was done, at this revision.
    Committed(i64),
    /// A condition did not hold, and nothing was done.
    Conflict,
}

impl Outcome {
    /// Returns whether it was done.
    pub const fn is_committed(self) -> bool {
        matches!(self, Self::Committed(_))
    }
}
