use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Interface;

fn parse(value: &Value) -> Result<NetConf, (u32, String, Option<String>)> {
    NetConf::parse(value.to_string().as_bytes()).map_err(|f| (f.code.number(), f.msg, f.details))
}

fn with(key: &str, value: Value) -> NetConf {
    let mut conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "x" });
    conf[key] = value;
    parse(&conf).unwrap()
}

#[test]
fn the_keys_every_plugin_has_are_read() {
    let conf = json!({
        "cniVersion": "1.0.0", "Name": "net", "TYPE": "bridge", "ipam": { "Type": "host-local", "x": 1 },
        "dns": { "nameservers": [] }, "prevResult": { "ips": [] }, "runtimeConfig": { "IPs": ["10.0.0.1/8"] },
        "args": { "cni": { "mac": "x" } }, "mtu": 1400, "capabilities": { "ips": true },
    });
    let conf = parse(&conf).unwrap();
    assert_eq!((conf.version, conf.name.as_str(), conf.kind.as_str()), (Version::V1_0_0, "net", "bridge"));
    assert_eq!(conf.ipam_type(), Some("host-local"));
    assert_eq!(conf.dns, Dns { nameservers: Some(vec![]), ..Dns::default() });
    assert_eq!(conf.prev_result().unwrap(), Some(NetworkResult::default()));
    assert_eq!(conf.capability::<Vec<String>>("ips").unwrap().unwrap(), ["10.0.0.1/8"]);
    assert_eq!(conf.cni_arg::<String>("mac").unwrap().unwrap(), "x");
    assert_eq!(conf.valid_attachments, None);
    assert_eq!(conf.raw["mtu"], 1400);

    let bare = with("ipam", Value::Null);
    assert_eq!((bare.ipam_type(), bare.prev_result()), (None, Ok(None)));
    assert_eq!(bare.capability::<Vec<String>>("ips"), Ok(None));
    assert_eq!(bare.cni_arg::<String>("mac"), Ok(None));
    assert_eq!(with("ipam", json!({})).ipam_type(), None);
    assert_eq!(with("ipam", json!({ "type": "" })).ipam_type(), None);
}

#[test]
fn an_ipam_that_is_written_wrongly_is_not_no_ipam() {
    for (ipam, msg) in [
        (json!("host-local"), "ipam: an object is expected"),
        (json!(["host-local"]), "ipam: an object is expected"),
        (json!(true), "ipam: an object is expected"),
        (json!({ "type": 5 }), "ipam.type: invalid type: integer `5`, expected a string"),
        (json!({ "Type": ["x"] }), "ipam.Type: invalid type: sequence, expected a string"),
    ] {
        let conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "x", "ipam": ipam });
        assert_eq!(parse(&conf).unwrap_err(), (7, msg.into(), None), "{ipam}");
    }
}

