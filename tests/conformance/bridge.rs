//! `bridge`: what ADD makes.

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::suite::{Done, Host, Lack, versions};

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

fn port_setting(host: &Host, key: &str, value: &Value, setting: &str) -> Value {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf[key] = value.clone();
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    let name = result["interfaces"][1]["name"].as_str().unwrap();
    host.lab.ip_json(&format!("link show dev {name}"))[0]["linkinfo"]["info_slave_data"][setting].clone()
}

pub(crate) fn hairpin_is_on_when_asked_for(host: &Host) -> Done {
    assert_eq!(port_setting(host, "hairpinMode", &json!(true), "hairpin"), true);
    Ok(())
}

pub(crate) fn hairpin_is_off_otherwise(host: &Host) -> Done {
    assert_eq!(port_setting(host, "hairpinMode", &json!(false), "hairpin"), false);
    Ok(())
}

pub(crate) fn ports_are_isolated_when_asked_for(host: &Host) -> Done {
    assert_eq!(port_setting(host, "portIsolation", &json!(true), "isolated"), true);
    Ok(())
}

pub(crate) fn isolated_ports_do_not_reach_each_other(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["portIsolation"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    host.plugin("bridge").json(&conf).add(&green).expect_ok();
    assert!(red.ping("10.1.2.1"), "the gateway is no isolated port");
    assert!(!red.ping("10.1.2.3"));
    Ok(())
}

pub(crate) fn the_bridge_is_promiscuous_when_asked_for(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["promiscMode"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let flags = host.lab.ip_json("link show dev br0")[0]["flags"].take();
    assert!(flags.as_array().unwrap().contains(&json!("PROMISC")), "{flags}");
    Ok(())
}

pub(crate) fn hairpin_and_promiscuous_exclude_each_other(host: &Host) -> Done {
    let mut conf = conf("1.0.0");
    conf["promiscMode"] = json!(true);
    conf["hairpinMode"] = json!(true);
    refused(host, &conf, "cannot set hairpin mode and promiscuous mode at the same time")
}

pub(crate) fn an_interface_that_stays_down_has_no_addresses(host: &Host) -> Done {
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    conf["disableContainerInterface"] = json!(true);
    refused(host, &conf, "cannot use IPAM when DisableContainerInterface flag is set")
}

pub(crate) fn the_container_interface_stays_down_when_asked_for(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["disableContainerInterface"] = json!(true);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    let flags = red.link("eth0")["flags"].clone();
    assert!(!flags.as_array().unwrap().contains(&json!("UP")), "{flags}");
    Ok(())
}

pub(crate) fn vlan_ids_have_a_range(host: &Host) -> Done {
    for vlan in [5000, -100] {
        let mut conf = conf("1.0.0");
        conf["vlan"] = json!(vlan);
        let red = host.lab.container(&format!("red{vlan}"));
        let refused = host.plugin("bridge").json(&conf).add(&red);
        assert_ne!(refused.code, 0);
        let message = format!("invalid VLAN ID {vlan} (must be between 0 and 4094)");
        assert!(refused.stdout.contains(&message), "{refused}");
    }
    Ok(())
}

pub(crate) fn trunks_have_rules(host: &Host) -> Done {
    let cases = [
        (json!([{"minID": 0, "maxID": 10}]), "incorrect trunk minID parameter"),
        (json!([{"minID": 10, "maxID": 5000}]), "incorrect trunk maxID parameter"),
        (json!([{"minID": 20, "maxID": 10}]), "minID is greater than maxID in trunk parameter"),
        (json!([{"maxID": 10}]), "minID and maxID should be configured simultaneously, minID is missing"),
        (json!([{"minID": 10}]), "minID and maxID should be configured simultaneously, maxID is missing"),
        (json!([{"id": 5000}]), "incorrect trunk id parameter"),
    ];
    for (index, (trunk, message)) in cases.iter().enumerate() {
        let mut conf = conf("1.0.0");
        conf["vlanTrunk"] = trunk.clone();
        let red = host.lab.container(&format!("red{index}"));
        let refused = host.plugin("bridge").json(&conf).add(&red);
        assert_ne!(refused.code, 0, "{trunk}");
        assert!(refused.stdout.contains(message), "{trunk}: {refused}");
    }
    Ok(())
}

pub(crate) fn a_vlan_is_the_ports_own(host: &Host) -> Done {
    if !host.lab.has_link_type("bridge vlan_filtering 1") {
        return Err(Lack("a kernel with CONFIG_BRIDGE_VLAN_FILTERING"));
    }
    let red = host.lab.container("red");
    let mut conf = conf("1.0.0");
    conf["vlan"] = json!(100);
    host.plugin("bridge").json(&conf).add(&red).expect_ok();
    // By its path: in a lab, `bridge` alone is the plugin.
    let vlans = host.lab.sh("/sbin/bridge vlan show").expect_ok().to_string();
    assert!(vlans.contains("100 PVID Egress Untagged"), "{vlans}");
    Ok(())
}

pub(crate) fn ports_are_in_the_vlans_asked_for(host: &Host) -> Done {
    if !host.lab.has_link_type("bridge vlan_filtering 1") {
        return Err(Lack("a kernel with CONFIG_BRIDGE_VLAN_FILTERING"));
    }
    let trunk = json!([{"id": 101}, {"minID": 200, "maxID": 202}]);
    // Of each VLAN the port's own: where frames without a tag go, `*`.
    let cases = [
        (json!({"vlanTrunk": trunk}), "1* 101 200 201 202"),
        (json!({"vlan": 100, "vlanTrunk": trunk}), "100* 101 200 201 202"),
        (json!({"vlan": 100}), "100*"),
        (json!({"vlan": 100, "preserveDefaultVlan": false}), "100*"),
        (json!({"vlan": 100, "preserveDefaultVlan": true}), "1 100*"),
    ];
    for (number, (keys, expected)) in cases.iter().enumerate() {
        let red = host.lab.container(&format!("red{number}"));
        let mut conf = conf("1.0.0");
        for (key, value) in keys.as_object().unwrap() {
            conf[key] = value.clone();
        }
        let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
        let port = result["interfaces"][1]["name"].as_str().unwrap();
        // By its path: in a lab, `bridge` alone is the plugin.
        let listing = host.lab.sh(&format!("/sbin/bridge -j vlan show dev {port}")).expect_json();
        let vlans = listing[0]["vlans"].as_array().unwrap().iter();
        let own = |vlan: &Value| vlan["flags"].as_array().is_some_and(|flags| flags.contains(&json!("PVID")));
        let found: Vec<String> =
            vlans.map(|vlan| format!("{}{}", vlan["vlan"], if own(vlan) { "*" } else { "" })).collect();
        assert_eq!(found.join(" "), *expected, "{keys}");
        host.plugin("bridge").json(&conf).prev_result(&result).del(&red).expect_ok();
    }
    Ok(())
}

pub(crate) fn a_vlan_has_a_gateway_of_its_own(host: &Host) -> Done {
    if !host.lab.has_link_type("bridge vlan_filtering 1") {
        return Err(Lack("a kernel with CONFIG_BRIDGE_VLAN_FILTERING"));
    }
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    conf["vlan"] = json!(100);
    let result = host.plugin("bridge").json(&conf).add(&red).expect_json();
    let carrier = format!("{}.100", conf["bridge"].as_str().unwrap());
    let names: Vec<&str> = result["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|interface| interface["name"].as_str().unwrap())
        .collect();
    assert!(names.len() == 4 && names.contains(&carrier.as_str()), "{names:?}");
    let addresses = host.lab.ip(&format!("address show dev {carrier}"));
    assert!(addresses.contains("10.1.2.1/24") && addresses.contains("2001:db8:1::1/64"), "{addresses}");
    let bridges = host.lab.ip(&format!("-4 address show dev {}", conf["bridge"].as_str().unwrap()));
    assert!(!bridges.contains("10.1.2.1"), "{bridges}");
    assert!(red.ping("10.1.2.1"), "the way leads through the VLAN");
    // A second container finds it there.
    let green = host.lab.container("green");
    let of_green = host.plugin("bridge").json(&conf).add(&green).expect_json();
    assert!(green.ping("10.1.2.1"));
    host.plugin("bridge").json(&conf).prev_result(&of_green).del(&green).expect_ok();
    assert!(red.ping("10.1.2.1"), "it stays for the others");
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

pub(crate) fn a_failed_add_frees_the_address(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bridge").json(&gateway(host, "1.0.0", &["10.1.2.0/24"])).add(&red).expect_ok();
    assert_eq!(host.leases(), ["10.1.2.2"]);
    // The same interface of another container id: the name is taken inside the namespace.
    let again = host.plugin("bridge").json(&gateway(host, "1.0.0", &["10.1.2.0/24"])).id("other").add(&red);
    assert_ne!(again.code, 0);
    assert!(again.stdout.contains("already exists"), "{again}");
    assert_eq!(host.leases(), ["10.1.2.2"]);
    let links = host.lab.ip_json("link show");
    assert_eq!(links.as_array().unwrap().len(), 3, "the failed ADD left a link: {links}");
    assert!(red.ping("10.1.2.1"), "the failed ADD broke what was there");
    Ok(())
}

/// A configuration whose ADD fails late, after the link is made.
fn leaves_no_link(host: &Host, spoil: fn(&Host, &mut Value)) -> Done {
    let red = host.lab.container("red");
    let mut conf = gateway(host, "1.0.0", &["10.1.2.0/24"]);
    spoil(host, &mut conf);
    let refused = host.plugin("bridge").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(!red.has_link("eth0"), "the container's end stayed: {refused}");
    assert!(!host.lab.ip("-brief link").contains("veth"), "the host's end stayed: {refused}");
    assert!(host.leases().is_empty(), "the address stayed");
    Ok(())
}

pub(crate) fn a_route_out_of_reach_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |_, conf| {
        conf["ipam"]["routes"] = json!([{"dst": "198.51.100.0/24", "gw": "203.0.113.9"}]);
    })
}

pub(crate) fn a_conflicting_address_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |host, _| {
        host.lab.ip("link add br0 type bridge");
        host.lab.ip("address add 10.7.7.1/24 dev br0");
    })
}

