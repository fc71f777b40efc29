//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "host-local",
    summary: "addresses from ranges, leased to the containers of this host",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    OptionAbout::new(
        "ranges",
        "[[{subnet, rangeStart, rangeEnd, gateway}]]",
        "none",
        "one address from each range set; a set is a list of ranges",
    ),
    OptionAbout::new("subnet", "CIDR", "none", "a single range, before those of ranges"),
    OptionAbout::new(
        "rangeStart",
        "IP",
        "the subnet's first address",
        "the first address of the single range",
    ),
    OptionAbout::new(
        "rangeEnd",
        "IP",
        "the subnet's last address but the broadcast",
        "the last address of the single range",
    ),
    OptionAbout::new(
        "gateway",
        "IP",
        "the subnet's first address",
        "the single range's gateway, which is never leased",
    ),
    OptionAbout::new(
        "routes",
        "[{dst, gw, mtu, advmss, priority, table, scope}]",
        "none",
        "routes of the result",
    ),
    OptionAbout::new("resolvConf", "PATH", "none", "a resolv.conf that becomes the result's name service"),
    OptionAbout::new(
        "dataDir",
        "PATH",
        "/var/lib/cni/networks",
        "where the leases are, in a directory for each network",
    ),
    OptionAbout::new(
        "requestable",
        "range|subnet",
        "range",
        "whether an address asked for may lie outside the ranges, in their subnets",
    ),
    OptionAbout::new("reserved", "[IP]", "none", "addresses that are never leased"),
    OptionAbout::new(
        "avoid",
        "[IP]",
        "none",
        "addresses that are leased only on request, or when nothing else is free",
    ),
    OptionAbout::new("sync", "BOOL", "false", "whether a lease is on the disk before it is handed out"),
];
