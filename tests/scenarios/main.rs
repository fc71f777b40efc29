//! User stories: through the real `weft`, and through the real plugins against the real kernel.
#![expect(clippy::unwrap_used, reason = "a story that finds something else than it looks for ends there")]

mod addressing;
mod bad_input;
mod bridge_plugin;
mod broken_plugins;
mod coexistence;
mod collect;
mod conflist;
mod connect;
mod delegates;
mod doctor;
mod firewall_plugin;
mod gateway_modes;
mod heals;
mod host_and_none;
mod iptables_networks;
mod iptables_ports;
mod isolation;
mod labs;
mod lifecycle;
mod main_plugins;
mod many;
mod masquerade;
mod others;
mod ownership;
mod ports;
mod ports_moving;
mod ports_ownership;
mod ports_plugin;
mod ports_traffic;
mod ptp_plugin;
mod publish;
mod two_networks;
mod underlay;
mod vanished;
mod watch;
