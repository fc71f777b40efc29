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
    OptionAbout::new(
        "backend",
        "weft, iptables, firewalld",
        "whichever the host has",
        "who lets the containers through",
    ),
    OptionAbout::new(
        "iptablesAdminChainName",
        "CHAIN",
        "CNI-ADMIN",
        "iptables: the chain that is asked first",
    ),
    OptionAbout::new("firewalldZone", "ZONE", "trusted", "firewalld: the zone the addresses join"),
    OptionAbout::new(
        "ingressPolicy",
        "open, same-bridge, isolated",
        "open",
        "from which other bridges the container is reachable",
    ),
];
