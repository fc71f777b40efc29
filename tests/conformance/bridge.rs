//! `bridge`: what ADD makes.

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::suite::{Done, Host, versions};

pub(crate) fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "bridge", "bridge": "br0"})
}

pub(crate) fn gateway(host: &Host, version: &str, subnets: &[&str]) -> Value {
    let mut conf = conf(version);
    conf["isDefaultGateway"] = json!(true);
    conf["ipam"] = host.ipam(subnets);
    conf
}

pub(crate) fn refused(host: &Host, conf: &Value, message: &str) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("bridge").json(conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains(message), "wanted {message:?}: {refused}");
    assert!(host.leases().is_empty());
    Ok(())
}

fn l3(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    let conf = gateway(host, version, &["10.1.2.0/24", "2001:db8:1::/64"]);
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();

    assert_eq!(result["cniVersion"], version);
    if ["0.1.0", "0.2.0"].contains(&version) {
        assert_eq!(result["ip4"]["ip"], "10.1.2.2/24");
        assert_eq!(result["ip4"]["gateway"], "10.1.2.1");
        assert_eq!(result["ip6"]["ip"], "2001:db8:1::2/64");
        assert_eq!(result["dns"], json!({}));
    } else {
        interfaces_are_right(host, &red, &result);
        let macs = [0, 1].map(|index| result["interfaces"][index]["mac"].clone());
        assert_ne!(macs[0], macs[1], "the bridge took its port's address");
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
        assert_eq!(result["ips"][0]["gateway"], "10.1.2.1");
        assert_eq!(result["ips"][0]["interface"], 2);
        assert_eq!(result["ips"][1]["address"], "2001:db8:1::2/64");
        let old = version.starts_with('0');
        assert_eq!(result["ips"][1]["version"], if old { json!("6") } else { Value::Null });
        assert!(result["dns"] == json!({}) || (!old && result["dns"].is_null()), "{result}");
    }
    assert_eq!(red.addresses("eth0"), ["10.1.2.2/24", "2001:db8:1::2/64"]);
    assert!(red.ip("route").contains("default via 10.1.2.1 dev eth0"));
    assert!(red.ip("-6 route").contains("default via 2001:db8:1::1 dev eth0"));
    assert!(red.ping("10.1.2.1"));

    if !["0.1.0", "0.2.0", "0.3.0", "0.3.1"].contains(&version) {
        let check = host.plugin("bridge").json(&conf).prev_result(&result).check(&red);
        assert_eq!(check.expect_ok(), "");
    }
    host.plugin("bridge").json(&conf).del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    assert!(host.lab.has_link("br0"), "the bridge stays");
    assert!(host.leases().is_empty());
    Ok(())
}

