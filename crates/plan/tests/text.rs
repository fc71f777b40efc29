//! Plans as text: complete, one line a step.

#![cfg(test)]

mod lab;

use lab::{MAC, name, net, plan};
use weft_firewall::{Fragment, SpoofCheck};
use weft_model::{Endpoint, VlanId};
use weft_plan::{
    Address, BridgeVlan, Conflict, Lifetime, Link, Peer, Place, Plan, Port, Rivals, Route, Sysctl, VlanRange,
};

fn vlan(number: i64) -> VlanId {
    VlanId::try_from(number).unwrap()
}

#[test]
fn a_container_on_a_bridge() {
    insta::assert_snapshot!(plan(), @r#"
    network    link br0 type bridge mtu 1400 promisc up
    network    sysctl net/ipv6/conf/br0/accept_ra = 0 if present
    host       link veth7 peer container:eth0 mtu 1400 peer-mac 02:00:00:00:00:07 master br0 isolated up
    container  sysctl net/ipv4/conf/eth0/arp_notify = 1
    container  link lo up
    container  link eth0 up
    container  addr 10.90.0.7/24 dev eth0
    container  addr fd00:90::7/64 dev eth0
    container  route default via 10.90.0.1 dev eth0 metric 100 mtu 1300
    container  route 10.1.0.0/16 via 10.90.0.2 dev eth0 table 500
    container  route default via fd00:90::1 dev eth0
    network    addr 10.90.0.1/24 dev br0 alone
    network    addr fd00:90::1/64 dev br0 alone
    network    sysctl net/ipv4/ip_forward = 1
    "#);
    assert!(plan().raises(Place::Container, &name("eth0")) && !plan().raises(Place::Host, &name("eth0")));
    assert_eq!(plan().of_lifetime(Lifetime::Network).steps().len(), 5);
}

#[test]
fn every_attribute_shows() {
    let (br0, port, eth0) = (name("br0"), name("veth7"), name("eth0"));
    let endpoint = Endpoint {
        network: "net".parse().unwrap(),
        container: "red".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let mut plan = Plan::new();
    plan.network(Link::bridge(&br0).vlan_filtering(true).mac(Some(MAC)));
    plan.network(Link::veth(&name("p100"), Peer::host(&name("br0.100"))).port(Port::of(&br0)));
    plan.host(Link::existing(&port).mac(Some(MAC)).port(Port {
        bridge: br0.clone(),
        hairpin: true,
        isolated: true,
        group: Some(7),
    }));
    plan.host(BridgeVlan::port(
        &port,
        vec![VlanRange::access(vlan(100)), VlanRange::tagged(vlan(200), vlan(300))],
    ));
    plan.host(BridgeVlan::port(&port, vec![VlanRange::tagged(vlan(7), vlan(7))]).keep_default(true));
    plan.host(BridgeVlan::bridge(&br0, vec![VlanRange::tagged(vlan(7), vlan(7))]));
    plan.network(Address::on(&br0, net("10.0.0.1/8")).conflict(Conflict::Replace));
    plan.container(Address::on(&eth0, net("fd00::7/64")).dad(true));
    let mut route = Route::to(net("10.9.0.0/16"), &eth0).metric(Some(7)).table(Some(1000)).scope(Some(253));
    plan.container(route.clone());
    route = route.via("10.0.0.2".parse().ok()).mtu(Some(1300)).advmss(Some(1260)).rivals(Rivals::Join);
    plan.container(route);
    plan.container(Sysctl::attempt("net/ipv6/conf/eth0/accept_dad", "0"));
    plan.host(Fragment::SpoofCheck(SpoofCheck {
        host_ifname: port,
        mac: Some(MAC),
        endpoint,
        claims: "/run".into(),
    }));
    insta::assert_snapshot!(plan, @r#"
    network    link br0 type bridge mtu auto mac 02:00:00:00:00:07 vlan-filtering
    network    link p100 peer host:br0.100 master br0
    host       link veth7 mac 02:00:00:00:00:07 master br0 hairpin isolated group 7
    host       vlan dev veth7 100 pvid untagged, 200-300 tagged
    host       vlan dev veth7 7 tagged and the default
    host       vlan dev br0 self 7 tagged
    network    addr 10.0.0.1/8 dev br0 replacing others
    container  addr fd00::7/64 dev eth0 dad
    container  route 10.9.0.0/16 dev eth0 table 1000 metric 7 scope 253
    container  route 10.9.0.0/16 via 10.0.0.2 dev eth0 table 1000 metric 7 scope 253 mtu 1300 advmss 1260 append
    container  sysctl net/ipv6/conf/eth0/accept_dad = 0 if present
    host       spoof check veth7 only from 02:00:00:00:00:07
    "#);
}
