//! The runtime's side of CNI: find, run, chain, cache, GC.
//!
//! Everything here is synchronous: a plugin is a short-lived process, and so is whoever calls it.

pub mod cache;
mod call;
mod chain;
pub mod exec;
pub mod find;
pub mod load;
mod request;
mod turns;

pub use call::CallError;
pub use chain::{Ahead, ChainError, Problem, Runtime};
pub use request::{Attachment, configuration};
