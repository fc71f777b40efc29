//! Plans: what should exist, and the engine that makes it so.
//!
//! A driver turns a request into a [`Plan`]: an ordered list of [`Step`]s, each a [`Resource`] that
//! should exist in the host or in the container. Plans are data: they are compared, printed and
//! reviewed as text, and nothing happens while one is made.

mod link;
mod plan;
mod resource;

pub use link::{BridgeOptions, Link, LinkKind, Peer, Port};
pub use plan::{Lifetime, Place, Plan, Resource, Step};
pub use resource::{Address, BridgeVlan, Conflict, Route, Sysctl, VlanRange, VlanSide};
