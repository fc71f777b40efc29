//! `host-local`: addresses from ranges, one file per address.

use serde_json::{Value, json};
use weft_testkit::{Container, Output};

use crate::suite::{Done, Host};

fn conf(host: &Host, version: &str, ipam: Value) -> Value {
    let mut ipam = ipam;
    ipam["type"] = json!("host-local");
    ipam["dataDir"] = json!(host.lab.path("leases"));
    json!({"cniVersion": version, "name": "n1", "type": "bridge", "ipam": ipam})
}

fn subnet(text: &str) -> Value {
    json!({"ranges": [[{"subnet": text}]]})
}

fn add(host: &Host, ipam: Value, red: &Container) -> Output {
    host.plugin("host-local").json(&conf(host, "1.0.0", ipam)).add(red)
}

#[track_caller]
fn address(output: &Output) -> String {
    output.expect_json()["ips"][0]["address"].as_str().unwrap().to_string()
}

fn round_trip(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    let ipam = json!({
        "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "1.1.1.1"}],
    });
    let call = host.plugin("host-local").json(&conf(host, version, ipam));
    let result = call.add(&red).expect_json();
    match version {
        "0.1.0" | "0.2.0" => {
            assert_eq!(result["ip4"]["ip"], "10.1.2.2/24");
            assert_eq!(result["ip4"]["gateway"], "10.1.2.1");
            assert_eq!(result["ip6"]["ip"], "2001:db8:1::2/64");
        }
        _ => {
            assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
            assert_eq!(result["ips"][0]["gateway"], "10.1.2.1");
            assert_eq!(result["ips"][1]["address"], "2001:db8:1::2/64");
            assert_eq!(result["ips"][1]["gateway"], "2001:db8:1::1");
            assert_eq!(result["routes"][1], json!({"dst": "192.168.0.0/16", "gw": "1.1.1.1"}));
            assert!(result["interfaces"].is_null());
        }
    }
    assert_eq!(host.lab.read("leases/n1/10.1.2.2"), "red\r\neth0");
    assert_eq!(host.lab.read("leases/n1/2001:db8:1::2"), "red\r\neth0");
    assert_eq!(host.lab.read("leases/n1/last_reserved_ip.0"), "10.1.2.2");
    assert_eq!(host.lab.read("leases/n1/last_reserved_ip.1"), "2001:db8:1::2");

    call.del(&red).expect_ok();
    assert!(host.leases().is_empty(), "{:?}", host.leases());
    assert_eq!(host.lab.read("leases/n1/last_reserved_ip.0"), "10.1.2.2");
    Ok(())
}

crate::suite::round_trips!();

pub(crate) fn the_old_single_range_is_understood(host: &Host) -> Done {
    let red = host.lab.container("red");
    let ipam = json!({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.17", "gateway": "10.1.2.30"});
    let result = add(host, ipam, &red).expect_json();
    assert_eq!(result["ips"][0], json!({"address": "10.1.2.9/24", "gateway": "10.1.2.30"}));
    Ok(())
}

pub(crate) fn a_second_interface_gets_the_next_address(host: &Host) -> Done {
    let red = host.lab.container("red");
    assert_eq!(address(&add(host, subnet("10.1.2.0/24"), &red)), "10.1.2.2/24");
    let second = host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24"))).ifname("eth1");
    assert_eq!(address(&second.add(&red)), "10.1.2.3/24");
    second.del(&red).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2"], "DEL of eth1 took eth0's address");
    Ok(())
}

pub(crate) fn the_same_interface_twice_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    add(host, subnet("10.1.2.0/24"), &red).expect_ok();
    let again = add(host, subnet("10.1.2.0/24"), &red);
    assert_ne!(again.code, 0);
    assert!(
        again.stdout.contains("10.1.2.2 has been allocated to red, duplicate allocation is not allowed"),
        "{again}"
    );
    assert_eq!(host.leases(), ["10.1.2.2"]);
    Ok(())
}

pub(crate) fn addresses_go_round(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/29")));
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(address(&call.add(&red)));
        call.del(&red).expect_ok();
    }
    let wanted = [
        "10.1.2.2/29",
        "10.1.2.3/29",
        "10.1.2.4/29",
        "10.1.2.5/29",
        "10.1.2.6/29",
        "10.1.2.2/29",
        "10.1.2.3/29",
    ];
    assert_eq!(seen, wanted);
    Ok(())
}

