//! Whoever keeps gates: when they shut, for how long they stay open, and what comes after something has failed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;
use weft_testkit::{does_not_reach, skip_unless};

use super::Gated;
use crate::overlay_agent::addresses;
use crate::overlay_fastpath::{NEEDS, is_capable};

#[test]
fn an_agent_that_is_stopped_keeps_no_gate_open() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    for _ in 0..3 {
        net.becomes_fast();
        net.cluster.signal(1, Signal::SIGSTOP);
        net.cluster.eventually("nobody puts it off any more", || net.is_slow());
        net.host().sh("nft add rule inet weft user drop").expect_ok();
        net.cluster.signal(1, Signal::SIGCONT);
        // Whatever it was at: what it has found before is too old.
        does_not_reach(&net.one, addresses(&net.two));
        net.becomes_shut("chain inet weft user");
        net.host().sh("nft flush chain inet weft user").expect_ok();
    }
    net.becomes_fast();
}

/// Containers that go take elements with them: ports, addresses, marks.
#[test]
fn elements_that_go_shut_no_gate() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    net.host()
        .sh("nft \"add table inet q; add set inet q numbers { type mark; }; add element inet q numbers { $(seq -s, 40) }\"")
        .expect_ok();
    net.becomes_fast();
    for number in 1..=40 {
        net.host().sh(&format!("nft delete element inet q numbers '{{ {number} }}'")).expect_ok();
        let told = net.shut(1);
        assert!(!told.iter().any(|why| why.contains("has changed just now")), "{told:?}");
    }
    net.becomes_fast();
}

#[test]
fn all_networks_of_a_host_are_shut_together() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    net.cluster.network(1, &["-o", "fastpath=auto", "green"]);
    let here = net.host().container("here");
    net.host().weft(["network", "connect", "green", here.name()]).expect_ok();
    let all = |shut: bool| {
        let status = net.cluster.status(1);
        let networks = status["networks"].as_array().unwrap();
        networks.len() == 2
            && networks.iter().all(|network| network["shut"].as_array().unwrap().is_empty() != shut)
    };
    net.cluster.eventually("both are open", || all(false));
    net.becomes_fast();
    net.host().sh("nft add rule inet weft user drop").expect_ok();
    net.cluster.eventually("both are shut", || all(true));
    does_not_reach(&net.one, addresses(&net.two));
    net.host().sh("nft flush chain inet weft user").expect_ok();
    net.cluster.eventually("both are open again", || all(false));
    net.becomes_fast();
}

/// What connection tracking sees first of a connection is its beginning, whoever has sent it.
#[test]
fn rules_with_state_take_the_next_packet_for_the_first() {
    let net = Gated::new();
    skip_unless!(is_capable(net.cluster.underlay.lab()), NEEDS);
    net.becomes_fast();
    let [from, to] = [&net.one, &net.two]
        .map(|of| addresses(of).into_iter().find(|address| address.contains('.')).unwrap());
    let listener = net.two.inside(|| TcpListener::bind((to.as_str(), 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let mut caller = net.one.inside(|| TcpStream::connect((to.as_str(), port)).unwrap());
    let mut called = listener.accept().unwrap().0;
    net.host()
        .sh(&format!(
            "nft 'add table inet t; add chain inet t c {{ type filter hook forward priority 0; }}; \
             add rule inet t c ct state established,related accept; \
             add rule inet t c ip saddr {to} ip daddr {from} tcp sport {port} counter drop'"
        ))
        .expect_ok();
    let shut = || net.shut(1).iter().any(|why| why.contains("chain inet t c"));
    net.cluster.eventually("the gate is shut", shut);
    called.write_all(b"!").unwrap();
    net.cluster.eventually("an answer is taken for a call", || {
        let chain = net.host().sh("nft list chain inet t c");
        !chain.expect_ok().contains("counter packets 0 ")
    });
    // A packet of the caller's, and it is known who has called.
    caller.write_all(b"?").unwrap();
    let mut read = [0; 2];
    called.read_exact(&mut read[..1]).unwrap();
    caller.read_exact(&mut read[1..]).unwrap();
    assert_eq!(&read, b"?!");
}
