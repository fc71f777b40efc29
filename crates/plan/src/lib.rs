//! Plans: what should exist, and the engine that makes it so.
//!
//! A driver turns a request into a [`Plan`]: an ordered list of [`Step`]s, each a [`Resource`] that
//! should exist in the host or in the container. Plans are data: they are compared, printed and
//! reviewed as text, and nothing happens while one is made.

//!
//! A [`Kernel`] brings the kernel to a plan and writes every change into a [`Journal`], which can take
//! it all back. The same plan, read backwards, is how things are removed; compared with what is there,
//! it is how they are checked.

mod ensure;
mod error;
mod journal;
mod kernel;
mod link;
mod observe;
mod pairs;
mod plan;
mod remove;
mod resource;
mod routing;
mod shortcut;
mod sysctl;
mod traffic;
mod tuning;

pub use error::{ApplyError, Cause, Difference, Problem};
pub use journal::{Journal, Leftover};
pub use kernel::{Kernel, LinkFacts};
pub use link::{BridgeOptions, Lent, Link, LinkKind, Made, Over, Peer, Port, VxlanOptions};
pub use plan::{Lifetime, Place, Plan, Resource, Step};
pub use remove::Removal;
pub use resource::{Address, Blackhole, BridgeVlan, Conflict, Rivals, Route, Sysctl, VlanRange, VlanSide};
pub use routing::{Routing, SourceRouting, Vrf};
pub use shortcut::{NoShortcuts, Shortcut, Slow, possible as possible_shortcuts};
pub use traffic::{Shape, Share, Traffic};
pub use tuning::{Tuning, forget_backup, is_backup};
pub use weft_netlink::tc::{End, Rate};
pub use weft_netlink::{Kind, ipvlan, macvlan, tun, vlan};
