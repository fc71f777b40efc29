//! The address allocator: ranges, cursor, reservations.
//!
//! Everything here is arithmetic. Which addresses are taken is asked of a [`Taken`], and whoever asks for
//! an address records it. The rules and the texts are those of the CNI reference `host-local`, so that a
//! host can change between the two at any time.

mod address;
mod allocate;
mod pool;
mod range;
mod set;

pub use address::next;
pub use allocate::{Choice, Policy, RequestError, Requestable, Taken};
pub use pool::{Pool, PoolError};
pub use range::{Range, RangeError};
pub use set::{RangeSet, SetError};