pub(crate) fn a_full_range_says_so(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = |id: &str| host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/30"))).id(id);
    assert_eq!(address(&call("a").add(&red)), "10.1.2.2/30");
    let full = call("b").add(&red);
    assert_ne!(full.code, 0);
    let message = "failed to allocate for range 0: no IP addresses available in range set: 10.1.2.1-10.1.2.2";
    assert!(full.stdout.contains(message), "{full}");
    call("a").del(&red).expect_ok();
    assert_eq!(address(&call("b").add(&red)), "10.1.2.2/30");
    Ok(())
}

pub(crate) fn a_failure_in_the_second_range_frees_the_first(host: &Host) -> Done {
    let red = host.lab.container("red");
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/30"}]]});
    let call = |id: &str| host.plugin("host-local").json(&conf(host, "1.0.0", ipam.clone())).id(id);
    call("a").add(&red).expect_ok();
    assert_ne!(call("b").add(&red).code, 0);
    assert_eq!(host.leases(), ["10.1.2.2", "10.1.3.2"]);
    Ok(())
}

pub(crate) fn an_address_can_be_asked_for_in_three_ways(host: &Host) -> Done {
    let red = host.lab.container("red");
    let base = conf(host, "1.0.0", subnet("10.1.2.0/24"));
    let by_args = host.plugin("host-local").json(&base).args("IP=10.1.2.88").id("a");
    assert_eq!(address(&by_args.add(&red)), "10.1.2.88/24");

    let mut by_network = base.clone();
    by_network["args"] = json!({"cni": {"ips": ["10.1.2.89"]}});
    assert_eq!(address(&host.plugin("host-local").json(&by_network).id("b").add(&red)), "10.1.2.89/24");

    let mut by_runtime = base;
    by_runtime["runtimeConfig"] = json!({"ips": ["10.1.2.90/24"]});
    assert_eq!(address(&host.plugin("host-local").json(&by_runtime).id("c").add(&red)), "10.1.2.90/24");
    Ok(())
}

pub(crate) fn a_request_outside_every_range_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call =
        host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24"))).args("IP=10.9.9.9");
    let refused = call.add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("failed to allocate all requested IPs: 10.9.9.9"), "{refused}");
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn the_gateway_is_never_given_away(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call =
        host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24"))).args("IP=10.1.2.1");
    let refused = call.add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("requested ip 10.1.2.1 is subnet's gateway"), "{refused}");
    Ok(())
}

pub(crate) fn a_taken_address_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = |id: &str| {
        host.plugin("host-local")
            .json(&conf(host, "1.0.0", subnet("10.1.2.0/24")))
            .args("IP=10.1.2.88")
            .id(id)
    };
    call("a").add(&red).expect_ok();
    let refused = call("b").add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("10.1.2.88"), "{refused}");
    assert_eq!(host.leases(), ["10.1.2.88"]);
    Ok(())
}

pub(crate) fn the_runtime_can_give_the_ranges(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf(host, "1.0.0", subnet("10.1.2.0/24"));
    conf["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.7.7.0/24", "rangeStart": "10.7.7.50"}]]});
    let result = host.plugin("host-local").json(&conf).add(&red).expect_json();
    assert_eq!(result["ips"][0]["address"], "10.7.7.50/24");
    assert_eq!(result["ips"][1]["address"], "10.1.2.2/24");
    Ok(())
}

pub(crate) fn resolv_conf_becomes_dns(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.write(
        "resolv.conf",
        "# a comment\nnameserver 192.0.2.3\nsearch a.example b.example\ndomain c.example\noptions ndots:2\n",
    );
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}]], "resolvConf": host.lab.path("resolv.conf")});
    let dns = add(host, ipam, &red).expect_json()["dns"].take();
    let wanted = json!({"nameservers": ["192.0.2.3"], "domain": "c.example", "search": ["a.example", "b.example"], "options": ["ndots:2"]});
    assert_eq!(dns, wanted);
    Ok(())
}

