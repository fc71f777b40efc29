//! The options of a network, and how their values are read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_cni::{Code, Failure};
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

/// The options as given, read by name.
pub(super) struct Options<'request>(pub(super) &'request BTreeMap<String, String>);

impl Options<'_> {
    pub(super) fn refuse_unknown(&self) -> Result<(), Failure> {
        let Some(unknown) = self.0.keys().find(|key| OPTIONS.iter().all(|option| option.name != *key)) else {
            return Ok(());
        };
        let known: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
        let text = format!("the bridge driver has no option {unknown:?}");
        let hint = format!("its options are {}", known.join(", "));
        Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint)))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(default),
            // DOCKER: `-o key` alone means true; the words are those of Go's ParseBool.
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(bad(name, other, &"true or false is expected")),
        }
    }

    /// Returns an address of a family.
    pub(super) fn address(&self, name: &str, v4: bool) -> Result<Option<IpAddr>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let address: IpAddr = text.parse().map_err(|error| bad(name, text, &error))?;
        match address.is_ipv4() == v4 {
            true => Ok(Some(address)),
            false => {
                Err(bad(name, text, &format!("an {} address is expected", if v4 { "IPv4" } else { "IPv6" })))
            }
        }
    }

    pub(super) fn number<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: TryFrom<i64>,
        T::Error: std::fmt::Display,
    {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number: i64 = text.parse().map_err(|error| bad(name, text, &error))?;
        T::try_from(number).map(Some).map_err(|error| bad(name, text, &error))
    }
}

/// Returns the error about one option's value.
pub(super) fn bad(name: &str, value: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::text(Code::InvalidConfig, format!("option {name}={value}: {why}"))
}
