//! Beside somebody else's containers, on a host whose FORWARD drops what nobody accepts.

use weft_firewall::{Backend, Fragment, Guard, ensure, reload};
use weft_model::GatewayMode;
use weft_model::port::Protocol::Tcp;
use weft_state::Root;

use crate::calls::{call, is_silent, reach, serve};
use crate::lab::{BLUE, Lab, RED, SERVER, has, run, sh};
use crate::publishing::guard;

/// Puts the blue container behind a bridge of somebody else's.
fn put_behind_a_bridge(name: &str) {
    sh(&format!("ip link add {name} type bridge"));
    sh(&format!("ip link set wire-blue master {name}"));
    sh(&format!("ip link set {name} up"));
    for (own, gateway, address) in [("-4", "10.1.0.1/32", BLUE[0]), ("-6", "fd00:1::1/128", BLUE[1])] {
        let nodad = if own == "-6" { " nodad" } else { "" };
        sh(&format!("ip {own} addr add {gateway} dev {name}{nodad}"));
        sh(&format!("ip {own} route replace {address} dev {name}"));
    }
}

/// A host that drops, and a network of ours whose bridge is `wire-red`.
fn network_beside(stranger: &str, backend: Backend) -> Option<Lab> {
    if !has("iptables") || !has("ip6tables") {
        return None;
    }
    let lab = Lab::new();
    if !run("iptables -S FORWARD").status.success() {
        weft_testkit::skipped("iptables to work here");
        return None;
    }
    put_behind_a_bridge(stranger);
    for program in ["iptables", "ip6tables"] {
        sh(&format!("{program} -P FORWARD DROP"));
    }
    let Fragment::Guard(one) = guard("n1", "wire-red", GatewayMode::Nat) else { unreachable!() };
    ensure(&Fragment::Guard(Guard { backend, ..one })).unwrap();
    Some(lab)
}

/// Their containers are as closed to ours as they are to everybody, until their own filter says otherwise.
fn theirs_are_for_them_to_open(backend: Backend, stranger: &str) {
    let Some(lab) = network_beside(stranger, backend) else { return };
    let _blue = serve(&lab.blue, Tcp, &[80]);
    let _red = serve(&lab.red, Tcp, &[81]);
    let _server = serve(&lab.server, Tcp, &[90]);
    for family in [0, 1] {
        assert_eq!(reach(&lab.red, Tcp, SERVER[family], 90), format!("{} at 90", RED[family]), "{backend}");
        is_silent(&lab.red, Tcp, BLUE[family], 80);
    }
    // Theirs has a rule for port 80: the answers to ours pass, and so do ours to whom we let in.
    for program in ["iptables", "ip6tables"] {
        sh(&format!("{program} -A FORWARD -o {stranger} -p tcp --dport 80 -j ACCEPT"));
        sh(&format!("{program} -A FORWARD -i {stranger} -j ACCEPT"));
    }
    for family in [0, 1] {
        assert_eq!(reach(&lab.red, Tcp, BLUE[family], 80), format!("{} at 80", RED[family]), "{backend}");
    }
    for family in [0, 1] {
        assert_eq!(call(&lab.blue, Tcp, RED[family], 81), None, "the guard, {backend}");
    }
}

#[test]
fn somebody_elses_containers_stay_closed() {
    theirs_are_for_them_to_open(Backend::Weft, "stranger0");
}

#[test]
fn somebody_elses_containers_stay_closed_to_networks_by_iptables() {
    theirs_are_for_them_to_open(Backend::Iptables, "stranger0");
}

/// A host whose cable is in a bridge, as hosts of virtual machines have it.
fn the_way_outside_may_be_a_bridge(backend: Backend) {
    let Some(lab) = network_beside("uplinks", backend) else { return };
    let _blue = serve(&lab.blue, Tcp, &[80]);
    for family in [0, 1] {
        is_silent(&lab.red, Tcp, BLUE[family], 80);
    }
    sh("ip route add default dev uplinks");
    reload(&Root::new(None)).unwrap();
    for family in [0, 1] {
        assert_eq!(reach(&lab.red, Tcp, BLUE[family], 80), format!("{} at 80", RED[family]), "{backend}");
    }
}

#[test]
fn a_bridge_with_the_default_route_is_the_outside() {
    the_way_outside_may_be_a_bridge(Backend::Weft);
}

#[test]
fn a_bridge_with_the_default_route_is_the_outside_for_iptables() {
    the_way_outside_may_be_a_bridge(Backend::Iptables);
}
