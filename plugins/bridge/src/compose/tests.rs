//! Options as typed, and the conflist they make.

use std::collections::BTreeMap;

use weft_cni::Dns;
use weft_model::NetworkId;

use super::*;

fn request(internal: bool, options: &[(&str, &str)]) -> ComposeRequest {
    let options: BTreeMap<String, String> =
        options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    ComposeRequest {
        name: "blue".parse().unwrap(),
        id: NetworkId::new([7; 32]),
        internal,
        subnets: Vec::new(),
        dns: Dns::default(),
        options,
    }
}

fn composed(internal: bool, options: &[(&str, &str)]) -> Vec<Value> {
    compose(&request(internal, options)).unwrap_or_else(|error| panic!("{options:?}: {error}"))
}

const PORTMAP: &str = r#"{"type":"portmap","capabilities":{"portMappings":true},"snat":true}"#;

fn portmap(more: Value) -> Value {
    let mut conf: Value = serde_json::from_str(PORTMAP).unwrap();
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    conf
}

#[test]
fn ports_are_published_by_a_plugin_of_their_own() {
    let plugins = composed(false, &[]);
    assert_eq!(plugins[0]["gatewayMode"], json!({"ipv4": "nat", "ipv6": "nat"}));
    assert_eq!(plugins[1..], [portmap(json!({}))]);

    let modes = json!({"ipv4": "nat", "ipv6": "routed"});
    let plugins = composed(false, &[("gateway_mode_ipv6", "routed"), ("host_binding_ipv4", "127.0.0.1")]);
    assert_eq!(plugins[0]["gatewayMode"], modes);
    assert_eq!(plugins[1..], [portmap(json!({"gatewayMode": modes, "defaultHostIP": "127.0.0.1"}))]);

    assert_eq!(composed(false, &[("host_binding_ipv4", "0.0.0.0")])[1], portmap(json!({})));
    let foreign = composed(false, &[("allow_foreign_host_ip", "true")]);
    assert_eq!(foreign[1], portmap(json!({"allowForeignHostIP": true})));
    let plugins = composed(false, &[("masquerade-backend", "iptables")]);
    assert_eq!(plugins[1], portmap(json!({"backend": "iptables"})));
    assert_eq!(composed(false, &[("masquerade-backend", "nftables")])[1], portmap(json!({})));
}

#[test]
fn an_internal_network_publishes_nothing() {
    let plugins = composed(true, &[]);
    assert_eq!((plugins.len(), plugins[0].get("gatewayMode")), (1, None));
    assert_eq!(composed(true, &[("icc", "false")])[0]["gatewayMode"], json!({"ipv4": "nat", "ipv6": "nat"}));
    let isolated = composed(true, &[("gateway_mode_ipv4", "isolated")]);
    assert_eq!(isolated[0]["gatewayMode"]["ipv4"], "isolated");
}

#[test]
fn packets_leave_with_the_address_that_was_named() {
    let plugins = composed(false, &[("host_ipv4", "192.0.2.7"), ("host_ipv6", "2001:db8::7")]);
    assert_eq!(plugins[0]["ipMasqSource"], json!(["192.0.2.7", "2001:db8::7"]));
    assert_eq!(composed(false, &[("masquerade", "false")])[0].get("ipMasq"), None);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (
            &[("gateway_mode_ipv4", "bridge")],
            "option gateway_mode_ipv4=bridge: unknown gateway mode \"bridge\"",
        ),
        (&[("host_ipv4", "::1")], "option host_ipv4=::1: an IPv4 address is expected"),
        (&[("host_ipv6", "x")], "option host_ipv6=x: invalid IP address syntax"),
        (&[("host_ipv4", "0.0.0.0")], "option host_ipv4=0.0.0.0: no packet has such an address"),
        (
            &[("host_ipv4", "192.0.2.7"), ("masquerade", "false")],
            "option host_ipv4=192.0.2.7: the network does not masquerade, so packets keep their address",
        ),
        (
            &[("host_ipv4", "192.0.2.7"), ("gateway_mode_ipv4", "routed")],
            "option host_ipv4=192.0.2.7: packets keep their address in gateway mode routed",
        ),
        (
            &[("host_ipv4", "192.0.2.7"), ("masquerade-backend", "nftables")],
            "option masquerade-backend=nftables: the reference plugins' layout has no room for it",
        ),
        (
            &[("host_binding_ipv4", "127.0.0.1"), ("gateway_mode_ipv4", "routed")],
            "option host_binding_ipv4=127.0.0.1: ports of a routed network are the container's own, at every address",
        ),
        (&[("host_binding_ipv4", "::")], "option host_binding_ipv4=::: an IPv4 address is expected"),
    ];
    for (options, why) in table {
        assert_eq!(compose(&request(false, options)).unwrap_err().msg, *why, "{options:?}");
    }
}
