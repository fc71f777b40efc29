use ipnetwork::{Ipv4Network, Ipv6Network};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Code;

fn cidr(text: &str) -> IpNetwork {
    address::parse_cidr(text).unwrap()
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(address::parse_ip(text).unwrap())
}

/// A result with every field of every version.
fn full() -> NetworkResult {
    let interface = |name: &str| Interface { name: name.into(), ..Interface::default() };
    NetworkResult {
        interfaces: vec![
            interface("cni0"),
            Interface {
                mac: Some("c2:11:22:33:44:55".into()),
                mtu: Some(1500),
                sandbox: Some("/run/netns/red".into()),
                socket_path: Some("/run/vhost.sock".into()),
                pci_id: Some("0000:04:00.5".into()),
                ..interface("eth0")
            },
        ],
        ips: vec![
            IpConfig { address: cidr("10.1.0.5/16"), gateway: ip("10.1.0.1"), interface: Some(1) },
            IpConfig { address: cidr("10.2.0.5/16"), gateway: None, interface: Some(0) },
            IpConfig { address: cidr("2001:DB8::5/64"), gateway: ip("2001:db8::1"), interface: None },
        ],
        routes: vec![
            Route {
                mtu: Some(1400),
                advmss: Some(1360),
                priority: Some(100),
                table: Some(0),
                scope: Some(0),
                ..Route::new(cidr("0.0.0.0/0"), ip("10.1.0.1"))
            },
            Route::new(cidr("::/0"), None),
        ],
        dns: Dns {
            nameservers: Some(vec!["10.1.0.1".into()]),
            domain: Some("local".into()),
            search: Some(vec!["a.local".into()]),
            options: Some(vec!["ndots:1".into()]),
        },
    }
}

