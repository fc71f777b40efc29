//! For hosts that are ruled by iptables: masquerading, published ports and the `firewall` plugin as the reference
//! plugins write them, isolation in chains of our own.

pub(crate) mod admission;
pub(crate) mod forward;
pub(crate) mod lock;
pub(crate) mod masquerade;
pub(crate) mod part;
pub(crate) mod publish;
pub(crate) mod restore;
pub(crate) mod tool;
