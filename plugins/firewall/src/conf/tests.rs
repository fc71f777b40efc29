use serde_json::{Value, json};
use weft_cni::Version;

use super::*;

fn previous(result: Value) -> Option<NetworkResult> {
    Some(NetworkResult::from_value(&result, Version::LATEST).unwrap())
}

fn bridged() -> Option<NetworkResult> {
    previous(json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/c"}],
        "ips": [{"address": "10.0.0.2/24", "interface": 1}, {"address": "fd00::2/64", "interface": 1}]
    }))
}

fn settle(conf: Value, around: Surroundings) -> Result<Settings, ConfError> {
    serde_json::from_value::<Conf>(conf).unwrap().settle(around)
}

fn connecting(conf: Value) -> Result<Settings, ConfError> {
    settle(conf, Surroundings { previous: bridged(), connects: true, ..Surroundings::default() })
}

#[test]
fn nothing_written_has_a_meaning() {
    let settings = connecting(json!({})).unwrap();
    assert_eq!(settings.addresses, ["10.0.0.2", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap()));
    assert_eq!(settings.carrier, Carrier::Auto);
    assert_eq!((settings.admin_chain.as_str(), settings.zone.as_str()), ("CNI-ADMIN", "trusted"));
    assert_eq!(settings.ingress, None);
}

#[test]
fn backends_have_upstreams_names_and_ours() {
    for (name, carrier) in [
        ("iptables", Carrier::Iptables),
        ("firewalld", Carrier::Firewalld),
        ("nftables", Carrier::Weft),
        ("weft", Carrier::Weft),
        ("", Carrier::Auto),
        ("anything", Carrier::Auto),
    ] {
        assert_eq!(connecting(json!({"backend": name})).unwrap().carrier, carrier, "{name}");
    }
}

#[test]
fn policies_are_about_the_first_interface() {
    for (name, closed) in [("", None), ("open", None), ("same-bridge", Some(false)), ("isolated", Some(true))]
    {
        let ingress = connecting(json!({"ingressPolicy": name})).unwrap().ingress;
        assert_eq!(ingress.as_ref().map(|ingress| ingress.closed), closed, "{name}");
        assert!(ingress.is_none_or(|ingress| ingress.bridge.as_str() == "cni0"));
    }
}

#[test]
fn what_is_not_legal_is_named() {
    for (conf, text) in [
        (json!({"ingressPolicy": "shut"}), r#"unknown ingress policy: "shut""#),
        (json!({"iptablesAdminChainName": "-A"}), r#"iptablesAdminChainName "-A" is no name of a chain"#),
        (
            json!({"iptablesAdminChainName": "X\n-F"}),
            r#"iptablesAdminChainName "X\n-F" is no name of a chain"#,
        ),
        (
            json!({"iptablesAdminChainName": "ABCDEFGHIJKLMNOPQRSTUVWXYZABC"}),
            r#"iptablesAdminChainName "ABCDEFGHIJKLMNOPQRSTUVWXYZABC" is no name of a chain"#,
        ),
        (json!({"firewalldZone": "my zone"}), r#"firewalldZone "my zone" is no name of a zone"#),
    ] {
        let error = connecting(conf).unwrap_err();
        assert_eq!(error.to_string(), text);
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_policy_needs_an_interface() {
    let bare = previous(json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}));
    let around = Surroundings { previous: bare, connects: true, ..Surroundings::default() };
    let error = settle(json!({"ingressPolicy": "same-bridge"}), around).unwrap_err();
    assert_eq!(
        error.to_string(),
        "interface needs to be set for ingress policy \"same-bridge\", make sure to chain \"firewall\" plugin \
         with \"bridge\""
    );
}

#[test]
fn a_container_is_connected_behind_another_plugin() {
    let around = Surroundings { connects: true, ..Surroundings::default() };
    assert_eq!(settle(json!({}), around).unwrap_err(), ConfError::NoPrevResult);
    let around = Surroundings { dismantles: true, ..Surroundings::default() };
    assert_eq!(settle(json!({"ingressPolicy": "shut"}), around).unwrap().addresses, Vec::<IpAddr>::new());
}