#[test]
fn a_bad_document_is_a_decoding_failure() {
    let prefix = "error unmarshall network config: ";
    for (bytes, why) in [
        (&b""[..], "EOF while parsing a value at line 1 column 0"),
        (b"{", "EOF while parsing an object at line 1 column 1"),
        (b"[]", "an object is expected"),
        (b"null", "an object is expected"),
        (b"{} {}", "trailing characters at line 1 column 4"),
        (br#"{"name":1}"#, "name: invalid type: integer `1`, expected a string"),
        (br#"{"name":"n","dns":[]}"#, "dns: an object is expected"),
        (
            br#"{"name":"n","cni.dev/valid-attachments":[{"ifname":1}]}"#,
            "cni.dev/valid-attachments[0].ifname: invalid type: integer `1`, expected a string",
        ),
    ] {
        let failure = NetConf::parse(bytes).unwrap_err();
        assert_eq!((failure.code, failure.msg), (Code::Decode, format!("{prefix}{why}")));
    }
}

#[test]
fn a_bad_name_is_refused() {
    for (name, msg, details) in [
        (json!(null), "missing network name", None),
        (json!(""), "missing network name", None),
        (json!("a b"), "invalid characters found in network name", Some("a b".to_owned())),
        (json!("../x"), "invalid characters found in network name", Some("../x".to_owned())),
    ] {
        assert_eq!(parse(&json!({ "name": name })).unwrap_err(), (7, msg.into(), details));
    }
    let long = parse(&json!({ "name": "a".repeat(201) })).unwrap_err();
    assert!(long.1.starts_with("network name \"aaa") && long.1.ends_with("is longer than 200 bytes"));
}

#[test]
fn the_name_is_looked_at_before_the_version_and_the_verb_before_the_list() {
    let conf = |text: &str, verb| NetConf::parse_for(text.as_bytes(), verb, &Version::ALL).unwrap_err();
    assert_eq!(conf(r#"{"cniVersion":"x"}"#, Verb::Add).msg, "missing network name");
    assert_eq!(conf(r#"{"cniVersion":"x","name":"n"}"#, Verb::Add).code, Code::Decode);
    let future = r#"{"cniVersion":"9.0.0","name":"n"}"#;
    assert_eq!(conf(future, Verb::Add).msg, "incompatible CNI versions");
    assert_eq!(conf(future, Verb::Check).msg, "plugin version does not allow CHECK");
    assert_eq!(conf(r#"{"name":"n"}"#, Verb::Gc).msg, "config version does not allow GC");
    assert_eq!(NetConf::version_of(br#"{"cniVersion":"0.4.0"}"#), Some(Version::V0_4_0));
    assert_eq!(NetConf::version_of(br#"{"cniVersion":"9.0.0"}"#), None);
    assert_eq!(NetConf::version_of(b"{"), None);
}

#[test]
fn prev_result_must_be_of_the_configurations_class() {
    let prev = |own: Option<&str>, config: &str| {
        let mut prev = json!({ "interfaces": [{ "name": "eth0" }] });
        if let Some(own) = own {
            prev["cniVersion"] = own.into();
        }
        let conf = parse(&json!({ "cniVersion": config, "name": "n", "prevResult": prev })).unwrap();
        conf.prev_result().map(|result| result.unwrap()).map_err(|failure| failure.msg)
    };
    let eth0 = Interface { name: "eth0".into(), ..Interface::default() };
    for (own, config) in
        [(None, "0.3.1"), (Some("0.3.0"), "0.4.0"), (Some("1.1.0"), "1.0.0"), (Some(""), "1.0.0")]
    {
        assert_eq!(prev(own, config).unwrap().interfaces, std::slice::from_ref(&eth0));
    }
    let refusal = "could not parse prevResult: result type supports";
    assert_eq!(
        prev(Some("0.4.0"), "1.1.0").unwrap_err(),
        format!("{refusal} [1.0.0 1.1.0] but unmarshalled CNIVersion is \"0.4.0\"")
    );
    assert_eq!(
        prev(Some("0.2.0"), "0.3.0").unwrap_err(),
        format!("{refusal} [0.3.0 0.3.1 0.4.0] but unmarshalled CNIVersion is \"0.2.0\"")
    );
    assert_eq!(
        prev(Some("1.0.0"), "0.2.0").unwrap_err(),
        format!("{refusal} [0.1.0 0.2.0] but unmarshalled CNIVersion is \"1.0.0\"")
    );
    let missing = with("x", Value::Null).required_prev_result().unwrap_err();
    assert_eq!((missing.code, missing.msg.as_str()), (Code::InvalidConfig, "Required prevResult missing"));
}

#[test]
fn no_word_on_attachments_is_not_an_empty_list() {
    let list = json!([{ "containerID": "c1", "ifname": "eth0" }, { "ContainerID": "a b", "IfName": "x/y" }]);
    let id = |container: &str, ifname: &str| AttachmentId {
        container_id: container.into(),
        ifname: ifname.into(),
    };
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        assert_eq!(with(key, list.clone()).valid_attachments, Some(vec![id("c1", "eth0"), id("a b", "x/y")]));
        assert_eq!(with(key, json!([])).valid_attachments, Some(vec![]));
        assert_eq!(with(key, Value::Null).valid_attachments, Some(vec![]));
    }
    let failure = with("x", Value::Null).required_valid_attachments().unwrap_err();
    assert_eq!(failure.code, Code::InvalidConfig);
    assert_eq!(failure.msg, "cni.dev/valid-attachments is missing, so nothing can be collected");
}

#[test]
fn a_plugins_own_keys_are_read_with_the_place_of_errors() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Own {
        mtu: Option<u32>,
    }
    assert_eq!(with("MTU", json!(9000)).conf::<Own>(), Ok(Own { mtu: Some(9000) }));
    let text = |failure: Failure| format!("{} {failure}", failure.code.number());
    let bad = with("mtu", json!("x")).conf::<Own>().unwrap_err();
    assert_eq!(text(bad), "7 mtu: invalid type: string \"x\", expected u32");
    let bad = with("ipam", json!({ "mtu": "x" })).ipam::<Own>().unwrap_err();
    assert_eq!(text(bad), "7 ipam.mtu: invalid type: string \"x\", expected u32");
    let bad = with("x", Value::Null).ipam::<Own>().unwrap_err();
    assert_eq!(text(bad), "7 IPAM config missing 'ipam' key");
    let bad = with("runtimeConfig", json!({ "ips": [1] })).capability::<Vec<String>>("ips").unwrap_err();
    assert_eq!(text(bad), "7 runtimeConfig.ips[0]: invalid type: integer `1`, expected a string");
    let bad = with("args", json!({ "cni": { "ips": 1 } })).cni_arg::<Vec<String>>("ips").unwrap_err();
    assert_eq!(text(bad), "7 args.cni.ips: invalid type: integer `1`, expected a sequence");
}

#[test]
fn old_versions_have_room_for_one_address_of_a_family() {
    let addresses =
        |list: &[&str]| -> Vec<IpNetwork> { list.iter().map(|text| text.parse().unwrap()).collect() };
    let conf = |version: &str| parse(&json!({ "cniVersion": version, "name": "n" })).unwrap();
    let two = addresses(&["10.0.0.1/8", "10.0.0.2/8"]);
    for version in ["0.1.0", "0.2.0"] {
        conf(version).allows_addresses(addresses(&["10.0.0.1/8", "fd00::1/8"])).unwrap();
        let failure = conf(version).allows_addresses(two.clone()).unwrap_err();
        assert_eq!(
            failure.msg,
            format!("CNI version {version} does not support more than 1 address per family")
        );
        assert!(conf(version).allows_addresses(addresses(&["fd00::1/8", "fd00::2/8"])).is_err());
    }
    conf("0.3.0").allows_addresses(two).unwrap();
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        drop(NetConf::parse(&bytes));
    }

    #[test]
    fn any_keys_are_read_or_refused(
        name in r#""[a-z%]{0,3}"|1|null"#,
        version in r#""[0-9.]{0,5}"|1|null"#,
        ipam in r#"\{"type":("[a-z]?"|1|null)\}|3|null"#,
        list in r#"\[(\{"containerID":("a"|1),"ifname":null\}|3)?\]|null|\{\}"#,
        dns in r#"\{"(dns|search)":(\[("a"|2)?\]|null)\}|3"#,
    ) {
        let text = format!(
            r#"{{"name":{name},"cniVersion":{version},"ipam":{ipam},"cni.dev/attachments":{list},"dns":{dns},"prevResult":{dns}}}"#
        );
        if let Ok(conf) = NetConf::parse(text.as_bytes()) {
            drop(conf.prev_result());
        }
    }
}
