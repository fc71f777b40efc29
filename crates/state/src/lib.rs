//! Everything on disk: paths, atomic writes, locks, records.
//!
//! The kernel is a cache and these files are the truth (`docs/state.md`), so two rules hold for all of
//! them: a file is complete or absent, never half-written, and a name on disk comes from a type that
//! cannot hold a slash.

pub mod atomic;
pub mod attachment;
pub mod boot;
pub mod document;
mod error;
pub mod file;
pub mod leftovers;
pub mod lock;
pub mod ports;
pub mod reservation;
mod root;
pub mod time;

pub use attachment::{Record, Records};
pub use error::StateError;
pub use reservation::Reservations;
pub use root::Root;

#[cfg(test)]
mod testing;
