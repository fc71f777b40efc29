//! What can go wrong with a store.

use weft_state::StateError;

/// A store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody answers. Trying again later is right.
    #[error("{store} does not answer: {reason}")]
    Unreachable {
        /// The store.
        store: String,
        /// What was heard instead.
        reason: String,
    },

    /// It answers that we may not.
    #[error("{store} refuses: {reason}")]
    Refused {
        /// The store.
        store: String,
        /// What it said.
        reason: String,
        /// What the administrator may look at.
        hint: &'static str,
    },

    /// It has no such lease any more.
    #[error("the lease {0:x} has run out")]
    NoLease(i64),

    /// A request makes no sense, or the store does not understand it.
    #[error("{store} cannot do that: {reason}")]
    Invalid {
        /// The store.
        store: String,
        /// Why.
        reason: String,
    },

    /// A setting of the store is wrong: a certificate, a key, an address.
    #[error("{what}: {reason}")]
    Setting {
        /// Which one.
        what: String,
        /// What is wrong with it.
        reason: String,
        /// What to give instead.
        hint: &'static str,
    },

    /// A file of the store cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

impl StoreError {
    /// Returns whether the same may work later without anybody doing something about it.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoLease(_))
    }

    /// Returns what to do next, if it is known.
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { hint, .. } | Self::Setting { hint, .. } => Some(hint),
            _ => None,
        }
    }
}