pub(crate) fn del_of_what_never_was_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24"))).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn del_frees_a_reservation_of_the_oldest_format(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.write("leases/n1/10.1.2.5", "red");
    host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24"))).del(&red).expect_ok();
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn del_ignores_white_space_in_a_reservation(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.write("leases/n1/10.1.2.5", " red\r\neth0\n\n");
    host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24"))).del(&red).expect_ok();
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn what_another_made_is_not_given_twice(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.write("leases/n1/10.1.2.2", "other\r\neth0");
    assert_eq!(address(&add(host, subnet("10.1.2.0/24"), &red)), "10.1.2.3/24");
    Ok(())
}

pub(crate) fn check_misses_a_lost_reservation(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24")));
    let result = call.add(&red).expect_json();
    let call =
        host.plugin("host-local").json(&conf(host, "1.0.0", subnet("10.1.2.0/24"))).prev_result(&result);
    call.check(&red).expect_ok();
    std::fs::remove_file(host.lab.path("leases/n1/10.1.2.2")).unwrap();
    let refused = call.check(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains("Failed to find address added by container red"), "{refused}");
    Ok(())
}

pub(crate) fn gc_frees_what_is_not_valid(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = |id: &str| host.plugin("host-local").json(&conf(host, "1.1.0", subnet("10.1.2.0/24"))).id(id);
    call("a").add(&red).expect_ok();
    call("b").add(&red).expect_ok();
    call("x").gc(&[("b", "eth0")]).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.3"]);
    assert_eq!(host.lab.read("leases/n1/last_reserved_ip.0"), "10.1.2.3");
    Ok(())
}

pub(crate) fn status_says_when_a_range_is_full(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("host-local").json(&conf(host, "1.1.0", subnet("10.1.2.0/30")));
    call.status().expect_ok();
    call.add(&red).expect_ok();
    call.status().expect_error(50);
    Ok(())
}

fn refused(host: &Host, version: &str, ipam: Value, message: &str) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("host-local").json(&conf(host, version, ipam)).add(&red);
    assert_ne!(refused.code, 0);
    assert!(refused.stdout.contains(message), "wanted {message:?}: {refused}");
    assert!(host.leases().is_empty());
    Ok(())
}

pub(crate) fn no_ranges_are_refused(host: &Host) -> Done {
    refused(host, "1.0.0", json!({}), "no IP ranges specified")
}

pub(crate) fn a_network_too_small_is_refused(host: &Host) -> Done {
    refused(host, "1.0.0", subnet("10.1.2.0/31"), "Network 10.1.2.0/31 too small to allocate from")
}

pub(crate) fn host_bits_are_refused(host: &Host) -> Done {
    let message = "Network has host bits set. For a subnet mask of length 24 the network address is 10.1.2.0";
    refused(host, "1.0.0", subnet("10.1.2.7/24"), message)
}

pub(crate) fn a_start_outside_is_refused(host: &Host) -> Done {
    let ipam = json!({"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.9"});
    refused(host, "1.0.0", ipam, "RangeStart 10.1.3.9 not in network 10.1.2.0/24")
}

pub(crate) fn an_end_outside_is_refused(host: &Host) -> Done {
    let ipam = json!({"subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.9"});
    refused(host, "1.0.0", ipam, "RangeEnd 10.1.3.9 not in network 10.1.2.0/24")
}

pub(crate) fn overlapping_ranges_are_refused(host: &Host) -> Done {
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.2.0/25"}]]});
    refused(host, "1.0.0", ipam, "range set 0 overlaps with 1")
}

pub(crate) fn families_do_not_mix_in_a_set(host: &Host) -> Done {
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "2001:db8::/64"}]]});
    refused(host, "1.0.0", ipam, "mixed address families")
}

pub(crate) fn an_old_version_takes_one_address_per_family(host: &Host) -> Done {
    let ipam = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]]});
    refused(host, "0.2.0", ipam, "CNI version 0.2.0 does not support more than 1 address per family")
}

crate::suite::stories! { host_local: round_trips
    the_old_single_range_is_understood
    a_second_interface_gets_the_next_address
    the_same_interface_twice_is_refused
    addresses_go_round
    a_full_range_says_so
    a_failure_in_the_second_range_frees_the_first
    an_address_can_be_asked_for_in_three_ways
    a_request_outside_every_range_is_refused
    the_gateway_is_never_given_away
    a_taken_address_is_refused
    the_runtime_can_give_the_ranges
    resolv_conf_becomes_dns
    del_of_what_never_was_succeeds
    del_frees_a_reservation_of_the_oldest_format
    del_ignores_white_space_in_a_reservation
    what_another_made_is_not_given_twice
    check_misses_a_lost_reservation
    gc_frees_what_is_not_valid
    status_says_when_a_range_is_full
    no_ranges_are_refused
    a_network_too_small_is_refused
    host_bits_are_refused
    a_start_outside_is_refused
    an_end_outside_is_refused
    overlapping_ranges_are_refused
    families_do_not_mix_in_a_set
    an_old_version_takes_one_address_per_family
}
