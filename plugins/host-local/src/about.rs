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
    option(
        "ranges",
        "[[{subnet, rangeStart, rangeEnd, gateway}]]",
        "none",
        "one address from each range set; a set is a list of ranges",
    ),
    option("subnet", "CIDR", "none", "a single range, before those of ranges"),
    option("rangeStart", "IP", "the subnet's first address", "the first address of the single range"),
    option(
        "rangeEnd",
        "IP",
        "the subnet's last address but the broadcast",
        "the last address of the single range",
    ),
    option(
        "gateway",
        "IP",
        "the subnet's first address",
        "the single range's gateway, which is never leased",
    ),
    option("routes", "[{dst, gw, mtu, advmss, priority, table, scope}]", "none", "routes of the result"),
    option("resolvConf", "PATH", "none", "a resolv.conf that becomes the result's name service"),
    option(
        "dataDir",
        "PATH",
        "/var/lib/cni/networks",
        "where the leases are, in a directory for each network",
    ),
    option(
        "requestable",
        "range|subnet",
        "range",
        "whether an address asked for may lie outside the ranges, in their subnets",
    ),
    option("reserved", "[IP]", "none", "addresses that are never leased"),
    option(
        "avoid",
        "[IP]",
        "none",
        "addresses that are leased only on request, or when nothing else is free",
    ),
    option("sync", "BOOL", "false", "whether a lease is on the disk before it is handed out"),
];

const fn option(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> OptionAbout {
    OptionAbout { name, aliases: &[], value, default, help }
}
