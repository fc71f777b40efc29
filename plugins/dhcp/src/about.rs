//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "dhcp",
    summary: "IPv4 addresses from the network's DHCP server",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    OptionAbout::new("daemonSocketPath", "PATH", "/run/cni/dhcp.sock", "where the daemon listens"),
    OptionAbout::new("request", "LIST", "what a host needs", "options that the server is asked for"),
    OptionAbout::new("provide", "LIST", "none", "options that the server is told"),
    OptionAbout::new("priority", "NUMBER", "none", "the metric of the routes"),
];
