//! `ptp`: a container at the end of a veth pair.

use serde_json::{Value, json};

use crate::attached::{self, Subject, attached_section};
use crate::suite::{Done, Host};

const PTP: Subject = Subject { plugin: "ptp", prepare: |_| Ok(()), conf };

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "n1", "type": "ptp"})
}

fn both(host: &Host) -> Value {
    let mut conf = PTP.addressed(host, "1.0.0", &["10.1.2.0/24", "2001:db8:1::/64"]);
    conf["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    conf
}

pub(crate) fn the_result_names_both_ends(host: &Host) -> Done {
    let red = host.lab.container("red");
    let result = host.plugin("ptp").json(&both(host)).add(&red).expect_json();
    let interfaces = result["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), 2, "{result}");
    let host_end = interfaces[0]["name"].as_str().unwrap();
    assert!(host_end.starts_with("veth"), "{host_end}");
    assert!(interfaces[0]["sandbox"].is_null());
    let link = host.lab.ip_json(&format!("link show dev {host_end}"))[0].take();
    assert_eq!(interfaces[0]["mac"], link["address"]);
    assert!(link["master"].is_null(), "{link}");
    assert_eq!(interfaces[1]["name"], "eth0");
    assert_eq!(result["ips"][1]["interface"], 1);
    Ok(())
}

/// The words of `ip route`, without what it puts in between on its own account.
fn routes(text: &str) -> Vec<String> {
    let mut routes: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    routes.retain(|route| !route.starts_with("fe80::") && !route.starts_with("multicast"));
    routes.sort();
    routes
}

pub(crate) fn only_the_gateway_is_on_the_link(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("ptp").json(&both(host)).add(&red).expect_ok();
    assert_eq!(
        routes(&red.ip("-4 route")),
        [
            "10.1.2.0/24 via 10.1.2.1 dev eth0 src 10.1.2.2",
            "10.1.2.1 dev eth0 scope link src 10.1.2.2",
            "default via 10.1.2.1 dev eth0",
        ]
    );
    let v6 = red.ip("-6 route");
    let to = |dst: &str| v6.lines().find(|line| line.starts_with(dst)).unwrap_or_default();
    assert!(to("2001:db8:1::1 dev eth0").contains("src 2001:db8:1::2"), "{v6}");
    assert!(to("2001:db8:1::/64 via 2001:db8:1::1 dev eth0").contains("src 2001:db8:1::2"), "{v6}");
    assert!(!to("default via 2001:db8:1::1 dev eth0").is_empty(), "{v6}");
    Ok(())
}

pub(crate) fn the_host_has_the_gateway_and_a_way_to_the_container(host: &Host) -> Done {
    let red = host.lab.container("red");
    let result = host.plugin("ptp").json(&both(host)).add(&red).expect_json();
    let host_end = result["interfaces"][0]["name"].as_str().unwrap();
    let addresses = host.lab.ip(&format!("-brief address show dev {host_end}"));
    assert!(addresses.contains("10.1.2.1/32") && addresses.contains("2001:db8:1::1/128"), "{addresses}");
    let route = host.lab.ip("route show 10.1.2.2");
    assert!(route.contains(&format!("10.1.2.2 dev {host_end} scope host")), "{route}");
    assert!(host.lab.ip("-6 route show 2001:db8:1::2").contains(&format!("dev {host_end}")));
    assert_eq!(host.lab.sysctl("ipv4/ip_forward"), "1");
    assert_eq!(host.lab.sysctl("ipv6/conf/all/forwarding"), "1");
    Ok(())
}

pub(crate) fn containers_reach_the_host_and_each_other(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let conf = both(host);
    host.plugin("ptp").json(&conf).add(&red).expect_ok();
    host.plugin("ptp").json(&conf).add(&green).expect_ok();
    weft_testkit::reaches(&red, ["10.1.2.1", "2001:db8:1::1", "10.1.2.3", "2001:db8:1::3"]);
    weft_testkit::reaches(&green, ["10.1.2.2", "2001:db8:1::2"]);
    Ok(())
}

pub(crate) fn the_first_packet_of_ipv6_arrives(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("ptp").json(&both(host)).add(&red).expect_ok();
    assert!(red.ping("2001:db8:1::1"));
    let addresses = red.ip("-6 address show dev eth0 tentative");
    assert!(!addresses.contains("2001:db8:1::2"), "{addresses}");
    Ok(())
}

pub(crate) fn the_mtu_is_set_on_both_ends(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = both(host);
    conf["mtu"] = json!(1454);
    let result = host.plugin("ptp").json(&conf).add(&red).expect_json();
    assert_eq!(red.link("eth0")["mtu"], 1454);
    let host_end = result["interfaces"][0]["name"].as_str().unwrap();
    assert_eq!(host.lab.ip_json(&format!("link show dev {host_end}"))[0]["mtu"], 1454);
    Ok(())
}

pub(crate) fn the_mtu_is_reported(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = both(host);
    conf["cniVersion"] = json!("1.1.0");
    conf["mtu"] = json!(1454);
    let result = host.plugin("ptp").json(&conf).add(&red).expect_json();
    assert_eq!(result["interfaces"][1]["mtu"], 1454);
    Ok(())
}

pub(crate) fn a_stale_way_to_the_address_is_replaced(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.ip("link add stale0 type veth peer name stale1");
    host.lab.ip("link set stale0 up");
    host.lab.ip("route add 10.1.2.2/32 dev stale0 scope host");
    host.lab.ip("-6 route add 2001:db8:1::2/128 dev stale0");
    host.plugin("ptp").json(&both(host)).add(&red).expect_ok();
    weft_testkit::reaches(&red, ["10.1.2.1", "2001:db8:1::1"]);
    let stale = host.lab.ip("route show dev stale0");
    assert!(!stale.contains("10.1.2.2"), "{stale}");
    Ok(())
}

fn masquerades(host: &Host, backend: Option<&str>) -> Done {
    let outside = host.lab.uplink_that_answers();
    let red = host.lab.container("red");
    let mut conf = both(host);
    conf["ipMasq"] = json!(true);
    conf["ipMasqBackend"] = backend.map_or(Value::Null, Value::from);
    host.plugin("ptp").json(&conf).add(&red).expect_ok();
    weft_testkit::reaches(&red, ["192.0.2.2", "2001:db8:ffff::2"]);
    let service = outside.serve_tcp(0);
    for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8:ffff::1", "2001:db8:ffff::2")] {
        let caller = red.call_tcp(to.parse().unwrap(), service.port()).unwrap();
        assert_eq!(caller.to_string(), from);
    }
    Ok(())
}

pub(crate) fn packets_leave_with_the_hosts_address(host: &Host) -> Done {
    masquerades(host, None)
}

pub(crate) fn packets_leave_with_the_hosts_address_by_iptables(host: &Host) -> Done {
    masquerades(host, Some("iptables"))
}

pub(crate) fn packets_leave_with_the_hosts_address_by_nftables(host: &Host) -> Done {
    masquerades(host, Some("nftables"))
}

pub(crate) fn masquerading_goes_with_a_vanished_namespace(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = PTP.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["ipMasq"] = json!(true);
    conf["ipMasqBackend"] = json!("iptables");
    let rules = || host.lab.sh("iptables-save -t nat").stdout;
    host.plugin("ptp").json(&conf).add(&red).expect_ok();
    assert!(rules().contains("10.1.2.2"), "{}", rules());
    red.vanish();
    host.plugin("ptp").json(&conf).netns("").del(&red).expect_ok();
    assert!(!rules().contains("10.1.2.2"), "the masquerading stayed: {}", rules());
    Ok(())
}

pub(crate) fn an_unknown_backend_is_refused(host: &Host) -> Done {
    let mut conf = PTP.addressed(host, "1.0.0", &["10.1.2.0/24"]);
    conf["ipMasq"] = json!(true);
    conf["ipMasqBackend"] = json!("pf");
    attached::refused(host, &PTP, &conf, "unknown ipmasq backend")
}

pub(crate) fn without_an_address_plugin_it_is_refused(host: &Host) -> Done {
    attached::refused(host, &PTP, &conf("1.0.0"), "no plugin name provided")
}

attached_section! { ptp: PTP
    [every]
    [gc_removes_what_is_not_valid]
    the_result_names_both_ends
    only_the_gateway_is_on_the_link
    the_host_has_the_gateway_and_a_way_to_the_container
    containers_reach_the_host_and_each_other
    the_first_packet_of_ipv6_arrives
    the_mtu_is_set_on_both_ends
    the_mtu_is_reported
    a_stale_way_to_the_address_is_replaced
    packets_leave_with_the_hosts_address
    packets_leave_with_the_hosts_address_by_iptables
    packets_leave_with_the_hosts_address_by_nftables
    masquerading_goes_with_a_vanished_namespace
    an_unknown_backend_is_refused
    without_an_address_plugin_it_is_refused
}
