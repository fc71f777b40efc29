//! What is written, and what it means.

use super::*;

fn settle(json: &str) -> Result<Settings, ConfError> {
    settle_for(json, false)
}

fn settle_for(json: &str, dismantles: bool) -> Result<Settings, ConfError> {
    let conf: Conf = weft_cni::json::from_slice(json.as_bytes()).unwrap();
    conf.settle(Surroundings {
        network: "net".parse().unwrap(),
        addressed: true,
        mac: None,
        claims: PathBuf::new(),
        dismantles,
    })
}

#[test]
fn nothing_written_is_the_reference_plugins_default() {
    let settings = settle("{}").unwrap();
    assert_eq!(settings.bridge.as_str(), "cni0");
    assert_eq!(settings.gateway, Gateway::None);
    assert_eq!(settings.masquerade, None);
    assert_eq!(settings.mtu, None);
    assert_eq!(settings.vlans, Vlans::Off);
    assert!(settings.container_up && !settings.dad && !settings.hairpin && !settings.port_isolation);
    assert_eq!((settings.isolation, settings.guard), (None, None));
    assert!(settings.sources.is_empty() && settings.gateways == Gateways::default());
}

#[test]
fn an_internal_network_is_more_than_isolated() {
    for (json, internal) in [
        (r#"{"isolate": true}"#, false),
        (r#"{"internal": true}"#, true),
        (r#"{"isolate": true, "internal": true}"#, true),
    ] {
        assert_eq!(settle(json).unwrap().isolation.unwrap().internal, internal, "{json}");
    }
}

#[test]
fn what_no_add_accepts_is_no_error_when_things_are_taken_apart() {
    for json in [
        r#"{"bridge": "br0123456789abc", "vlan": 9, "isGateway": true}"#,
        r#"{"vlan": 5000}"#,
        r#"{"mtu": -1}"#,
        r#"{"hairpinMode": true, "promiscMode": true}"#,
        r#"{"disableContainerInterface": true}"#,
        r#"{"ipMasq": true, "ipMasqBackend": "pf"}"#,
        r#"{"ipMasqSource": ["all"]}"#,
    ] {
        settle(json).unwrap_err();
        let settings = settle_for(json, true).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert!(settings.masquerade.is_some() && settings.isolation.is_some(), "{json}");
    }
}

#[test]
fn a_gateway_mode_that_is_named_is_kept() {
    assert_eq!(settle("{}").unwrap().guard, None, "others are not kept out for want of a word");
    let settings = settle(r#"{"gatewayMode": {"ipv6": "routed"}}"#).unwrap();
    assert!(settings.guard.is_some());
    assert_eq!(settings.gateways.to_string(), "nat for IPv4, routed for IPv6");
    let settings = settle(r#"{"gatewayMode": {}, "isolate": true, "ipMasqBackend": "iptables"}"#).unwrap();
    assert_eq!(settings.guard, Some(Backend::Iptables));
    assert_eq!(settings.isolation.map(|isolation| isolation.backend), Some(Backend::Iptables));
}

#[test]
fn keys_match_in_any_case() {
    let settings = settle(r#"{"BRIDGE": "br9", "ISGATEWAY": true, "Mtu": 1400}"#).unwrap();
    assert_eq!(settings.bridge.as_str(), "br9");
    assert_eq!(settings.gateway, Gateway::Address);
    assert_eq!(settings.mtu, Some(1400.try_into().unwrap()));
}

#[test]
fn trunks_are_sorted_and_without_duplicates() {
    let settings = settle(r#"{"vlanTrunk": [{"id": 7}, {"minID": 3, "maxID": 5}, {"id": 4}]}"#).unwrap();
    let Vlans::Port { untagged: None, tagged, keep_default: true } = settings.vlans else { panic!() };
    assert_eq!(tagged.iter().map(|id| id.get()).collect::<Vec<_>>(), [3, 4, 5, 7]);
}

#[test]
fn bad_configurations_get_the_reference_plugins_texts() {
    let table = [
        (r#"{"vlan": 5000}"#, "invalid VLAN ID 5000 (must be between 0 and 4094)"),
        (r#"{"vlan": -100}"#, "invalid VLAN ID -100 (must be between 0 and 4094)"),
        (r#"{"vlanTrunk": [{"minID": 0, "maxID": 1}]}"#, "incorrect trunk minID parameter"),
        (r#"{"vlanTrunk": [{"minID": 1, "maxID": 4095}]}"#, "incorrect trunk maxID parameter"),
        (r#"{"vlanTrunk": [{"minID": 9, "maxID": 8}]}"#, "minID is greater than maxID in trunk parameter"),
        (
            r#"{"vlanTrunk": [{"maxID": 8}]}"#,
            "minID and maxID should be configured simultaneously, minID is missing",
        ),
        (
            r#"{"vlanTrunk": [{"minID": 8}]}"#,
            "minID and maxID should be configured simultaneously, maxID is missing",
        ),
        (r#"{"vlanTrunk": [{"id": 4095}]}"#, "incorrect trunk id parameter"),
        (
            r#"{"hairpinMode": true, "promiscMode": true}"#,
            "cannot set hairpin mode and promiscuous mode at the same time",
        ),
        (
            r#"{"disableContainerInterface": true}"#,
            "cannot use IPAM when DisableContainerInterface flag is set",
        ),
        (r#"{"mtu": -1}"#, "MTU -1 is not between 68 and 65535"),
        (r#"{"bridge": "a/b"}"#, "bridge \"a/b\": interface name contains / or : or whitespace characters"),
        (
            r#"{"bridge": "br0123456789abc", "vlan": 9, "isGateway": true}"#,
            "bridge br0123456789abc is too long a name for its gateway in VLAN 9: interface name is too long",
        ),
        (r#"{"ipMasq": true, "ipMasqBackend": "pf"}"#, "unknown ipmasq backend \"pf\""),
        (r#"{"ipMasqSource": ["10.0.0.0/8"]}"#, "ipMasqSource: \"10.0.0.0/8\" is no address"),
        (
            r#"{"ipMasqSource": ["192.0.2.1", "192.0.2.2"]}"#,
            "ipMasqSource: 192.0.2.1 and 192.0.2.2 are of the same family",
        ),
    ];
    for (json, text) in table {
        assert_eq!(settle(json).unwrap_err().to_string(), text, "{json}");
    }
}
