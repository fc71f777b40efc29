//! For hosts that are ruled by iptables: masquerading as the reference plugins write it, isolation in
//! chains of our own.

pub(crate) mod isolation;
pub(crate) mod masquerade;
mod tool;
