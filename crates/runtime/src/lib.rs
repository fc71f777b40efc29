//! The runtime's side of CNI: find, run, chain, cache, GC.
//!
//! Everything here is synchronous: a plugin is a short-lived process, and so is whoever calls it.

pub mod exec;
pub mod find;
