//! What looks odd in the reference plugins, and callers or tests hang on: it stays, here as there.
//!
//! | what | stories that fail where it is otherwise |
//! |---|---|
//! | `CNI_PATH` is required | `protocol`: `all_missing_variables_are_named_at_once`, `gc_needs_the_path` |
//! | no `cniVersion` is 0.1.0 | `protocol`: `without_a_version_it_is_0_1_0` |
//! | code 999 with the sentences | `words`, all; each plugin's stories of what is refused |
//! | `"dns": {}` before 1.0.0 | `bridge`: `l3_0_3_0` to `l3_0_4_0`, and of every plugin that takes an `ipam`; `loopback`: `an_old_result_has_the_old_shape` |
//! | errors as JSON on standard output | here: `errors_are_on_standard_output` |
//! | nothing is printed by DEL, CHECK, GC, STATUS | `protocol`: `only_add_and_version_print`; here: `gc_and_status_print_nothing` |
//! | hairpin and isolation are as the configuration says | `bridge_ports`: `hairpin_is_on_when_asked_for`, `hairpin_is_off_otherwise`, `ports_are_isolated_when_asked_for`; here: `ports_are_not_isolated_otherwise` |
//! | a bridge stays | `bridge`: `l3_...`; here: `the_bridge_stays_with_its_address` |
//! | DEL of `loopback` sets `lo` down | `loopback`: `round_trip_...` |
//! | a device of the host is renamed by way of its alias | `host_device`: `it_is_found_by_name` and its like; here: `a_device_goes_home_by_its_alias` |
//! | the gateway is the first address, and nobody's | `host_local`: `the_gateway_is_never_given_away`, `addresses_go_round` |
//! | addresses go round across DEL, `last_reserved_ip` stays | `host_local`: `addresses_go_round`, `round_trips` |
//! | multicast is not masqueraded | `bridge_masquerade`: `multicast_is_not_masqueraded`, also by iptables and nftables |
//! | `snat` is true unless told | `portmap`: `the_container_reaches_itself_by_ipv4`, `the_host_calls_127_0_0_1`; `without_snat_only_others_call` is the contrary |
//! | chains `CNI-...` with `iptables` | `bridge_masquerade` and `portmap`: `the_iptables_chain_is_the_upstream_name`; `firewall`: `the_rules_are_those_of_the_reference` |
//! | values of `ipMasqBackend` and `backend`, and what a backend does not take | `bridge_masquerade`: `by_iptables`, `by_nftables`, `an_unknown_backend_is_refused`; `portmap`: `an_unknown_backend_is_refused`, `iptables_does_not_speak_nft`, `nftables_does_not_speak_iptables` |
//!
//! Of hairpin and isolation nobody can see whether they were written or are the kernel's own for a new port; nor is the
//! temporary name of a `macvlan` or `ipvlan` to be relied on.

use serde_json::{Value, json};

use crate::bridge::gateway;
use crate::suite::{Done, Host};

pub(crate) fn errors_are_on_standard_output(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0", "vlan": 5000});
    let refused = host.plugin("bridge").json(&conf).add(&red);
    assert_eq!(refused.code, 1, "{refused}");
    let error: Value = serde_json::from_str(&refused.stdout).unwrap();
    let message = error["msg"].as_str().unwrap();
    assert!(message.contains("invalid VLAN ID 5000 (must be between 0 and 4094)"), "{refused}");
    assert!(error["code"].as_u64().is_some_and(|code| code > 0), "{refused}");
    assert!(!refused.stderr.contains("5000"), "{refused}");
    Ok(())
}

pub(crate) fn gc_and_status_print_nothing(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let conf = gateway(host, "1.1.0", &["10.1.2.0/24"]);
    for container in [&red, &green] {
        host.plugin("bridge").json(&conf).add(container).expect_ok();
    }
    assert_eq!(host.plugin("bridge").json(&conf).gc(&[("red", "eth0")]).expect_ok(), "");
    assert_eq!(host.leases(), ["10.1.2.2"], "there was nothing to say anything about");
    assert_eq!(host.plugin("bridge").json(&conf).status().expect_ok(), "");
    Ok(())
}

pub(crate) fn ports_are_not_isolated_otherwise(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    for (container, isolation) in [(&red, Value::Null), (&green, json!(false))] {
        conf["portIsolation"] = isolation;
        host.plugin("bridge").json(&conf).add(container).expect_ok();
    }
    assert!(red.ping("10.1.2.3"));
    Ok(())
}

pub(crate) fn the_bridge_stays_with_its_address(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = |conf: &Value| host.plugin("bridge").json(conf);
    let conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    call(&conf).add(&red).expect_ok();
    let index = || host.lab.ip_json("link show dev br0")[0]["ifindex"].clone();
    let before = index();
    call(&conf).del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    assert_eq!(index(), before);
    let there = host.lab.ip("address show dev br0");
    assert!(there.contains("inet 10.1.2.1/24"), "{there}");
    Ok(())
}

pub(crate) fn a_device_goes_home_by_its_alias(host: &Host) -> Done {
    host.lab.wire();
    let red = host.lab.container("red");
    // As any version of the plugin leaves it: nobody has written down what the device was called.
    let netns = red.netns();
    host.lab.ip(&format!("link set up0 name eth0 alias up0 netns {}", netns.display()));
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "host-device", "device": "up1"});
    host.plugin("host-device").json(&conf).del(&red).expect_ok();
    assert!(host.lab.has_link("up0") && !host.lab.has_link("up1") && !red.has_link("eth0"));
    Ok(())
}

crate::suite::stories! { keep:
    errors_are_on_standard_output
    gc_and_status_print_nothing
    ports_are_not_isolated_otherwise
    the_bridge_stays_with_its_address
    a_device_goes_home_by_its_alias
}