#[test]
fn version_1_is_printed_in_alphabetical_order() {
    insta::assert_snapshot!(full().to_json(Version::V1_1_0).unwrap(), @r#"
    {
        "cniVersion": "1.1.0",
        "dns": {
            "domain": "local",
            "nameservers": [
                "10.1.0.1"
            ],
            "options": [
                "ndots:1"
            ],
            "search": [
                "a.local"
            ]
        },
        "interfaces": [
            {
                "name": "cni0"
            },
            {
                "mac": "c2:11:22:33:44:55",
                "mtu": 1500,
                "name": "eth0",
                "pciID": "0000:04:00.5",
                "sandbox": "/run/netns/red",
                "socketPath": "/run/vhost.sock"
            }
        ],
        "ips": [
            {
                "address": "10.1.0.5/16",
                "gateway": "10.1.0.1",
                "interface": 1
            },
            {
                "address": "10.2.0.5/16",
                "interface": 0
            },
            {
                "address": "2001:db8::5/64",
                "gateway": "2001:db8::1"
            }
        ],
        "routes": [
            {
                "advmss": 1360,
                "dst": "0.0.0.0/0",
                "gw": "10.1.0.1",
                "mtu": 1400,
                "priority": 100,
                "scope": 0,
                "table": 0
            },
            {
                "dst": "::/0"
            }
        ]
    }
    "#);
    let old = full().to_json(Version::V1_0_0).unwrap();
    assert!(old.ends_with("\n}"), "there is no newline at the end");
    assert_eq!(old, full().to_json(Version::V1_1_0).unwrap().replace("1.1.0", "1.0.0"));
}

#[test]
fn version_0_4_is_printed_in_the_order_of_its_fields() {
    insta::assert_snapshot!(full().to_json(Version::V0_4_0).unwrap(), @r#"
    {
        "cniVersion": "0.4.0",
        "interfaces": [
            {
                "name": "cni0"
            },
            {
                "name": "eth0",
                "mac": "c2:11:22:33:44:55",
                "sandbox": "/run/netns/red"
            }
        ],
        "ips": [
            {
                "version": "4",
                "interface": 1,
                "address": "10.1.0.5/16",
                "gateway": "10.1.0.1"
            },
            {
                "version": "4",
                "interface": 0,
                "address": "10.2.0.5/16"
            },
            {
                "version": "6",
                "address": "2001:db8::5/64",
                "gateway": "2001:db8::1"
            }
        ],
        "routes": [
            {
                "dst": "0.0.0.0/0",
                "gw": "10.1.0.1",
                "mtu": 1400,
                "advmss": 1360,
                "priority": 100,
                "table": 0,
                "scope": 0
            },
            {
                "dst": "::/0"
            }
        ],
        "dns": {
            "nameservers": [
                "10.1.0.1"
            ],
            "domain": "local",
            "search": [
                "a.local"
            ],
            "options": [
                "ndots:1"
            ]
        }
    }
    "#);
    for version in [Version::V0_3_0, Version::V0_3_1] {
        let old = full().to_json(version).unwrap();
        assert_eq!(old, full().to_json(Version::V0_4_0).unwrap().replace("0.4.0", version.as_str()));
    }
}

#[test]
fn version_0_2_has_one_address_of_each_family() {
    insta::assert_snapshot!(full().to_json(Version::V0_2_0).unwrap(), @r#"
    {
        "cniVersion": "0.2.0",
        "ip4": {
            "ip": "10.1.0.5/16",
            "gateway": "10.1.0.1",
            "routes": [
                {
                    "dst": "0.0.0.0/0",
                    "gw": "10.1.0.1"
                }
            ]
        },
        "ip6": {
            "ip": "2001:db8::5/64",
            "gateway": "2001:db8::1",
            "routes": [
                {
                    "dst": "::/0"
                }
            ]
        },
        "dns": {
            "nameservers": [
                "10.1.0.1"
            ],
            "domain": "local",
            "search": [
                "a.local"
            ],
            "options": [
                "ndots:1"
            ]
        }
    }
    "#);
    let old = full().to_json(Version::V0_1_0).unwrap();
    assert_eq!(old, full().to_json(Version::V0_2_0).unwrap().replace("0.2.0", "0.1.0"));
}

#[test]
fn routes_of_a_family_without_address_are_dropped_before_0_3() {
    let mut result = full();
    result.ips.truncate(1);
    result.dns = Dns::default();
    insta::assert_snapshot!(result.to_json(Version::V0_1_0).unwrap(), @r#"
    {
        "cniVersion": "0.1.0",
        "ip4": {
            "ip": "10.1.0.5/16",
            "gateway": "10.1.0.1",
            "routes": [
                {
                    "dst": "0.0.0.0/0",
                    "gw": "10.1.0.1"
                }
            ]
        },
        "dns": {}
    }
    "#);
}

#[test]
fn before_0_3_a_result_needs_an_address() {
    for version in [Version::V0_1_0, Version::V0_2_0] {
        let failure = NetworkResult::default().to_json(version).unwrap_err();
        assert_eq!(
            (failure.code, failure.msg.as_str()),
            (Code::Internal, "cannot convert: no valid IP addresses")
        );
        assert!(NetworkResult::default().to_value(version).is_err());
    }
}

#[test]
fn what_is_empty_is_left_out() {
    insta::assert_snapshot!(NetworkResult::default().to_json(Version::V1_1_0).unwrap(), @r#"
    {
        "cniVersion": "1.1.0"
    }
    "#);
    insta::assert_snapshot!(NetworkResult::default().to_json(Version::V0_3_1).unwrap(), @r#"
    {
        "cniVersion": "0.3.1",
        "dns": {}
    }
    "#);
    let zeros = NetworkResult {
        interfaces: vec![Interface {
            name: "eth0".into(),
            mac: Some(String::new()),
            mtu: Some(0),
            sandbox: Some(String::new()),
            ..Interface::default()
        }],
        ips: vec![],
        routes: vec![Route {
            mtu: Some(0),
            advmss: Some(0),
            priority: Some(0),
            ..Route::new(cidr("10.0.0.0/8"), None)
        }],
        dns: Dns { nameservers: Some(vec![]), domain: Some(String::new()), ..Dns::default() },
    };
    let expected = json!({
        "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0" }], "routes": [{ "dst": "10.0.0.0/8" }],
    });
    assert_eq!(zeros.to_value(Version::V1_1_0).unwrap(), expected);
    let expected = json!({
        "cniVersion": "0.4.0", "interfaces": [{ "name": "eth0" }], "routes": [{ "dst": "10.0.0.0/8" }], "dns": {},
    });
    assert_eq!(zeros.to_value(Version::V0_4_0).unwrap(), expected);
}

fn read(value: Value, config: Version) -> Result<NetworkResult, String> {
    NetworkResult::from_value(&value, config)
        .map_err(|failure| format!("{} {failure}", failure.code.number()))
}

#[test]
fn a_result_is_read_in_its_own_version_or_the_configurations() {
    let paired =
        json!({ "ip4": { "ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{ "dst": "0.0.0.0/0" }] } });
    let expected = NetworkResult {
        ips: vec![IpConfig { address: cidr("10.1.0.5/16"), gateway: ip("10.1.0.1"), interface: None }],
        routes: vec![Route::new(cidr("0.0.0.0/0"), None)],
        ..NetworkResult::default()
    };
    assert_eq!(read(paired.clone(), Version::V0_2_0).unwrap(), expected);
    assert_eq!(read(paired.clone(), Version::V1_1_0).unwrap(), NetworkResult::default());

    let mut named = paired;
    named["cniVersion"] = "0.1.0".into();
    assert_eq!(read(named, Version::V1_1_0).unwrap(), expected);
    for empty in [json!(null), json!({})] {
        assert_eq!(read(empty, Version::V0_1_0).unwrap(), NetworkResult::default());
    }
}

#[test]
fn results_of_go_libraries_without_tags_are_read() {
    let value = json!({
        "CNIVersion": "", "Interfaces": [{ "Name": "eth0", "Mac": "", "Mtu": 0, "SANDBOX": null }],
        "IPs": [{ "version": "4", "Address": "::ffff:10.0.0.5/104", "Gateway": "", "Interface": 0 }],
        "Routes": [{ "Dst": "10.0.0.0/8", "GW": "::ffff:10.0.0.1", "table": 0, "scope": 0, "mtu": 0 }],
        "DNS": { "Nameservers": [] },
    });
    let result = read(value, Version::V0_4_0).unwrap();
    assert_eq!(result.interfaces, [Interface { name: "eth0".into(), ..Interface::default() }]);
    assert_eq!(result.ips, [IpConfig { address: cidr("10.0.0.5/8"), gateway: None, interface: Some(0) }]);
    let route = Route { table: Some(0), scope: Some(0), ..Route::new(cidr("10.0.0.0/8"), ip("10.0.0.1")) };
    assert_eq!(result.routes, [route]);
    assert!(result.dns.is_set() && result.dns.is_empty());
}

#[test]
fn malformed_results_are_refused_with_the_place() {
    for (value, why) in [
        (json!({ "cniVersion": "2.0.0" }), r#"1 unsupported CNI result version "2.0.0""#),
        (json!({ "cniVersion": 1 }), "6 cniVersion: a string is expected"),
        (json!([]), "6 an object is expected"),
        (json!({ "ips": [{}] }), "6 ips[0]: missing field `address`"),
        (json!({ "ips": [{ "address": "10.0.0.1" }] }), "6 ips[0].address: invalid CIDR address: 10.0.0.1"),
        (
            json!({ "ips": [{ "address": "10.0.0.1/8", "gateway": "x" }] }),
            "6 ips[0].gateway: invalid IP address: x",
        ),
        (
            json!({ "ips": [{ "address": "10.0.0.1/8", "interface": -1 }] }),
            "6 ips[0].interface: invalid value: integer `-1`, expected usize",
        ),
        (json!({ "routes": [{ "gw": "10.0.0.1" }] }), "6 routes[0]: missing field `dst`"),
        (
            json!({ "interfaces": [{ "name": 1 }] }),
            "6 interfaces[0].name: invalid type: integer `1`, expected a string",
        ),
    ] {
        assert_eq!(read(value, Version::V1_0_0).unwrap_err(), why);
    }
}

#[test]
fn dns_knows_nothing_from_empty() {
    let read = |value: Value| json::from_value::<Dns>(&value).unwrap();
    assert!(!read(json!({})).is_set());
    assert!(!read(json!({ "domain": "", "search": null })).is_set());
    assert!(read(json!({ "search": [] })).is_set());
    assert!(read(json!({ "search": [] })).is_empty());
    assert!(!read(json!({ "domain": "x" })).is_empty());
}

fn any_cidr() -> impl Strategy<Value = IpNetwork> {
    let v4 = (any::<[u8; 4]>(), 0_u8..=32)
        .prop_map(|(ip, prefix)| Ipv4Network::new(ip.into(), prefix).unwrap().into());
    let v6 = (any::<[u8; 16]>(), 0_u8..=128).prop_map(|(mut ip, prefix)| {
        ip[0] |= 0x20;
        Ipv6Network::new(ip.into(), prefix).unwrap().into()
    });
    prop_oneof![v4, v6]
}

fn any_text() -> impl Strategy<Value = Option<String>> {
    prop::option::of("[a-z<&\"\u{e9}]{1,6}")
}

fn any_list() -> impl Strategy<Value = Option<Vec<String>>> {
    prop::option::of(prop::collection::vec("[a-z0-9.]{0,6}", 1..3))
}

prop_compose! {
    fn any_result()(
        interfaces in prop::collection::vec(
            (".{0,6}", any_text(), prop::option::of(1_u32..), any_text(), any_text(), any_text()).prop_map(
                |(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
                    name, mac, mtu, sandbox, socket_path, pci_id,
                }
            ),
            0..3,
        ),
        ips in prop::collection::vec(
            (any_cidr(), prop::option::of(any_cidr()), prop::option::of(any::<usize>())).prop_map(
                |(address, gateway, interface)| IpConfig {
                    address, gateway: gateway.map(|gateway| gateway.ip()), interface,
                }
            ),
            0..4,
        ),
        routes in prop::collection::vec(
            (
                any_cidr(), prop::option::of(any_cidr()), prop::option::of(1_u32..), prop::option::of(1_u32..),
                prop::option::of(1_u32..), any::<Option<u32>>(), any::<Option<u8>>(),
            ).prop_map(|(dst, gw, mtu, advmss, priority, table, scope)| Route {
                dst, gw: gw.map(|gw| gw.ip()), mtu, advmss, priority, table, scope,
            }),
            0..4,
        ),
        nameservers in any_list(), domain in any_text(), search in any_list(), options in any_list(),
    ) -> NetworkResult {
        NetworkResult { interfaces, ips, routes, dns: Dns { nameservers, domain, search, options } }
    }
}

proptest! {
    #[test]
    fn version_1_loses_nothing(result in any_result()) {
        for version in [Version::V1_0_0, Version::V1_1_0] {
            let value = json::parse(result.to_json(version).unwrap().as_bytes()).unwrap();
            prop_assert_eq!(NetworkResult::from_value(&value, Version::V0_1_0).unwrap(), result.clone());
            prop_assert_eq!(result.to_value(version).unwrap(), value);
        }
    }

    #[test]
    fn version_0_4_loses_what_1_brought(mut result in any_result()) {
        let value = json::parse(result.to_json(Version::V0_4_0).unwrap().as_bytes()).unwrap();
        for interface in &mut result.interfaces {
            (interface.mtu, interface.socket_path, interface.pci_id) = (None, None, None);
        }
        prop_assert_eq!(NetworkResult::from_value(&value, Version::V1_1_0).unwrap(), result);
    }

    #[test]
    fn what_0_2_prints_it_reads_back(result in any_result()) {
        if let Ok(text) = result.to_json(Version::V0_2_0) {
            let value = json::parse(text.as_bytes()).unwrap();
            let read = NetworkResult::from_value(&value, Version::V1_1_0).unwrap();
            prop_assert_eq!(read.to_json(Version::V0_2_0).unwrap(), text);
        }
    }

    #[test]
    fn any_object_is_read_or_refused(
        ips in r#"\[\{"address":"[0-9.:/]{0,8}","interface":-?[0-9]\}\]|null|\{\}|1"#,
        routes in r#"\[\{"dst":("[0-9./]{0,8}"|null)\}?\]"#,
        version in r"0\.[1-4]\.0|1\.[01]\.0|[a-z]?",
    ) {
        let text = format!(r#"{{"cniVersion":"{version}","ips":{ips},"ip4":{ips},"routes":{routes}}}"#);
        if let Ok(value) = json::parse(text.as_bytes()) {
            drop(NetworkResult::from_value(&value, Version::LATEST));
        }
    }
}