pub(crate) fn a_missing_address_plugin_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |_, conf| conf["ipam"]["type"] = json!("nobody"))
}

pub(crate) fn a_full_range_leaves_no_link(host: &Host) -> Done {
    leaves_no_link(host, |_, conf| {
        conf["ipam"]["ranges"] =
            json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.1", "rangeEnd": "10.1.2.1"}]]);
    })
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
    hairpin_is_on_when_asked_for
    hairpin_is_off_otherwise
    ports_are_isolated_when_asked_for
    isolated_ports_do_not_reach_each_other
    the_bridge_is_promiscuous_when_asked_for
    hairpin_and_promiscuous_exclude_each_other
    an_interface_that_stays_down_has_no_addresses
    the_container_interface_stays_down_when_asked_for
    vlan_ids_have_a_range
    trunks_have_rules
    a_vlan_is_the_ports_own
    ports_are_in_the_vlans_asked_for
    a_vlan_has_a_gateway_of_its_own
    the_dns_of_the_network_wins
    an_empty_list_of_servers_is_a_choice
    routes_of_the_address_plugin_are_set
    the_mtu_of_a_route_is_honoured
    a_failed_add_frees_the_address
    a_route_out_of_reach_leaves_no_link
    a_conflicting_address_leaves_no_link
    a_missing_address_plugin_leaves_no_link
    a_full_range_leaves_no_link
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
