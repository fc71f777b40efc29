//! `weft-cni`: every CNI plugin of weft in one binary, which is the plugin whose name it is started under.

#![no_main]

use std::ffi::{c_char, c_int};

use weft_plugin::{Head, Plugin};
use weft_start as _;

/// The plugins, one line each.
static PLUGINS: &[&dyn Plugin] = &[
    &bandwidth::PLUGIN,
    &bridge::PLUGIN,
    &dhcp::PLUGIN,
    &dummy::PLUGIN,
    &firewall::PLUGIN,
    &host::PLUGIN,
    &host_device::PLUGIN,
    &host_local::PLUGIN,
    &ipvlan::PLUGIN,
    &loopback::PLUGIN,
    &macvlan::PLUGIN,
    &none::PLUGIN,
    &overlay::PLUGIN,
    &portmap::PLUGIN,
    &ptp::PLUGIN,
    &sbr::PLUGIN,
    &static_ipam::PLUGIN,
    &tap::PLUGIN,
    &tuning::PLUGIN,
    &vlan::PLUGIN,
    &vrf::PLUGIN,
];

#[expect(
    unsafe_code,
    reason = "the linker's own name for where a program begins in memory (ld.lld(1), GNU ld's scripts)"
)]
unsafe extern "C" {
    #[link_name = "__ehdr_start"]
    safe static HEAD: Head;
}

/// What the C library calls: the standard library's own `main` first looks after the stack and the signals of programs
/// that run for longer, which costs an eighth of a plugin's start.
#[expect(unsafe_code, reason = "the name is the C library's, and nothing else here is called so")]
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    weft_plugin::main(PLUGINS, &HEAD)
}
