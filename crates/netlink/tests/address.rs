//! Addresses and routes on the real kernel, inside a private namespace.

#![cfg(test)]

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::{IfName, Mac};
use weft_netlink::link::{self, NewVeth};
use weft_netlink::route::{self, RouteInfo, RouteKind};
use weft_netlink::{Socket, address};
use weft_netns::isolate;

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Opens a socket and creates a pair of up links; returns the first one's index.
fn pair() -> (Socket, u32) {
    isolate().unwrap();
    let mut host = Socket::open().unwrap();
    let new = NewVeth {
        name: &name("a"),
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: None,
        master: None,
        up: true,
        peer: &name("b"),
        peer_mac: None,
        peer_netns: None,
    };
    let reply = host.request(link::create_veth(&new)).unwrap();
    let link = host.created(&reply, new.name).unwrap();
    let up = link::Change { up: Some(true), ..link::Change::default() };
    host.request(link::change(link.peer.unwrap(), &up)).unwrap();
    (host, link.index)
}

fn route(dst: &str, index: u32) -> RouteInfo {
    RouteInfo {
        dst: net(dst),
        gateway: None,
        src: None,
        kind: RouteKind::Unicast,
        protocol: route::BY_HAND,
        onlink: false,
        index,
        metric: None,
        table: route::MAIN,
        scope: 0,
        mtu: None,
        mtu_locked: false,
        advmss: None,
    }
}

#[test]
fn an_address_comes_once_and_goes() {
    let (mut host, index) = pair();
    let addresses = |host: &mut Socket| -> Vec<_> {
        let found = address::of_link(host, index).unwrap().into_iter();
        found.filter(|one| one.global).map(|one| (one.address.to_string(), one.tentative)).collect()
    };
    for text in ["10.1.2.3/24", "fd00::3/64"] {
        host.request(address::add(index, net(text), false)).unwrap();
        assert!(host.request(address::add(index, net(text), false)).unwrap_err().is_exists(), "{text}");
    }
    assert_eq!(addresses(&mut host), [("10.1.2.3/24".into(), false), ("fd00::3/64".into(), false)]);
    for text in ["10.1.2.3/24", "fd00::3/64"] {
        host.request(address::delete(index, net(text))).unwrap();
        assert!(host.request(address::delete(index, net(text))).unwrap_err().is_missing(), "{text}");
    }
    assert!(addresses(&mut host).is_empty());
    assert!(
        address::of_link(&mut host, 4711).unwrap().is_empty(),
        "a link that is not there has no addresses"
    );
}

#[test]
fn routes_keep_every_attribute() {
    let (mut host, index) = pair();
    for text in ["10.1.2.3/24", "fd00::3/64"] {
        host.request(address::add(index, net(text), false)).unwrap();
    }
    let routes = [
        RouteInfo {
            gateway: Some(ip("10.1.2.1")),
            mtu: Some(1300),
            advmss: Some(1200),
            ..route("0.0.0.0/0", index)
        },
        RouteInfo {
            gateway: Some(ip("10.1.2.1")),
            metric: Some(7),
            table: 1000,
            ..route("10.9.0.0/16", index)
        },
        RouteInfo { scope: route::SCOPE_LINK, ..route("10.8.0.1/32", index) },
        RouteInfo {
            gateway: Some(ip("fd00::1")),
            metric: Some(7),
            mtu: Some(1300),
            mtu_locked: true,
            ..route("::/0", index)
        },
        RouteInfo { gateway: Some(ip("fd00::1")), table: 1000, ..route("fd01::/64", index) },
    ];
    for wanted in &routes {
        let found = |host: &mut Socket| route::of_link(host, wanted.table, index).unwrap();
        assert!(!found(&mut host).iter().any(|one| wanted.is_met_by(one)), "{wanted:?} is there already");
        host.request(route::add(wanted, false)).unwrap();
        let all = found(&mut host);
        assert!(all.iter().any(|one| wanted.is_met_by(one)), "{wanted:?} is not among {all:?}");
        assert!(host.request(route::add(wanted, false)).unwrap_err().is_exists());
    }
    for wanted in &routes {
        host.request(route::delete(wanted)).unwrap();
        assert!(host.request(route::delete(wanted)).unwrap_err().is_missing());
    }
}

#[test]
fn appended_routes_stand_side_by_side() {
    let (mut host, index) = pair();
    for text in ["10.1.2.3/24", "fd00::3/64"] {
        host.request(address::add(index, net(text), false)).unwrap();
    }
    let via = |dst: &str, gateway: &str| RouteInfo { gateway: Some(ip(gateway)), ..route(dst, index) };
    let routes = [
        via("0.0.0.0/0", "10.1.2.1"),
        via("0.0.0.0/0", "10.1.2.2"),
        via("::/0", "fd00::1"),
        via("::/0", "fd00::2"),
    ];
    for wanted in &routes {
        host.request(route::add(wanted, true)).unwrap();
    }
    let all = route::of_link(&mut host, route::MAIN, index).unwrap();
    for wanted in &routes {
        assert!(all.iter().any(|one| wanted.is_met_by(one)), "{wanted:?} is not among {all:?}");
    }
}

#[test]
fn the_default_routes_link_is_found() {
    let (mut host, index) = pair();
    assert_eq!(route::default_link().unwrap(), None);
    host.request(address::add(index, net("fd00::3/64"), false)).unwrap();
    host.request(route::add(&RouteInfo { gateway: Some(ip("fd00::1")), ..route("::/0", index) }, false))
        .unwrap();
    assert_eq!(route::default_link().unwrap(), Some(index), "by IPv6 when that is all there is");
    let other = host.link(link::get(&name("b"))).unwrap().unwrap().index;
    host.request(route::add(&RouteInfo { scope: route::SCOPE_LINK, ..route("0.0.0.0/0", other) }, false))
        .unwrap();
    assert_eq!(route::default_link().unwrap(), Some(other), "by IPv4 first");
}

#[test]
fn the_way_to_an_address_is_found() {
    let (mut host, index) = pair();
    host.request(address::add(index, net("10.0.0.1/24"), false)).unwrap();
    let mut way = |text: &str| route::get(&mut host, ip(text)).unwrap();

    assert!(way("10.0.0.1").unwrap().local);
    assert_eq!(way("10.0.0.2"), Some(route::Path { local: false, index }));
    assert_eq!(way("192.0.2.1"), None, "there is no route");
    assert_eq!(way("2001:db8::1"), None);
}
