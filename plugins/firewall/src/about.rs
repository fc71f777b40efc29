//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "firewall",
    summary: "lets containers through the host's firewall, and keeps their bridges apart",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    option(
        "backend",
        "weft, iptables, firewalld",
        "whichever the host has",
        "who lets the containers through",
    ),
    option("iptablesAdminChainName", "CHAIN", "CNI-ADMIN", "iptables: the chain that is asked first"),
    option("firewalldZone", "ZONE", "trusted", "firewalld: the zone the addresses join"),
    option(
        "ingressPolicy",
        "open, same-bridge, isolated",
        "open",
        "from which other bridges the container is reachable",
    ),
];

const fn option(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> OptionAbout {
    OptionAbout { name, aliases: &[], value, default, help }
}
