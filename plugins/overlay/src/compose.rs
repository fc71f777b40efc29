//! The conflist of an overlay on this host: each host has its own addresses to give.

use serde_json::{Map, Value, json};
use weft_cni::{Code, Failure};
use weft_overlay::here::{self, Found};
use weft_overlay::local::LocalNetwork;
use weft_overlay::records::FASTPATH;
use weft_plugin::{ComposeRequest, OptionAbout};
use weft_state::Root;

use crate::conf;

/// The options of `weft network create -d overlay`, with docker's names for them. They are the network's on all hosts,
/// so the agent reads them.
pub(crate) const OPTIONS: &[OptionAbout] = &[
    OptionAbout {
        name: "encrypted",
        aliases: &[],
        value: "BOOL",
        default: "false",
        help: "whether packets between hosts are encrypted",
    },
    OptionAbout {
        name: "isolated",
        aliases: &[],
        value: "BOOL",
        default: "false",
        help: "whether the network is cut off from its hosts, so that others may have the same subnets",
    },
    OptionAbout {
        name: "egress",
        aliases: &[],
        value: "nat|routed|none",
        default: "nat; none for isolated networks",
        help: "whether packets that leave the network get the host's address, keep theirs, or do not leave",
    },
    OptionAbout {
        name: FASTPATH,
        aliases: &[],
        value: "auto|BOOL",
        default: "auto; false for encrypted networks",
        help: "whether packets between its containers on different hosts pass by the hosts' firewalls: as long as nobody else there has a say (auto), or always (true)",
    },
    OptionAbout {
        name: "mtu",
        aliases: &["com.docker.network.driver.mtu"],
        value: "BYTES",
        default: "each host's underlay's, less the encapsulation",
        help: "the MTU of the network's devices",
    },
    OptionAbout {
        name: "vni",
        aliases: &["com.docker.network.driver.overlay.vxlanid_list"],
        value: "NUMBER",
        default: "one that no other network has",
        help: "the VXLAN network identifier",
    },
];

/// Returns the plugins of the network's conflist on this host.
pub(crate) fn compose(request: &ComposeRequest, root: &Root) -> Result<Vec<Value>, Failure> {
    if let Some(unknown) = request.options.keys().find(|key| OPTIONS.iter().all(|option| option.name != *key))
    {
        let known: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
        let text = format!("the overlay driver has no option {unknown:?}");
        let hint = format!("its options are {}", known.join(", "));
        return Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint)));
    }
    let local = match here::newest(root, &request.name).map_err(|error| Failure::new(Code::Io, error))? {
        Found::Here(local) => local,
        Found::Refused(refused) => return Err(conf::cannot_be(&refused)),
        Found::Unknown => return Err(conf::unknown(&request.name)),
    };
    let mut plugin = Map::new();
    plugin.insert("type".into(), json!("overlay"));
    plugin.insert("capabilities".into(), json!({"ips": true, "mac": true}));
    if !request.dns.is_empty() {
        plugin.insert("dns".into(), json!(request.dns));
    }
    plugin.insert("ipam".into(), ipam(&local));
    let mut plugins = vec![Value::Object(plugin)];
    if !local.isolated && !request.internal {
        plugins.push(json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}));
    }
    Ok(plugins)
}

/// Returns the `ipam` object: a set of ranges for each family, a range for each block. What was borrowed is a range of
/// one address, which others get only when nothing else is left; what another host has borrowed is given to nobody.
fn ipam(local: &LocalNetwork) -> Value {
    let mut sets = Vec::new();
    for v4 in [true, false] {
        let blocks = local.blocks.iter().filter(|block| block.cidr.is_ipv4() == v4);
        let mut set: Vec<Value> =
            blocks.map(|block| json!({"subnet": block.cidr.to_string(), "gateway": block.gateway})).collect();
        for address in local.borrowed.iter().filter(|address| address.is_ipv4() == v4) {
            let subnet = local.subnets.iter().find(|subnet| subnet.contains(*address));
            set.extend(subnet.map(
                |subnet| json!({"subnet": subnet.to_string(), "rangeStart": address, "rangeEnd": address}),
            ));
        }
        if !set.is_empty() {
            sets.push(Value::Array(set));
        }
    }
    let mut ipam = json!({"type": "host-local", "ranges": sets});
    if !local.borrowed.is_empty() {
        ipam["avoid"] = json!(local.borrowed);
    }
    if !local.lent.is_empty() {
        ipam["reserved"] = json!(local.lent);
    }
    ipam
}

#[cfg(test)]
mod tests;