fn interfaces_are_right(host: &Host, red: &Container, result: &Value) {
    let interfaces = result["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 3, "{result}");
    assert_eq!(interfaces[0]["name"], "br0");
    assert_eq!(interfaces[0]["mac"], host.lab.ip_json("link show dev br0")[0]["address"]);
    let peer = interfaces[1]["name"].as_str().unwrap();
    assert!(peer.starts_with("veth"), "{peer}");
    let peer_link = host.lab.ip_json(&format!("link show dev {peer}"))[0].take();
    assert_eq!(interfaces[1]["mac"], peer_link["address"]);
    assert_eq!(peer_link["master"], "br0");
    assert!(interfaces[1]["sandbox"].is_null());
    assert_eq!(interfaces[2]["name"], "eth0");
    assert_eq!(interfaces[2]["mac"], red.link("eth0")["address"]);
    assert_eq!(interfaces[2]["sandbox"], json!(red.netns()));
    let links = host.lab.ip_json("link show");
    assert_eq!(
        links.as_array().unwrap().len(),
        3,
        "the host has more than lo, the bridge and one port: {links}"
    );
}

versions! { l3:
    l3_0_1_0 "0.1.0"
    l3_0_2_0 "0.2.0"
    l3_0_3_0 "0.3.0"
    l3_0_3_1 "0.3.1"
    l3_0_4_0 "0.4.0"
    l3_1_0_0 "1.0.0"
    l3_1_1_0 "1.1.0"
}

fn l2(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("bridge").json(&conf(version));
    let added = call.add(&red);
    if ["0.1.0", "0.2.0"].contains(&version) {
        assert_ne!(added.code, 0);
        assert!(added.stdout.contains("cannot convert: no valid IP addresses"), "{added}");
    } else {
        let result = added.expect_json();
        interfaces_are_right(host, &red, &result);
        assert!(result["ips"].is_null());
        assert!(red.addresses("eth0").is_empty());
    }
    call.del(&red).expect_ok();
    assert!(!red.has_link("eth0"));
    Ok(())
}

versions! { l2:
    l2_0_1_0 "0.1.0"
    l2_0_2_0 "0.2.0"
    l2_0_3_0 "0.3.0"
    l2_0_3_1 "0.3.1"
    l2_0_4_0 "0.4.0"
    l2_1_0_0 "1.0.0"
    l2_1_1_0 "1.1.0"
}

pub(crate) fn an_existing_bridge_is_used_as_it_is(host: &Host) -> Done {
    host.lab.ip("link add br0 type bridge");
    let index = host.lab.ip_json("link show dev br0")[0]["ifindex"].clone();
    let red = host.lab.container("red");
    host.plugin("bridge").json(&conf("1.0.0")).add(&red).expect_ok();
    assert_eq!(host.lab.ip_json("link show dev br0")[0]["ifindex"], index);
    Ok(())
}

pub(crate) fn a_link_that_is_no_bridge_is_left_alone(host: &Host) -> Done {
    host.lab.ip("link add br0 type veth peer name br0peer");
    let before = host.lab.snapshot();
    let done = refused(host, &gateway(host, "1.0.0", &["10.1.2.0/24"]), "already exists but is not a bridge");
    host.lab.assert_restored(&before);
    done
}

pub(crate) fn three_subnets_give_three_addresses(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = gateway(host, "1.0.0", &["192.168.0.0/24", "192.168.1.0/24", "fd00:1::/64"]);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    assert_eq!(red.addresses("eth0"), ["192.168.0.2/24", "192.168.1.2/24", "fd00:1::2/64"]);
    for gateway in ["192.168.0.1", "192.168.1.1", "fd00:1::1"] {
        assert!(red.ping(gateway), "{gateway}");
    }
    Ok(())
}

pub(crate) fn the_ipv6_gateway_answers_at_once(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bridge").json(&gateway(host, "1.0.0", &["2001:db8:1::/64"])).add(&red).expect_ok();
    assert!(red.ping("2001:db8:1::1"));
    Ok(())
}

pub(crate) fn containers_reach_each_other_with_the_first_packet(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    host.plugin("bridge").json(&conf).add(&green).expect_ok();
    assert!(red.ping("10.1.2.3"));
    assert!(green.ping("10.1.2.2"));
    Ok(())
}

pub(crate) fn the_bridge_keeps_its_mac_as_ports_come_and_go(host: &Host) -> Done {
    let conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    let mac = || host.lab.ip_json("link show dev br0")[0]["address"].clone();
    let red = host.lab.container("red");
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let first = mac();
    for name in ["a", "b", "c", "d"] {
        host.plugin("bridge").json(&conf).add(&host.lab.container(name)).expect_ok();
        assert_eq!(mac(), first, "after {name} came");
    }
    host.plugin("bridge").json(&conf).del(&red).expect_ok();
    assert_eq!(mac(), first, "after the first left");
    Ok(())
}

pub(crate) fn forwarding_is_on_when_it_is_the_gateway(host: &Host) -> Done {
    let red = host.lab.container("red");
    let keys = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
    for key in keys {
        host.lab.set_sysctl(key, "0");
        assert_eq!(host.lab.sysctl(key), "0");
    }
    let conf = gateway(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    for key in keys {
        assert_eq!(host.lab.sysctl(key), "1", "{key}");
    }
    Ok(())
}

pub(crate) fn a_conflicting_bridge_address_is_refused(host: &Host) -> Done {
    host.lab.ip("link add br0 type bridge");
    host.lab.ip("address add 10.7.7.1/24 dev br0");
    let message = "already has an IP address different from 10.1.2.1/24";
    refused(host, &gateway(host, "1.0.0", &["10.1.2.0/24"]), message)
}

pub(crate) fn a_conflicting_bridge_address_is_replaced_by_force(host: &Host) -> Done {
    host.lab.ip("link add br0 type bridge");
    host.lab.ip("address add 10.7.7.1/24 dev br0");
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["forceAddress"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let addresses = host.lab.ip("-brief -4 address show dev br0");
    assert!(addresses.contains("10.1.2.1/24") && !addresses.contains("10.7.7.1"), "{addresses}");
    Ok(())
}

pub(crate) fn gateways_of_ipv6_subnets_live_together(host: &Host) -> Done {
    host.lab.ip("link add br0 type bridge");
    host.lab.ip("address add 2001:db8:7::1/64 dev br0 nodad");
    let red = host.lab.container("red");
    host.plugin("bridge").json(&gateway(host, "1.0.0", &["2001:db8:1::/64"])).add(&red).expect_ok();
    let addresses = host.lab.ip("-brief -6 address show dev br0");
    assert!(addresses.contains("2001:db8:7::1/64") && addresses.contains("2001:db8:1::1/64"), "{addresses}");
    Ok(())
}

fn mac_of(host: &Host, conf: &Value, args: &str, id: &str) -> Value {
    let red = host.lab.container(id);
    host.plugin("bridge").json(conf).args(args).add(&red).expect_ok();
    red.link("eth0")["address"].clone()
}

pub(crate) fn a_mac_can_be_asked_for_in_three_ways(host: &Host) -> Done {
    let args = "MAC=c2:11:22:33:44:55";
    let mut conf = conf("1.0.0");
    assert_eq!(mac_of(host, &conf, args, "a"), "c2:11:22:33:44:55");
    conf["args"] = json!({"cni": {"mac": "c2:11:22:33:44:66"}});
    assert_eq!(mac_of(host, &conf, args, "b"), "c2:11:22:33:44:66", "args.cni beats CNI_ARGS");
    conf["runtimeConfig"] = json!({"mac": "c2:11:22:33:44:77"});
    assert_eq!(mac_of(host, &conf, args, "c"), "c2:11:22:33:44:77", "runtimeConfig beats args.cni");
    Ok(())
}

pub(crate) fn the_mtu_is_set_on_both_ends(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["mtu"] = json!(1400);
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    assert_eq!(red.link("eth0")["mtu"], 1400);
    for interface in [0, 1] {
        let name = result["interfaces"][interface]["name"].as_str().unwrap();
        assert_eq!(host.lab.ip_json(&format!("link show dev {name}"))[0]["mtu"], 1400, "{name}");
    }
    Ok(())
}

pub(crate) fn the_mtu_is_reported(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.1.0");
    conf["mtu"] = json!(1400);
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    assert_eq!(result["interfaces"][2]["mtu"], 1400, "{result}");
    Ok(())
}

pub(crate) fn the_dns_of_the_network_wins(host: &Host) -> Done {
    host.lab.write("resolv.conf", "nameserver 192.0.2.3\n");
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["ipam"]["resolvConf"] = json!(host.lab.path("resolv.conf"));
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    assert_eq!(result["dns"]["nameservers"], json!(["192.0.2.3"]), "IPAM's, as the network says nothing");

    let green = host.lab.container("green");
    conf["dns"] = json!({"nameservers": ["192.0.2.53"], "search": ["a.example"]});
    let result = host.plugin("bridge").json(&conf).add(&green).expect_json();
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"], "search": ["a.example"]}));
    Ok(())
}

pub(crate) fn an_empty_list_of_servers_is_a_choice(host: &Host) -> Done {
    host.lab.write("resolv.conf", "nameserver 192.0.2.3\n");
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["ipam"]["resolvConf"] = json!(host.lab.path("resolv.conf"));
    conf["dns"] = json!({"nameservers": []});
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    assert!(result["dns"]["nameservers"].as_array().is_none_or(Vec::is_empty), "{result}");
    Ok(())
}

pub(crate) fn routes_of_the_address_plugin_are_set(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24"}, {"dst": "203.0.113.0/24", "gw": "10.1.2.9"}]);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let routes = red.ip("route");
    assert!(routes.contains("198.51.100.0/24 via 10.1.2.1 dev eth0"), "{routes}");
    assert!(routes.contains("203.0.113.0/24 via 10.1.2.9 dev eth0"), "{routes}");
    Ok(())
}

pub(crate) fn the_mtu_of_a_route_is_honoured(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.1.0", &["10.1.2.0/24"]);
    conf["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "mtu": 1300, "advmss": 1200, "priority": 7}]);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let routes = red.ip("route");
    let line = routes.lines().find(|line| line.starts_with("198.51.100.0/24")).unwrap();
    for words in ["mtu 1300", "advmss 1200", "metric 7"] {
        assert!(line.contains(words), "{line}");
    }
    Ok(())
}

crate::suite::stories! { bridge:
    an_existing_bridge_is_used_as_it_is
    a_link_that_is_no_bridge_is_left_alone
    three_subnets_give_three_addresses
    the_ipv6_gateway_answers_at_once
    containers_reach_each_other_with_the_first_packet
    the_bridge_keeps_its_mac_as_ports_come_and_go
    forwarding_is_on_when_it_is_the_gateway
    a_conflicting_bridge_address_is_refused
    a_conflicting_bridge_address_is_replaced_by_force
    gateways_of_ipv6_subnets_live_together
    a_mac_can_be_asked_for_in_three_ways
    the_mtu_is_set_on_both_ends
    the_mtu_is_reported
    the_dns_of_the_network_wins
    an_empty_list_of_servers_is_a_choice
    routes_of_the_address_plugin_are_set
    the_mtu_of_a_route_is_honoured
    l3_0_1_0
    l3_0_2_0
    l3_0_3_0
    l3_0_3_1
    l3_0_4_0
    l3_1_0_0
    l3_1_1_0
    l2_0_1_0
    l2_0_2_0
    l2_0_3_0
    l2_0_3_1
    l2_0_4_0
    l2_1_0_0
    l2_1_1_0
}
