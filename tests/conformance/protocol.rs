//! What the specification says of every plugin: environment, standard input, versions, errors.

use serde_json::{Value, json};
use weft_testkit::PluginCall;

use crate::suite::{Done, Host};

const KINDS: [&str; 4] = ["bridge", "loopback", "host-local", "static"];
const CONF: &str = r#"{"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0"}"#;

/// Asserts that plugins say that they understand every version before 1.1.0.
fn has_every_version(host: &Host, kinds: &[&str]) -> Done {
    for kind in kinds {
        let answer = host.plugin(kind).conf(r#"{"cniVersion": "1.0.0"}"#).version();
        let supported = answer.expect_json()["supportedVersions"].clone();
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            assert!(
                supported.as_array().unwrap().contains(&version.into()),
                "{kind} lacks {version}: {supported}"
            );
        }
    }
    Ok(())
}

pub(crate) fn version_lists_every_version_up_to_1_0_0(host: &Host) -> Done {
    let main = ["bridge", "ptp", "macvlan", "ipvlan", "vlan", "host-device", "loopback"];
    has_every_version(host, &main)?;
    has_every_version(host, &["host-local", "static", "dhcp", "tuning", "portmap", "sbr"])
}

pub(crate) fn bandwidth_understands_every_version(host: &Host) -> Done {
    has_every_version(host, &["bandwidth"])
}

pub(crate) fn firewall_understands_every_version(host: &Host) -> Done {
    has_every_version(host, &["firewall"])
}

pub(crate) fn vrf_understands_every_version(host: &Host) -> Done {
    has_every_version(host, &["vrf"])
}

pub(crate) fn version_lists_1_1_0(host: &Host) -> Done {
    for kind in KINDS {
        let answer = host.plugin(kind).conf("").version().expect_json();
        assert_eq!(answer["cniVersion"], "1.1.0");
        assert!(
            answer["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")),
            "{kind}: {answer}"
        );
    }
    Ok(())
}

pub(crate) fn without_a_command_it_says_what_it_is(host: &Host) -> Done {
    for kind in KINDS {
        let said = host.plugin(kind).bare();
        assert_eq!(said.expect_ok(), "", "stdout is the protocol");
        assert!(said.stderr.contains(&format!("CNI {kind} plugin")), "{said}");
    }
    Ok(())
}

pub(crate) fn all_missing_variables_are_named_at_once(host: &Host) -> Done {
    let id = "CNI_CONTAINERID";
    let cases: [(&str, &[&str], &str); 5] = [
        ("ADD", &[id], "CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("ADD", &[], "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
        ("CHECK", &[id, "CNI_PATH"], "CNI_NETNS,CNI_IFNAME"),
        ("DEL", &[], "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
        ("DEL", &["CNI_PATH", "CNI_IFNAME"], "CNI_CONTAINERID"),
    ];
    for (verb, given, missing) in cases {
        let mut call = host.plugin("bridge").conf(CONF).env("CNI_COMMAND", verb);
        for key in given {
            call = call.env(key, "something");
        }
        assert_eq!(
            call.bare().expect_error(4)["msg"],
            format!("required env variables [{missing}] missing"),
            "{verb}"
        );
    }
    Ok(())
}

pub(crate) fn gc_needs_the_path(host: &Host) -> Done {
    let call = host.plugin("bridge").conf(CONF).env("CNI_COMMAND", "GC").bare();
    assert_eq!(call.expect_error(4)["msg"], "required env variables [CNI_PATH] missing");
    Ok(())
}

pub(crate) fn an_empty_variable_is_a_missing_one(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("bridge").conf(CONF).netns("").ifname("").add(&red);
    assert_eq!(call.expect_error(4)["msg"], "required env variables [CNI_NETNS,CNI_IFNAME] missing");
    Ok(())
}

pub(crate) fn an_unknown_command_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("bridge").conf(CONF).env("CNI_COMMAND", "NOPE").add(&red);
    assert_eq!(call.expect_error(4)["msg"], "unknown CNI_COMMAND: NOPE");
    Ok(())
}

pub(crate) fn a_bad_container_id_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let error = host.plugin("bridge").conf(CONF).id("some-%%container-id").add(&red).expect_error(4);
    assert_eq!(error["msg"], "invalid characters in containerID");
    assert_eq!(error["details"], "some-%%container-id");
    Ok(())
}

pub(crate) fn a_bad_interface_name_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let cases = [
        ("abcdefghijklmnop", "interface name is too long"),
        (".", "interface name is . or .."),
        ("..", "interface name is . or .."),
        ("a/b", "interface name contains / or : or whitespace characters"),
        ("a:b", "interface name contains / or : or whitespace characters"),
        ("a b", "interface name contains / or : or whitespace characters"),
        ("a\tb", "interface name contains / or : or whitespace characters"),
    ];
    for (name, message) in cases {
        let error = host.plugin("bridge").conf(CONF).ifname(name).add(&red).expect_error(4);
        assert_eq!(error["msg"], message, "{name:?}");
    }
    Ok(())
}

