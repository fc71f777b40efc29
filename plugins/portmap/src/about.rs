//! What `describe` tells.

use weft_cni::Version;
use weft_plugin::{About, OptionAbout};

pub(crate) static ABOUT: About = About {
    kind: "portmap",
    summary: "ports of the host that lead to a container",
    versions: &Version::ALL,
    options: OPTIONS,
    driver: None,
};

const OPTIONS: &[OptionAbout] = &[
    OptionAbout::new(
        "backend",
        "weft, nftables, iptables",
        "weft, or whose language the conditions are in",
        "who carries the rules",
    ),
    OptionAbout::new(
        "snat",
        "BOOL",
        "true",
        "whether connections from the container's own subnets and from loopback addresses get the host's address",
    ),
    OptionAbout::new(
        "masqAll",
        "BOOL",
        "false",
        "whether all connections to published ports get the host's address",
    ),
    OptionAbout::new(
        "markMasqBit",
        "NUMBER",
        "13",
        "iptables: the bit of the packet mark that asks for masquerading",
    ),
    OptionAbout::new(
        "externalSetMarkChain",
        "CHAIN",
        "none",
        "iptables: a chain of somebody else that sets the mark instead",
    ),
    OptionAbout::new("conditionsV4", "[WORD]", "none", "further matches for IPv4, in the backend's language"),
    OptionAbout::new("conditionsV6", "[WORD]", "none", "the same for IPv6"),
    OptionAbout::new(
        "gatewayMode",
        "{ipv4, ipv6}",
        "nat",
        "for each family: nat, nat-unprotected, routed or isolated",
    ),
    OptionAbout::new(
        "defaultHostIP",
        "IP or [IP]",
        "every address of the host",
        "where ports are published for which no address is named",
    ),
    OptionAbout::new(
        "allowForeignHostIP",
        "BOOL",
        "false",
        "whether an address may be named that the host does not have",
    ),
];
