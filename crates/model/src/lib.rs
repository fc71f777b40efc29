//! Names, ids and addresses that cannot hold a bad value.
//!
//! Whatever reaches the kernel, a file name or another process passes through one of these types
//! first, so that the check is written once. Nothing here does I/O.

mod endpoint;
mod gateway;
mod id;
mod ifname;
mod mac;
mod number;
pub mod port;

pub use endpoint::Endpoint;
pub use gateway::{GatewayMode, GatewayModeError, Gateways};
pub use id::{ContainerId, IdError, NetworkId, NetworkIdError, NetworkName};
pub use ifname::{IfName, IfNameError};
pub use mac::{Mac, MacError};
pub use number::{Mtu, NumberError, VlanId};
