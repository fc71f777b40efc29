//! The CNI specification and the reference plugins' own assertions, pointed at any folder of plugins.
//!
//! `WEFT_CONFORMANCE_BIN=/some/folder cargo xtask test ours::` tests the plugins there instead of ours.
#![expect(clippy::unwrap_used, reason = "a story that finds something else than it looks for ends there")]

mod attached;
mod bandwidth;
mod bridge;
mod bridge_del;
mod bridge_failed;
mod bridge_masquerade;
mod bridge_ports;
mod dhcp;
mod dhcp_leases;
mod dummy;
mod firewall;
mod host_device;
mod host_local;
mod ipvlan;
mod keep;
mod loopback;
mod macvlan;
mod portmap;
mod protocol;
mod ptp;
mod sbr;
mod static_ipam;
mod suite;
mod tap;
mod tuning;
mod vlan;
mod vrf;
mod words;
