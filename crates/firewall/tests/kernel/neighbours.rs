//! A network in our own table beside one in chains of iptables: both are ours, and neither is a stranger to the other.

use weft_firewall::{Backend, Fragment, Guard, ensure, observe, reload, remove};
use weft_model::GatewayMode;
use weft_model::port::Protocol::Tcp;
use weft_state::Root;

use crate::calls::{call, is_silent, reach, serve};
use crate::lab::{BLUE, Lab, RED, has, run};
use crate::publishing::guard;

/// Two networks; the second one's rules are in iptables.
fn networks() -> [Fragment; 2] {
    let Fragment::Guard(blue) = guard("n2", "wire-blue", GatewayMode::Nat) else { unreachable!() };
    [guard("n1", "wire-red", GatewayMode::Nat), Fragment::Guard(Guard { backend: Backend::Iptables, ..blue })]
}

fn reach_each_other(order: [usize; 2]) {
    if !has("iptables") || !has("ip6tables") {
        return;
    }
    let lab = Lab::new();
    if !run("iptables -S FORWARD").status.success() {
        return weft_testkit::skipped("iptables to work here");
    }
    let (_red, _blue) = (serve(&lab.red, Tcp, &[80]), serve(&lab.blue, Tcp, &[80]));
    let networks = networks();
    for at in order {
        ensure(&networks[at]).unwrap();
    }
    let connected = || {
        for family in [0, 1] {
            assert_eq!(reach(&lab.blue, Tcp, RED[family], 80), format!("{} at 80", BLUE[family]));
            assert_eq!(reach(&lab.red, Tcp, BLUE[family], 80), format!("{} at 80", RED[family]));
            assert_eq!(call(&lab.server, Tcp, RED[family], 80), None, "the outside is a stranger");
        }
    };
    connected();
    reload(&Root::new(None)).unwrap();
    connected();
    for one in &networks {
        assert_eq!(observe(one).unwrap(), Vec::<String>::new());
    }
    remove(&networks[1]).unwrap();
    for family in [0, 1] {
        is_silent(&lab.blue, Tcp, RED[family], 80);
    }
    remove(&networks[0]).unwrap();
    reach(&lab.blue, Tcp, RED[0], 80);
}

#[test]
fn a_network_by_iptables_that_comes_later_is_no_stranger() {
    reach_each_other([0, 1]);
}

#[test]
fn a_network_by_iptables_that_was_there_is_no_stranger() {
    reach_each_other([1, 0]);
}