fn refused(host: &Host, conf: &str, code: u64) -> Value {
    let red = host.lab.container("red");
    let error = host.plugin("bridge").conf(conf).add(&red).expect_error(code);
    assert!(!host.lab.has_link("br0"), "refused, and yet it made the bridge");
    error
}

pub(crate) fn what_is_no_json_is_refused(host: &Host) -> Done {
    let error = refused(host, "{\"name\": ", 6);
    assert!(error["msg"].as_str().unwrap().starts_with("error unmarshall network config: "), "{error}");
    Ok(())
}

pub(crate) fn what_is_no_object_is_refused(host: &Host) -> Done {
    refused(host, "[1, 2]", 6);
    Ok(())
}

pub(crate) fn a_network_needs_a_name(host: &Host) -> Done {
    let error = refused(host, r#"{"cniVersion": "1.0.0", "type": "bridge", "bridge": "br0"}"#, 7);
    assert_eq!(error["msg"], "missing network name");
    Ok(())
}

pub(crate) fn a_bad_network_name_is_refused(host: &Host) -> Done {
    let error =
        refused(host, r#"{"cniVersion": "1.0.0", "name": "n/1", "type": "bridge", "bridge": "br0"}"#, 7);
    assert_eq!(error["msg"], "invalid characters found in network name");
    assert_eq!(error["details"], "n/1");
    Ok(())
}

pub(crate) fn an_unknown_version_is_refused(host: &Host) -> Done {
    let error =
        refused(host, r#"{"cniVersion": "9.9.9", "name": "n1", "type": "bridge", "bridge": "br0"}"#, 1);
    assert_eq!(error["msg"], "incompatible CNI versions");
    let details = error["details"].as_str().unwrap();
    assert!(
        details.starts_with(r#"config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0""#),
        "{details}"
    );
    Ok(())
}

pub(crate) fn check_needs_0_4_0(host: &Host) -> Done {
    let red = host.lab.container("red");
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1"] {
        let conf = json!({"cniVersion": version, "name": "n1", "type": "bridge", "bridge": "br0"});
        let error = host.plugin("bridge").json(&conf).check(&red).expect_error(1);
        assert_eq!(error["msg"], "config version does not allow CHECK", "{version}");
    }
    Ok(())
}

pub(crate) fn gc_and_status_need_1_1_0(host: &Host) -> Done {
    let conf = host.plugin("bridge").conf(CONF);
    assert_eq!(conf.gc(&[]).expect_error(1)["msg"], "config version does not allow GC");
    assert_eq!(conf.status().expect_error(1)["msg"], "config version does not allow STATUS");
    Ok(())
}

pub(crate) fn an_error_names_its_version(host: &Host) -> Done {
    let error =
        refused(host, r#"{"cniVersion": "1.0.0", "name": "n/1", "type": "bridge", "bridge": "br0"}"#, 7);
    assert_eq!(error["cniVersion"], "1.0.0");
    Ok(())
}

fn on_own_namespace(host: &Host) -> PluginCall<'_> {
    host.plugin("bridge").conf(CONF).netns("/proc/self/ns/net")
}

pub(crate) fn its_own_namespace_is_refused_before_anything_is_done(host: &Host) -> Done {
    let red = host.lab.container("red");
    let before = host.lab.snapshot();
    let error = on_own_namespace(host).add(&red).expect_error(8);
    assert_eq!(error["msg"], "plugin's netns and netns from CNI_NETNS should not be the same");
    host.lab.assert_restored(&before);

    // DEL would take a link of the host's.
    host.lab.ip("link add eth0 type veth peer name other");
    let before = host.lab.snapshot();
    let error = on_own_namespace(host).del(&red).expect_error(8);
    assert_eq!(error["msg"], "plugin's netns and netns from CNI_NETNS should not be the same");
    host.lab.assert_restored(&before);
    Ok(())
}

pub(crate) fn its_own_namespace_is_accepted_when_told_so(host: &Host) -> Done {
    let red = host.lab.container("red");
    for word in ["1", "true", "TRUE"] {
        on_own_namespace(host).env("CNI_NETNS_OVERRIDE", word).add(&red).expect_ok();
        assert!(host.lab.has_link("eth0"));
        on_own_namespace(host).env("CNI_NETNS_OVERRIDE", word).del(&red).expect_ok();
        assert!(!host.lab.has_link("eth0"));
    }
    Ok(())
}

pub(crate) fn keys_match_whatever_their_case(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = json!({
        "CNIVersion": "1.0.0", "Name": "n1", "Type": "bridge", "BRIDGE": "br9", "MTU": 1400,
        "IPAM": {"Type": "host-local", "DataDir": host.lab.path("leases"), "Ranges": [[{"Subnet": "10.1.2.0/24"}]]},
    });
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    assert!(host.lab.has_link("br9"));
    assert_eq!(red.link("eth0")["mtu"], 1400);
    assert_eq!(red.addresses("eth0"), ["10.1.2.2/24"]);
    Ok(())
}

pub(crate) fn without_a_version_it_is_0_1_0(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = json!({
        "name": "n1", "type": "bridge", "bridge": "br9",
        "ipam": {"type": "host-local", "dataDir": host.lab.path("leases"), "ranges": [[{"subnet": "10.1.2.0/24"}]]},
    });
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    assert_eq!(
        (&result["cniVersion"], &result["ip4"]["ip"]),
        (&json!("0.1.0"), &json!("10.1.2.2/24")),
        "{result}"
    );
    assert!(result.get("ips").is_none() && result.get("interfaces").is_none(), "{result}");
    Ok(())
}

pub(crate) fn null_means_absent(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = json!({
        "cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0", "mtu": null, "vlan": null,
        "ipam": null, "dns": null, "args": null, "runtimeConfig": null, "prevResult": null,
    });
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    assert!(red.has_link("eth0"));
    Ok(())
}

pub(crate) fn a_number_in_quotes_is_no_number(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = r#"{"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0", "mtu": "1400"}"#;
    let refused = host.plugin("bridge").conf(conf).add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("mtu"), "{refused}");
    Ok(())
}

pub(crate) fn what_follows_the_object_is_an_error(host: &Host) -> Done {
    let red = host.lab.container("red");
    assert_ne!(host.plugin("bridge").conf(format!("{CONF} x")).add(&red).code, 0);
    Ok(())
}

pub(crate) fn a_result_is_indented_by_four_and_ends_without_a_newline(host: &Host) -> Done {
    let red = host.lab.container("red");
    let added = host.plugin("bridge").conf(CONF).add(&red);
    let text = added.expect_ok();
    assert!(text.starts_with("{\n    \"cniVersion\": \"1.0.0\","), "{text}");
    assert!(text.ends_with("\n}"), "{text:?}");
    Ok(())
}

pub(crate) fn only_add_and_version_print(host: &Host) -> Done {
    let red = host.lab.container("red");
    let result = host.plugin("bridge").conf(with_addresses(host)).add(&red).expect_json();
    let call = host.plugin("bridge").conf(with_addresses(host)).prev_result(&result);
    assert_eq!(call.check(&red).expect_ok(), "");
    assert_eq!(call.del(&red).expect_ok(), "");
    Ok(())
}

fn with_addresses(host: &Host) -> String {
    let mut conf: Value = serde_json::from_str(CONF).unwrap();
    conf["ipam"] = host.ipam(&["10.1.2.0/24"]);
    conf.to_string()
}

pub(crate) fn unknown_args_are_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("bridge").conf(CONF).args("K8S_POD_NAME=x").add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains(r#"ARGS: unknown args [\"K8S_POD_NAME=x\"]"#), "{refused}");
    Ok(())
}

pub(crate) fn unknown_args_are_ignored_on_request(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bridge")
        .conf(CONF)
        .args("IgnoreUnknown=1;K8S_POD_NAME=x;K8S_POD_UID=y")
        .add(&red)
        .expect_ok();
    Ok(())
}

pub(crate) fn a_pair_without_a_sign_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("bridge").conf(CONF).args("IgnoreUnknown=1;rubbish").add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains(r#"ARGS: invalid pair \"rubbish\""#), "{refused}");
    Ok(())
}

pub(crate) fn a_missing_address_plugin_is_named(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = r#"{"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0", "ipam": {"type": "nobody"}}"#;
    let refused = host.plugin("bridge").conf(conf).add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains(r#"failed to find plugin \"nobody\" in path ["#), "{refused}");
    Ok(())
}

crate::suite::stories! { protocol:
    version_lists_every_version_up_to_1_0_0
    bandwidth_understands_every_version
    firewall_understands_every_version
    vrf_understands_every_version
    version_lists_1_1_0
    without_a_command_it_says_what_it_is
    all_missing_variables_are_named_at_once
    gc_needs_the_path
    an_empty_variable_is_a_missing_one
    an_unknown_command_is_refused
    a_bad_container_id_is_refused
    a_bad_interface_name_is_refused
    what_is_no_json_is_refused
    what_is_no_object_is_refused
    a_network_needs_a_name
    a_bad_network_name_is_refused
    an_unknown_version_is_refused
    check_needs_0_4_0
    gc_and_status_need_1_1_0
    an_error_names_its_version
    its_own_namespace_is_refused_before_anything_is_done
    its_own_namespace_is_accepted_when_told_so
    keys_match_whatever_their_case
    without_a_version_it_is_0_1_0
    null_means_absent
    a_number_in_quotes_is_no_number
    what_follows_the_object_is_an_error
    a_result_is_indented_by_four_and_ends_without_a_newline
    only_add_and_version_print
    unknown_args_are_refused
    unknown_args_are_ignored_on_request
    a_pair_without_a_sign_is_refused
    a_missing_address_plugin_is_named
}
