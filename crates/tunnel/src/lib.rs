//! The WireGuard mesh that encrypted networks ride in.
//!
//! Encryption is a matter between two hosts, not of a network: each host has one device (two while a key is replaced), its
//! peers are the other hosts, and VXLAN of any number of networks goes between addresses that are reached through it alone.
//! The device is the kernel's where the kernel has WireGuard, else a TUN device and a process of ours.

pub mod config;
mod control;
mod device;
mod driver;
mod engine;
mod kernel;
pub mod keys;
mod merge;
pub mod mesh;
mod packet;
pub mod process;
pub mod rotation;
#[cfg(test)]
mod segments;
mod slot;
mod split;
mod tun;
mod udp;
mod userspace;
mod vnet;

pub use driver::{Driver, Outcome, View};
pub use kernel::KernelMesh;
pub use keys::{ClusterSecret, SecretKey};
pub use mesh::{Device, Implementation, Mesh, MeshError, Peer, PeerDiff, PeerStats, device_mtu};
pub use slot::{NotASlot, Slot};
pub use userspace::{Program, UserspaceMesh};
