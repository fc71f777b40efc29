//! The conflist of a network of the manager.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weft_cni::{Code, Failure};
use weft_firewall::Backend;
use weft_model::{IfName, Mtu, VlanId};
use weft_plugin::{ComposeRequest, OptionAbout, host_local};

/// The smallest MTU that a link with IPv6 may have (RFC 8200, section 5).
const IPV6_LEAST: u32 = 1280;
/// What the option `masquerade-backend` calls our own table.
const OURS: &str = "weft";

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

/// Returns the plugins of the network's conflist.
pub(crate) fn compose(request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
    let options = Options(&request.options);
    options.refuse_unknown()?;
    let name = options.get("bridge").map_or_else(|| format!("br-{}", request.id.short()), str::to_owned);
    let bridge: IfName = name.parse().map_err(|error| bad("bridge", &name, &error))?;

    let mut conf = Map::new();
    conf.insert("type".into(), json!("bridge"));
    conf.insert("bridge".into(), json!(bridge));
    conf.insert("capabilities".into(), json!({"ips": true, "mac": true}));
    if let Some(mtu) = options.number::<Mtu>("mtu")? {
        mtu_fits(mtu, request)?;
        conf.insert("mtu".into(), json!(mtu));
    }
    if let Some(vlan) = options.number::<VlanId>("vlan")? {
        vlan_fits(vlan, &bridge)?;
        conf.insert("vlan".into(), json!(vlan));
    }
    // Ours has no name in a conflist, which then is one that the reference plugins understand.
    if let Some(backend) = options.get("masquerade-backend").filter(|name| *name != OURS) {
        Backend::choose(Some(backend)).map_err(|error| {
            let hint = "its values are weft, nftables and iptables";
            bad("masquerade-backend", backend, &error).with_hint(Some(hint.into()))
        })?;
        conf.insert("ipMasqBackend".into(), json!(backend));
    }
    let mut flag = |key: &str, on: bool| {
        if on {
            conf.insert(key.into(), json!(true));
        }
    };
    let masquerade = options.flag("masquerade", true)? && !request.internal;
    flag("isGateway", true);
    flag("isDefaultGateway", !request.internal);
    flag("ipMasq", masquerade);
    flag("isolate", options.flag("isolate", true)?);
    flag("internal", request.internal);
    flag("portIsolation", !options.flag("icc", true)?);
    flag("hairpinMode", options.flag("hairpin", false)?);
    flag("promiscMode", options.flag("promisc", false)?);
    flag("macspoofchk", options.flag("spoof-check", false)?);
    if !request.dns.is_empty() {
        conf.insert("dns".into(), json!(request.dns));
    }
    conf.insert("ipam".into(), host_local(request));
    Ok(vec![Value::Object(conf)])
}

/// KERNEL: a link with a smaller MTU loses its IPv6 addresses (addrconf_notify, net/ipv6/addrconf.c).
fn mtu_fits(mtu: Mtu, request: &ComposeRequest) -> Result<(), Failure> {
    if mtu.get() >= IPV6_LEAST || request.subnets.iter().all(|subnet| subnet.subnet.is_ipv4()) {
        return Ok(());
    }
    Err(bad("mtu", &mtu.to_string(), &format!("IPv6 needs an MTU of at least {IPV6_LEAST}")))
}

/// The gateway of a VLAN is on a link named after both.
fn vlan_fits(vlan: VlanId, bridge: &IfName) -> Result<(), Failure> {
    let suffix = format!(".{vlan}");
    let Err(cause) = format!("{bridge}{suffix}").parse::<IfName>() else { return Ok(()) };
    let why = format!("the link of its gateway would be {bridge}{suffix}: {cause}");
    let hint = format!("name the bridge with at most {} bytes: -o bridge=NAME", IfName::MAX - suffix.len());
    Err(bad("vlan", &vlan.to_string(), &why).with_hint(Some(hint)))
}

/// The options as given, read by name.
struct Options<'request>(&'request BTreeMap<String, String>);

impl Options<'_> {
    fn refuse_unknown(&self) -> Result<(), Failure> {
        let Some(unknown) = self.0.keys().find(|key| OPTIONS.iter().all(|option| option.name != *key)) else {
            return Ok(());
        };
        let known: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
        let text = format!("the bridge driver has no option {unknown:?}");
        let hint = format!("its options are {}", known.join(", "));
        Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint)))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(default),
            // DOCKER: `-o key` alone means true; the words are those of Go's ParseBool.
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(bad(name, other, &"true or false is expected")),
        }
    }

    fn number<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: TryFrom<i64>,
        T::Error: std::fmt::Display,
    {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number: i64 = text.parse().map_err(|error| bad(name, text, &error))?;
        T::try_from(number).map(Some).map_err(|error| bad(name, text, &error))
    }
}

fn bad(name: &str, value: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::text(Code::InvalidConfig, format!("option {name}={value}: {why}"))
}
