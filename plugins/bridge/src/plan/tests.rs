//! Plans as text: what a reviewer reads.

use std::path::PathBuf;

use weft_cni::{NetworkResult, Version};
use weft_model::{Endpoint, Mtu};
use weft_plugin::Leases;

use crate::conf::{Conf, Settings, Surroundings};

fn settings(json: &str) -> Settings {
    let conf: Conf = weft_cni::json::from_slice(json.as_bytes()).unwrap();
    let around = Surroundings {
        network: "net".parse().unwrap(),
        addressed: !json.contains("L2"),
        mac: Some("02:00:00:00:00:07".parse().unwrap()),
        claims: PathBuf::new(),
        dismantles: false,
    };
    let settings = conf.settle(around).unwrap();
    Settings { mtu: settings.mtu.or(Some(Mtu::ETHERNET)), ..settings }
}

fn endpoint() -> Endpoint {
    Endpoint {
        network: "net".parse().unwrap(),
        container: "red".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

fn leases(ips: &str) -> Leases {
    let json = format!(r#"{{"cniVersion": "1.1.0", "ips": {ips}}}"#);
    let result = NetworkResult::from_value(&serde_json::from_str(&json).unwrap(), Version::LATEST).unwrap();
    Leases { ips: result.ips, routes: result.routes, dns: result.dns }
}

fn whole(json: &str, ips: &str) -> String {
    let settings = settings(json);
    let leases = super::resolve(&settings, leases(ips)).unwrap();
    let links = super::links(&settings, &endpoint());
    let addresses = super::addresses(&settings, &endpoint(), &leases);
    format!("{links}--\n{addresses}")
}

const V4: &str = r#"[{"address": "10.90.0.7/24", "gateway": "10.90.0.1"}]"#;

#[test]
fn a_layer_2_port() {
    insta::assert_snapshot!(whole(r#"{"bridge": "br0", "L2": 1}"#, "[]"), @r#"
    network    link br0 type bridge mtu 1500 up
    network    sysctl net/ipv6/conf/br0/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/br0/accept_dad = 0 if present
    host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 master br0 up
    --
    container  link eth0 up
    "#);
}

#[test]
fn a_gateway_with_masquerading() {
    let conf = r#"{"bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true}"#;
    insta::assert_snapshot!(whole(conf, V4), @r#"
    network    link br0 type bridge mtu 1500 up
    network    sysctl net/ipv6/conf/br0/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/br0/accept_dad = 0 if present
    host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 master br0 hairpin up
    --
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  link eth0 addrgenmode none up
    container  addr 10.90.0.7/24 dev eth0
    container  route default via 10.90.0.1 dev eth0 append
    network    addr 10.90.0.1/24 dev br0 alone
    network    sysctl net/ipv4/ip_forward = 1
    host       masquerade 10.90.0.0/24 of net by weft
    "#);
}

#[test]
fn both_families_and_no_gateway_given() {
    let conf = r#"{"isDefaultGateway": true, "mtu": 1400, "forceAddress": true}"#;
    let ips = r#"[{"address": "10.90.0.7/24"}, {"address": "fd00:90::7/64"}]"#;
    insta::assert_snapshot!(whole(conf, ips), @r#"
    network    link cni0 type bridge mtu 1400 up
    network    sysctl net/ipv6/conf/cni0/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/cni0/accept_dad = 0 if present
    host       link veth6355b07527c peer container:eth0 mtu 1400 peer-mac 02:00:00:00:00:07 master cni0 up
    --
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  sysctl net/ipv6/conf/eth0/accept_dad = 0 if present
    container  link eth0 up
    container  sysctl net/ipv6/conf/lo/disable_ipv6 = 0 if present
    container  sysctl net/ipv6/conf/eth0/disable_ipv6 = 0 if present
    container  sysctl net/ipv6/conf/eth0/keep_addr_on_down = 1 if present
    container  addr 10.90.0.7/24 dev eth0
    container  addr fd00:90::7/64 dev eth0
    container  route default via 10.90.0.1 dev eth0 append
    container  route default via fd00:90::1 dev eth0 append
    network    addr 10.90.0.1/24 dev cni0 replacing others
    network    sysctl net/ipv6/conf/cni0/disable_ipv6 = 0 if present
    network    addr fd00:90::1/64 dev cni0 replacing others
    network    sysctl net/ipv4/ip_forward = 1
    network    sysctl net/ipv6/conf/all/forwarding = 1
    "#);
}

#[test]
fn an_isolated_network() {
    insta::assert_snapshot!(whole(r#"{"bridge": "br0", "isolate": true, "macspoofchk": true}"#, V4), @r#"
    network    link br0 type bridge mtu 1500 up
    network    sysctl net/ipv6/conf/br0/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/br0/accept_dad = 0 if present
    host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 master br0 up
    network    isolate br0 of net from other networks
    host       spoof check veth6355b07527c only from 02:00:00:00:00:07
    --
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  link eth0 up
    container  addr 10.90.0.7/24 dev eth0
    "#);
}

#[test]
fn a_port_in_a_vlan_and_a_trunk() {
    let conf = r#"{"bridge": "br0", "vlan": 100, "vlanTrunk": [{"minID": 5, "maxID": 9}, {"id": 20}], "isGateway": true}"#;
    insta::assert_snapshot!(whole(conf, V4), @r#"
    network    link br0 type bridge mtu 1500 vlan-filtering up
    network    sysctl net/ipv6/conf/br0/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/br0/accept_dad = 0 if present
    host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 master br0 up
    host       vlan dev veth6355b07527c 100 pvid untagged, 5-9 tagged, 20 tagged
    --
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  link eth0 addrgenmode none up
    container  addr 10.90.0.7/24 dev eth0
    network    link veth9f9ead047f5 peer host:br0.100 mtu 1500 master br0 up
    network    vlan dev veth9f9ead047f5 100 pvid untagged
    network    link br0.100 up
    network    addr 10.90.0.1/24 dev br0.100 alone
    network    sysctl net/ipv4/ip_forward = 1
    "#);
}

#[test]
fn every_port_flag() {
    let conf = r#"{"portIsolation": true, "macspoofchk": true, "promiscMode": true, "enabledad": true}"#;
    insta::assert_snapshot!(whole(conf, r#"[{"address": "fd00:90::7/64"}]"#), @r#"
    network    link cni0 type bridge mtu 1500 promisc up
    network    sysctl net/ipv6/conf/cni0/accept_ra = 0 if present
    host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 master cni0 isolated up
    host       spoof check veth6355b07527c only from 02:00:00:00:00:07
    --
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  sysctl net/ipv6/conf/eth0/enhanced_dad = 1 if present
    container  sysctl net/ipv6/conf/eth0/accept_dad = 1 if present
    container  link eth0 up
    container  sysctl net/ipv6/conf/lo/disable_ipv6 = 0 if present
    container  sysctl net/ipv6/conf/eth0/disable_ipv6 = 0 if present
    container  sysctl net/ipv6/conf/eth0/keep_addr_on_down = 1 if present
    container  addr fd00:90::7/64 dev eth0 dad
    "#);
}

#[test]
fn upstreams_layouts_belong_to_the_attachment() {
    let conf = r#"{"isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables"}"#;
    insta::assert_snapshot!(whole(conf, V4), @r#"
    network    link cni0 type bridge mtu 1500 up
    network    sysctl net/ipv6/conf/cni0/accept_ra = 0 if present
    network    sysctl net/ipv6/conf/cni0/accept_dad = 0 if present
    host       link veth6355b07527c peer container:eth0 mtu 1500 peer-mac 02:00:00:00:00:07 master cni0 up
    --
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1 if present
    container  link eth0 addrgenmode none up
    container  addr 10.90.0.7/24 dev eth0
    network    addr 10.90.0.1/24 dev cni0 alone
    network    sysctl net/ipv4/ip_forward = 1
    host       masquerade 10.90.0.7/24 of net by nftables
    "#);
}

#[test]
fn the_networks_part() {
    let conf =
        r#"{"bridge": "br0", "vlan": 7, "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables"}"#;
    insta::assert_snapshot!(super::network(&settings(conf)).to_string(), @r#"
    network    link br0 type bridge mtu 1500 vlan-filtering up
    network    link vethe5cbce865d2 peer host:br0.7 mtu 1500 master br0 up
    network    vlan dev vethe5cbce865d2 7 pvid untagged
    network    link br0.7 up
    network    source as of net by nftables
    network    masquerade of net by nftables
    "#);
}

#[test]
fn an_internal_network_in_a_vlan() {
    let conf = r#"{"bridge": "br0", "vlan": 7, "isGateway": true, "isolate": true, "internal": true}"#;
    insta::assert_snapshot!(super::network(&settings(conf)).to_string(), @r#"
    network    link br0 type bridge mtu 1500 vlan-filtering up
    network    link vethe5cbce865d2 peer host:br0.7 mtu 1500 master br0 up
    network    vlan dev vethe5cbce865d2 7 pvid untagged
    network    link br0.7 up
    network    isolate br0.7 of net from everything
    "#);
}

#[test]
fn a_guarded_network_with_an_address_of_its_own() {
    let conf = r#"{"bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "portIsolation": true,
        "ipMasqSource": ["192.0.2.7"], "gatewayMode": {"ipv6": "routed"}}"#;
    let ips = r#"[{"address": "10.90.0.7/24"}, {"address": "fd00:90::7/64"}]"#;
    let plan = whole(conf, ips);
    let rules: Vec<&str> = plan
        .lines()
        .filter(|line| ["guard", "source", "masquerade"].iter().any(|word| line.contains(word)))
        .collect();
    insta::assert_snapshot!(rules.join("\n"), @r#"
    network    guard br0 of net: nat for IPv4, routed for IPv6, containers apart
    network    source 10.90.0.0/24 as 192.0.2.7 of net by weft
    host       masquerade 10.90.0.0/24 of net by weft
    "#);
}

#[test]
fn an_isolated_family_has_no_gateway() {
    let conf =
        r#"{"bridge": "br0", "isDefaultGateway": true, "ipMasq": true, "gatewayMode": {"ipv4": "isolated"}}"#;
    let ips = r#"[{"address": "10.90.0.7/24", "gateway": "10.90.0.1"}, {"address": "fd00:90::7/64"}]"#;
    let plan = whole(conf, ips);
    assert!(plan.contains("addr 10.90.0.7/24 dev eth0"), "{plan}");
    assert!(!plan.contains("10.90.0.1") && !plan.contains("ip_forward"), "{plan}");
    assert!(
        plan.contains("route default via fd00:90::1") && plan.contains("addr fd00:90::1/64 dev br0"),
        "{plan}"
    );
    assert!(plan.contains("masquerade fd00:90::/64 of net"), "{plan}");
    assert!(plan.contains("guard br0 of net: isolated for IPv4, nat for IPv6"), "{plan}");
}
