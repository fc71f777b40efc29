//! What the hosts of an overlay know of each other, and what follows from it.
//!
//! Records travel through a store (`weft-store`) or lie in files as static peers. A host keeps the last it has heard as a
//! [`Snapshot`], on disk too, so that its networks come up with the store down. Nothing here is asynchronous: plugins link it.

pub mod blocks;
pub mod desired;
pub mod entry;
pub mod here;
pub mod ids;
pub mod kernel;
pub mod keys;
pub mod local;
pub mod records;
pub mod snapshot;
pub mod statics;

pub use entry::{Entry, Event, Listing};
pub use ids::{ClusterId, HostId, NetworkId, Vni, vtep_mac};
pub use keys::Key;
pub use snapshot::Snapshot;
