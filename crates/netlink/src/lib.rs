//! Blocking, pipelined rtnetlink.
//!
//! Requests are the typed messages of `netlink-packet-route`, built with `rtnetlink`'s builders, one
//! module per `ip(8)` noun. A [`Batch`] carries several of them to the kernel in one send; the
//! kernel's answers come back by [`Ticket`].
//!
//! Answers are read by this crate's own few lines (`wire`), not by the typed parsers: those decode
//! some hundred attributes of a link where we need ten, and refuse a whole message for one attribute
//! that a newer kernel writes differently.

pub mod address;
pub mod answers;
pub mod bpf;
pub mod bridge_vlan;
pub mod ebtables;
pub mod ipvlan;
pub mod kind;
pub mod link;
mod listing;
pub mod macvlan;
pub mod merging;
pub mod neighbour;
pub mod netconf;
pub mod packet;
pub mod route;
pub mod rule;
pub mod sockets;
pub mod tc;
pub mod tun;
pub mod vlan;
pub mod vxlan;
pub mod wireguard;
pub mod xfrm;

mod announced;
mod batch;
mod error;
mod monitor;
mod socket;
mod watch;
mod wire;

pub use announced::{Removed, delete_announced};
pub use batch::{Batch, Replies, Reply, Request, Ticket};
pub use error::Error;
pub use kind::Kind;
pub use monitor::wait_operational;
pub use socket::Socket;
pub use watch::{Interest, Watch};
