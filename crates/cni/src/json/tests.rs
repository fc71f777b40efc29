use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    host_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: String,
    protocol: Option<Protocol>,
    next: Option<Box<Port>>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Protocol {
    Tcp,
    Other(u8),
    Range { first: u16, last: u16 },
    Pair(u8, u8),
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Conf {
    mtu: Option<u32>,
    ports: Vec<Port>,
    sysctl: BTreeMap<String, String>,
    named: BTreeMap<String, Port>,
    raw: Value,
    pair: Option<(u8, Port)>,
    wrapped: Wrapped,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
struct Wrapped(Vec<u8>);

fn conf(value: Value) -> Result<Conf, String> {
    from_value(&value).map_err(|error| error.to_string())
}

#[test]
fn keys_of_structs_match_in_any_case_at_every_depth() {
    let port = json!({ "HostPort": 80, "HOSTIP": "::", "Protocol": "tcp", "Next": { "hostport": 81 } });
    let expected = Port {
        host_port: 80,
        host_ip: "::".into(),
        protocol: Some(Protocol::Tcp),
        next: Some(Box::new(Port { host_port: 81, ..Port::default() })),
    };
    let read = conf(json!({
        "MTU": 1400, "PORTS": [port], "Sysctl": { "Net.X": "1" }, "named": { "Web": { "HostPort": 1 } },
        "RAW": { "KeepMe": null }, "Pair": [1, { "HostPort": 2 }], "Wrapped": [7],
    }));
    let read = read.unwrap();
    assert_eq!(read.mtu, Some(1400));
    assert_eq!(read.ports, [expected]);
    assert_eq!(read.sysctl["Net.X"], "1");
    assert_eq!(read.named["Web"].host_port, 1);
    assert_eq!(read.raw, json!({ "KeepMe": null }));
    assert_eq!(read.pair.unwrap().1.host_port, 2);
    assert_eq!(read.wrapped, Wrapped(vec![7]));
}

#[test]
fn an_exact_key_is_preferred_and_otherwise_the_last_wins() {
    assert_eq!(conf(json!({ "MTU": 1, "Mtu": 2, "mtu": 3 })).unwrap().mtu, Some(3));
    assert_eq!(conf(json!({ "MTU": 1, "Mtu": 2 })).unwrap().mtu, Some(2));
    assert_eq!(conf(json!({ "MTU": 1, "mtu": null })).unwrap().mtu, Some(1));
    let object = json!({ "MTU": 1, "Mtu": 2, "x": null });
    assert_eq!(get(&object, "mtu"), Some(&json!(2)));
    assert_eq!(get(&object, "MTU"), Some(&json!(1)));
    assert_eq!(get(&object, "x"), None);
    assert_eq!(entry(&object, "X"), Some(&Value::Null));
    assert_eq!(get(&json!([]), "x"), None);
}

/// What Go 1.19's `encoding/json` makes of the same texts.
#[test]
fn in_a_text_the_last_spelling_wins() {
    for (text, mtu) in [
        (r#"{"mtu": 1, "mtu": 2}"#, Some(2)),
        (r#"{"MTU": 1, "Mtu": 2}"#, Some(2)),
        (r#"{"Mtu": 1, "MTU": 2}"#, Some(2)),
        (r#"{"Mtu": 1, "mtu": 2, "x": 0, "MTU": 3}"#, Some(3)),
        (r#"{"mtu": 1, "MTU": null}"#, Some(1)),
        (r#"{"MTU": null, "Mtu": null}"#, None),
    ] {
        assert_eq!(from_slice::<Conf>(text.as_bytes()).unwrap().mtu, mtu, "{text}");
        let value = parse(text.as_bytes()).unwrap();
        assert_eq!(get(&value, "mtu"), mtu.map(Value::from).as_ref(), "{text}");
        assert_eq!(get(&value, "mTu"), mtu.map(Value::from).as_ref(), "{text}");
    }
    let deep = br#"{"RUNTIMECONFIG": {"PortMappings": [{"HostPort": 1}]}, "Next": 0, "runtimeConfig":
        {"PORTMAPPINGS": [{"HostPort": 1, "HOSTPORT": 2}], "portMappings": [{"hostport": 4, "HostPort": 3}]}}"#;
    assert_eq!(
        parse(deep).unwrap(),
        json!({"Next": 0, "runtimeConfig": {"portMappings": [{"HostPort": 3}]}})
    );
}

/// `net/ipv4/conf/eth0` and `net/ipv4/conf/ETH0` are two.
#[test]
fn in_a_map_the_case_matters() {
    let text = br#"{"Sysctl": {"net/X": "1", "net/x": "2", "NET/X": "3", "net/X": "4"}, "a": {"Aux": {"B": 1, "b": 2}}}"#;
    let value = parse(text).unwrap();
    assert_eq!(value["Sysctl"], json!({"net/X": "4", "net/x": "2", "NET/X": "3"}));
    assert_eq!(value["a"]["Aux"], json!({"B": 1, "b": 2}));
}

/// Of what is under a key that is neither the specification's nor ours nobody knows whether it is a map.
#[test]
fn what_is_somebody_elses_stays_as_it_is() {
    let text = br#"{"plugins": [{"type": "theirs", "TYPE": "mesh", "policies": [{"match": {"App": "a", "app": "b"},
        "ipam": {"Pool": 1, "pool": 2}}], "ipam": {"type": "x", "Type": "y", "pools": {"Red": 1, "red": 2}}}]}"#;
    let expected = json!({"plugins": [{"TYPE": "mesh", "policies": [{"match": {"App": "a", "app": "b"},
        "ipam": {"Pool": 1, "pool": 2}}], "ipam": {"Type": "y", "pools": {"Red": 1, "red": 2}}}]});
    assert_eq!(parse(text).unwrap(), expected);
}

#[test]
fn null_is_absent() {
    let read = conf(json!({ "mtu": null, "ports": null, "sysctl": { "a": null }, "wrapped": null }));
    assert_eq!(read.unwrap(), Conf::default());
}

#[test]
fn enums_are_read_in_all_their_forms() {
    let read = |value: Value| from_value::<Protocol>(&value).map_err(|error| error.to_string());
    assert_eq!(read(json!("tcp")), Ok(Protocol::Tcp));
    assert_eq!(read(json!({ "TCP": null })), Ok(Protocol::Tcp));
    assert_eq!(read(json!({ "other": 9 })), Ok(Protocol::Other(9)));
    assert_eq!(
        read(json!({ "Range": { "First": 1, "LAST": 2 } })),
        Ok(Protocol::Range { first: 1, last: 2 })
    );
    assert_eq!(read(json!({ "pair": [1, 2] })), Ok(Protocol::Pair(1, 2)));
    for (bad, why) in [
        (json!("udp"), "unknown variant `udp`, expected one of `tcp`, `other`, `range`, `pair`"),
        (
            json!({ "range": { "first": -1, "last": 2 } }),
            "range.first: invalid value: integer `-1`, expected u16",
        ),
        (json!({ "pair": [1] }), "pair: invalid length 1, expected tuple variant Protocol::Pair"),
        (json!({ "tcp": 1 }), "tcp: no value is expected"),
        (json!("other"), "\"other\" needs a value"),
        (json!({ "a": 1, "b": 2 }), "a string or an object with one key is expected"),
    ] {
        assert_eq!(read(bad), Err(why.into()));
    }
}

#[test]
fn errors_say_where() {
    for (bad, why) in [
        (json!({ "mtu": "1500" }), "mtu: invalid type: string \"1500\", expected u32"),
        (json!({ "MTU": 1500.0 }), "MTU: invalid type: floating point `1500.0`, expected u32"),
        (json!({ "mtu": -1 }), "mtu: invalid value: integer `-1`, expected u32"),
        (json!({ "ports": {} }), "ports: invalid type: map, expected a sequence"),
        (
            json!({ "ports": [{}, { "hostPort": "x" }] }),
            "ports[1].hostPort: invalid type: string \"x\", expected u16",
        ),
        (
            json!({ "ports": [{ "next": { "protocol": { "range": { "first": 1, "last": [] } } } }] }),
            "ports[0].next.protocol.range.last: invalid type: sequence, expected u16",
        ),
        (json!({ "named": { "Web": 3 } }), "named.Web: an object is expected"),
        (json!({ "wrapped": [1, null] }), "wrapped[1]: invalid type: null, expected u8"),
        (json!({ "sysctl": { "a": 1 } }), "sysctl.a: invalid type: integer `1`, expected a string"),
        (json!([]), "an object is expected"),
    ] {
        assert_eq!(conf(bad), Err(why.into()));
    }
    assert_eq!(JsonError::new("x").at(0).at(1).under("a").path(), "a[1][0]");
}

#[test]
fn unknown_keys_are_seen_by_structs_that_deny_them() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its keys matter")]
    struct Strict {
        a: u8,
    }
    assert!(from_value::<Strict>(&json!({ "A": 1 })).is_ok());
    let error = from_value::<Strict>(&json!({ "A": 1, "B": 2 })).unwrap_err();
    assert_eq!(error.to_string(), "unknown field `B`, expected `a`");
}

#[test]
fn documents_are_strict_and_text_is_forgiving() {
    assert!(parse(b"{} x").is_err());
    assert!(parse(b"").is_err());
    assert_eq!(parse(b"\"a\xffb\"").unwrap(), json!("a\u{fffd}b"));
}

#[test]
fn printing_is_as_in_go() {
    let value = json!({ "a": [], "b": {}, "c": [1, "<&>\u{2028}\n\"é"], "d": { "e": null } });
    insta::assert_snapshot!(pretty(&value), @r#"
    {
        "a": [],
        "b": {},
        "c": [
            1,
            "\u003c\u0026\u003e\u2028\n\"é"
        ],
        "d": {
            "e": null
        }
    }
    "#);
    assert_eq!(pretty(&"a<b"), "\"a\\u003cb\"");
}

/// Says whether no two keys of an object differ in case alone.
fn spelt_once(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.iter().all(spelt_once),
        Value::Object(entries) => {
            let mut keys: Vec<String> = entries.keys().map(|key| key.to_ascii_lowercase()).collect();
            keys.sort();
            keys.dedup();
            keys.len() == entries.len() && entries.values().all(spelt_once)
        }
        _ => true,
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let key = prop_oneof![".{0,4}", "(?i)mtu|ports|sysctl|named|raw|pair|hostport|protocol|next"];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_value_reads_as_itself(value in any_json()) {
        prop_assert_eq!(from_value::<Value>(&value).unwrap(), value);
    }

    #[test]
    fn printing_and_parsing_are_inverse(value in any_json()) {
        let read = parse(pretty(&value).as_bytes()).unwrap();
        if spelt_once(&value) {
            prop_assert_eq!(&read, &value);
        }
        prop_assert_eq!(parse(pretty(&read).as_bytes()).unwrap(), read);
    }

    #[test]
    fn any_value_is_read_or_refused(value in any_json()) {
        drop(from_value::<Conf>(&value));
        drop(from_value::<Protocol>(&value));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        drop(from_slice::<Conf>(&bytes));
    }
}
