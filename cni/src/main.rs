//! `weft-cni`: every CNI plugin of weft in one binary, which is the plugin whose name it is started under.

use std::process::ExitCode;

use weft_plugin::Plugin;

/// The plugins, one line each.
static PLUGINS: &[&dyn Plugin] = &[
    &bridge::PLUGIN,
    &host::PLUGIN,
    &host_local::PLUGIN,
    &loopback::PLUGIN,
    &none::PLUGIN,
    &static_ipam::PLUGIN,
];

fn main() -> ExitCode {
    weft_plugin::main(PLUGINS)
}
