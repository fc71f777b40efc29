//! The conflist of a network of the manager.

mod options;

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use weft_cni::Failure;
use weft_firewall::Backend;
use weft_model::{GatewayMode, Gateways, IfName, Mtu, VlanId};
use weft_plugin::{ComposeRequest, Options, bad_option as bad, host_local};

pub(crate) use options::OPTIONS;

/// The smallest MTU that a link with IPv6 may have (RFC 8200, section 5).
const IPV6_LEAST: u32 = 1280;
/// What the option `masquerade-backend` calls our own table.
const OURS: &str = "weft";

/// Returns the plugins of the network's conflist.
pub(crate) fn compose(request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
    let options = Options { about: &crate::ABOUT, given: &request.options };
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
        backend.parse::<Backend>().map_err(|error| {
            let hint = "its values are weft, nftables and iptables";
            bad("masquerade-backend", backend, &error).with_hint(Some(hint.into()))
        })?;
        conf.insert("ipMasqBackend".into(), json!(backend));
    }
    let icc = options.flag("icc", true)?;
    let gateways = gateways(&options)?;
    let masquerade = options.flag("masquerade", true)? && !request.internal;
    let sources = sources(&options, gateways, masquerade)?;
    let mut flag = |key: &str, on: bool| {
        if on {
            conf.insert(key.into(), json!(true));
        }
    };
    flag("isGateway", true);
    flag("isDefaultGateway", !request.internal);
    flag("ipMasq", masquerade);
    flag("isolate", options.flag("isolate", true)?);
    flag("internal", request.internal);
    flag("portIsolation", !icc);
    flag("hairpinMode", options.flag("hairpin", false)?);
    flag("promiscMode", options.flag("promisc", false)?);
    flag("macspoofchk", options.flag("spoof-check", false)?);
    if !sources.is_empty() {
        conf.insert("ipMasqSource".into(), json!(sources));
        if options.flag("allow_foreign_host_ip", false)? {
            conf.insert("allowForeignHostIP".into(), json!(true));
        }
    }
    // The key is what keeps out whoever has a route. Nobody has one to an internal network, but its own containers
    // have one to each other.
    if !request.internal || !icc || gateways != Gateways::default() {
        conf.insert("gatewayMode".into(), json!(gateways));
    }
    if !request.dns.is_empty() {
        conf.insert("dns".into(), json!(request.dns));
    }
    conf.insert("ipam".into(), host_local(request));
    let portmap = portmap(&options, gateways)?;
    let mut plugins = vec![Value::Object(conf)];
    if !request.internal {
        plugins.push(portmap);
    }
    Ok(plugins)
}

/// Returns the plugin that publishes the containers' ports. The reference plugin understands it, too.
fn portmap(options: &Options<'_>, gateways: Gateways) -> Result<Value, Failure> {
    let mut conf = Map::new();
    conf.insert("type".into(), json!("portmap"));
    conf.insert("capabilities".into(), json!({"portMappings": true}));
    conf.insert("snat".into(), json!(true));
    // The reference plugins' own layout of nf_tables has a rule for each port, which nobody wants who can choose.
    if options.get("masquerade-backend") == Some("iptables") {
        conf.insert("backend".into(), json!("iptables"));
    }
    if gateways != Gateways::default() {
        conf.insert("gatewayMode".into(), json!(gateways));
    }
    // DOCKER: an address that is every address is none.
    let host = options.address("host_binding_ipv4", true)?.filter(|host| !host.is_unspecified());
    if let Some(host) = host {
        if gateways.of(host) == GatewayMode::Routed {
            let why = "ports of a routed network are the container's own, at every address";
            let hint = "leave out either this or gateway_mode_ipv4=routed";
            return Err(bad("host_binding_ipv4", &host.to_string(), &why).with_hint(Some(hint.into())));
        }
        conf.insert("defaultHostIP".into(), json!(host));
    }
    if options.flag("allow_foreign_host_ip", false)? {
        conf.insert("allowForeignHostIP".into(), json!(true));
    }
    Ok(Value::Object(conf))
}

fn gateways(options: &Options<'_>) -> Result<Gateways, Failure> {
    let mode = |name: &str| match options.get(name) {
        None => Ok(GatewayMode::default()),
        Some(text) => text.parse().map_err(|error: weft_model::GatewayModeError| {
            let names = GatewayMode::ALL.map(GatewayMode::as_str).join(", ");
            bad(name, text, &error).with_hint(Some(format!("its values are {names}")))
        }),
    };
    Ok(Gateways { ipv4: mode("gateway_mode_ipv4")?, ipv6: mode("gateway_mode_ipv6")? })
}

/// Returns the addresses that packets leave with. One that no packet would leave with is a mistake.
fn sources(options: &Options<'_>, gateways: Gateways, masquerade: bool) -> Result<Vec<IpAddr>, Failure> {
    let mut sources = Vec::new();
    for (name, v4) in [("host_ipv4", true), ("host_ipv6", false)] {
        let Some(source) = options.address(name, v4)? else { continue };
        let refuse = |why: &str| Err(bad(name, &source.to_string(), &why));
        if source.is_unspecified() || source.is_multicast() {
            return refuse("no packet has such an address");
        }
        if !masquerade {
            return refuse("the network does not masquerade, so packets keep their address");
        }
        if !gateways.of(source).translates() {
            return refuse(&format!("packets keep their address in gateway mode {}", gateways.of(source)));
        }
        sources.push(source);
    }
    if !sources.is_empty() && options.get("masquerade-backend") == Some("nftables") {
        let why = "the reference plugins' layout has no room for it";
        return Err(bad("masquerade-backend", "nftables", &why));
    }
    Ok(sources)
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

#[cfg(test)]
mod tests;
