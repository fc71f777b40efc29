//! `static`: addresses that the configuration gives.

use serde_json::{Value, json};

use crate::suite::{Done, Host};

fn conf(version: &str, ipam: Value) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "bridge", "ipam": ipam})
}

fn one() -> Value {
    json!({
        "type": "static",
        "addresses": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.10.5.1"}],
        "dns": {"nameservers": ["8.8.8.8"], "domain": "example.com", "search": ["example.com"]},
    })
}

fn round_trip(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("static").json(&conf(version, one()));
    let result = call.add(&red).expect_json();
    match version {
        "0.1.0" | "0.2.0" => {
            assert_eq!(result["ip4"]["ip"], "10.10.0.1/24");
            assert_eq!(result["ip4"]["gateway"], "10.10.0.254");
            assert_eq!(result["ip4"]["routes"][1], json!({"dst": "192.168.0.0/16", "gw": "10.10.5.1"}));
        }
        _ => {
            assert_eq!(result["ips"][0]["address"], "10.10.0.1/24");
            assert_eq!(result["ips"][0]["gateway"], "10.10.0.254");
            assert_eq!(result["routes"][1], json!({"dst": "192.168.0.0/16", "gw": "10.10.5.1"}));
        }
    }
    assert_eq!(result["dns"]["nameservers"], json!(["8.8.8.8"]));
    assert_eq!(result["dns"]["domain"], "example.com");
    call.del(&red).expect_ok();
    Ok(())
}

crate::suite::round_trips!();

pub(crate) fn del_of_what_never_was_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("static").json(&conf("1.0.0", one())).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn args_add_addresses_and_gateways(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("static").json(&conf("1.0.0", json!({"type": "static"})));
    let call = call.args("IP=10.10.0.1/24,10.11.0.1/24;GATEWAY=10.10.0.254,10.11.0.254");
    let result = call.add(&red).expect_json();
    assert_eq!(result["ips"][0], json!({"address": "10.10.0.1/24", "gateway": "10.10.0.254"}));
    assert_eq!(result["ips"][1], json!({"address": "10.11.0.1/24", "gateway": "10.11.0.254"}));
    Ok(())
}

pub(crate) fn args_of_the_network_replace_the_addresses(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0", one());
    conf["args"] = json!({"cni": {"ips": ["10.10.0.7/24"]}});
    let result = host.plugin("static").json(&conf).add(&red).expect_json();
    assert_eq!(result["ips"].as_array().unwrap().len(), 1);
    assert_eq!(result["ips"][0]["address"], "10.10.0.7/24");
    Ok(())
}

pub(crate) fn the_runtime_replaces_the_addresses(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0", one());
    conf["args"] = json!({"cni": {"ips": ["10.10.0.7/24"]}});
    conf["runtimeConfig"] = json!({"ips": ["10.10.0.8/24"]});
    let result = host.plugin("static").json(&conf).add(&red).expect_json();
    assert_eq!(result["ips"].as_array().unwrap().len(), 1);
    assert_eq!(result["ips"][0]["address"], "10.10.0.8/24");
    Ok(())
}

fn refused(host: &Host, ipam: Value, message: &str) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("static").json(&conf("1.0.0", ipam)).add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains(message), "wanted {message:?}: {refused}");
    Ok(())
}

pub(crate) fn an_address_without_a_length_is_refused(host: &Host) -> Done {
    let ipam = json!({"type": "static", "addresses": [{"address": "10.10.0.1"}]});
    refused(host, ipam, "the 'address' field is expected to be in CIDR notation, got: '10.10.0.1'")
}

pub(crate) fn a_missing_section_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "bridge"});
    let refused = host.plugin("static").json(&conf).add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("IPAM config missing 'ipam' key"), "{refused}");
    Ok(())
}

pub(crate) fn an_old_version_takes_one_address_per_family(host: &Host) -> Done {
    let red = host.lab.container("red");
    let ipam =
        json!({"type": "static", "addresses": [{"address": "10.10.0.1/24"}, {"address": "10.11.0.1/24"}]});
    let refused = host.plugin("static").json(&conf("0.2.0", ipam)).add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("does not support more than 1 address per family"), "{refused}");
    Ok(())
}

pub(crate) fn check_compares_the_gateway(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("static").json(&conf("1.0.0", one()));
    let result = call.add(&red).expect_json();
    host.plugin("static").json(&conf("1.0.0", one())).prev_result(&result).check(&red).expect_ok();
    let mut other = result;
    other["ips"][0]["gateway"] = json!("10.10.0.253");
    let refused = host.plugin("static").json(&conf("1.0.0", one())).prev_result(&other).check(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("static: Failed to match addr"), "{refused}");
    Ok(())
}

crate::suite::stories! { static_ipam: round_trips
    del_of_what_never_was_succeeds
    args_add_addresses_and_gateways
    args_of_the_network_replace_the_addresses
    the_runtime_replaces_the_addresses
    an_address_without_a_length_is_refused
    a_missing_section_is_refused
    an_old_version_takes_one_address_per_family
    check_compares_the_gateway
}
