//! The options of a network.

use weft_plugin::OptionAbout;

/// The options of `weft network create -d bridge`, with docker's names for them.
pub(crate) const OPTIONS: &[OptionAbout] = &[
    OptionAbout {
        name: "bridge",
        aliases: &["com.docker.network.bridge.name"],
        value: "NAME",
        default: "br-<id>",
        help: "the Linux bridge; one that exists is used and kept",
    },
    OptionAbout {
        name: "mtu",
        aliases: &["com.docker.network.driver.mtu"],
        value: "BYTES",
        default: "the uplink's",
        help: "the MTU of the bridge and its ports",
    },
    OptionAbout {
        name: "masquerade",
        aliases: &["com.docker.network.bridge.enable_ip_masquerade"],
        value: "BOOL",
        default: "true",
        help: "whether packets leave with the host's address",
    },
    OptionAbout {
        name: "masquerade-backend",
        aliases: &[],
        value: "weft|nftables|iptables",
        default: "weft, or iptables where the kernel has no nf_tables",
        help: "who masquerades: weft's own table, or rules as the reference plugins lay them out",
    },
    OptionAbout {
        name: "isolate",
        aliases: &[],
        value: "BOOL",
        default: "true",
        help: "whether nothing passes between this network and others that are isolated",
    },
    OptionAbout {
        name: "icc",
        aliases: &["com.docker.network.bridge.enable_icc"],
        value: "BOOL",
        default: "true",
        help: "whether containers of the network reach each other",
    },
    OptionAbout {
        name: "gateway_mode_ipv4",
        aliases: &["com.docker.network.bridge.gateway_mode_ipv4"],
        value: "nat|routed|nat-unprotected|isolated",
        default: "nat",
        help: "how the outside reaches containers by IPv4",
    },
    OptionAbout {
        name: "gateway_mode_ipv6",
        aliases: &["com.docker.network.bridge.gateway_mode_ipv6"],
        value: "nat|routed|nat-unprotected|isolated",
        default: "nat",
        help: "how the outside reaches containers by IPv6",
    },
    OptionAbout {
        name: "host_ipv4",
        aliases: &["com.docker.network.host_ipv4"],
        value: "IP",
        default: "that of the interface packets leave by",
        help: "the host's address that IPv4 packets leave with",
    },
    OptionAbout {
        name: "host_ipv6",
        aliases: &["com.docker.network.host_ipv6"],
        value: "IP",
        default: "that of the interface packets leave by",
        help: "the host's address that IPv6 packets leave with",
    },
    OptionAbout {
        name: "host_binding_ipv4",
        aliases: &["com.docker.network.bridge.host_binding_ipv4"],
        value: "IP",
        default: "every address of the host",
        help: "the host's address that ports are published on when none is named",
    },
    OptionAbout {
        name: "allow_foreign_host_ip",
        aliases: &[],
        value: "BOOL",
        default: "false",
        help: "whether ports can be published on, and packets leave with, addresses that the host does not have (yet)",
    },
    OptionAbout {
        name: "hairpin",
        aliases: &[],
        value: "BOOL",
        default: "false",
        help: "whether a port sends frames back where they came from",
    },
    OptionAbout {
        name: "promisc",
        aliases: &[],
        value: "BOOL",
        default: "false",
        help: "whether the bridge is promiscuous",
    },
    OptionAbout {
        name: "vlan",
        aliases: &[],
        value: "ID",
        default: "none",
        help: "the VLAN of the containers' ports",
    },
    OptionAbout {
        name: "spoof-check",
        aliases: &[],
        value: "BOOL",
        default: "false",
        help: "whether frames with another source MAC address than the container's are dropped",
    },
];
