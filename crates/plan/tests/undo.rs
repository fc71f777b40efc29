//! A plan that fails half-way leaves everything as it was.

#![cfg(test)]

mod lab;

use lab::{inside, kernel, lab, make, name, neighbour, net, plan};
use weft_firewall::{Backend, Fragment, Masquerade, Publish};
use weft_model::port::{Protocol, Publication};
use weft_model::{Endpoint, IfName};
use weft_plan::{Address, Journal, Kernel, Link, Place, Plan, Resource, Route, Step, Sysctl};
use weft_testkit::{Container, Lab};

/// Ensures the first `steps` of the plan and then something impossible, and takes it back.
fn fail_after(steps: usize, impossible: &Plan, lab: &Lab, red: &Container) {
    let mut failing = Plan::new();
    failing.extend(plan().into_iter().take(steps));
    failing.extend(impossible.clone());
    let before = (lab.snapshot(), inside(red));
    let mut kernel = kernel(red);
    let mut journal = Journal::default();
    let error = kernel.ensure(&failing, &mut journal).unwrap_err();
    assert_eq!(*error.step, impossible.steps()[0], "after {steps} steps: {error}");
    let left = journal.undo(&mut kernel);
    assert!(left.is_empty(), "after {steps} steps: {left:?}");
    assert!(journal.is_empty());
    lab.assert_restored(&before.0);
    assert_eq!(inside(red), before.1, "after {steps} steps");
}

/// Steps that fail for different reasons: in a send of their own, in one with others, outside netlink.
fn impossible() -> Vec<Plan> {
    let mut plans = vec![Plan::new(), Plan::new(), Plan::new()];
    plans[0].host(Address::on(&name("nobody"), net("10.0.0.1/8")));
    plans[1].container(Route::to(net("192.0.2.0/24"), &IfName::loopback()).via("203.0.113.1".parse().ok()));
    plans[2].container(Sysctl::set("net/ipv4/conf/nobody/arp_notify", "1"));
    plans
}

#[test]
fn on_a_fresh_host_after_each_step() {
    let (lab, red) = lab();
    for last in impossible() {
        for steps in 0..=plan().steps().len() {
            fail_after(steps, &last, &lab, &red);
        }
    }
}

#[test]
fn on_a_network_in_use_after_each_step() {
    let (lab, red) = lab();
    let blue = lab.container("blue");
    make(&blue, &neighbour());
    for steps in 0..=plan().steps().len() {
        fail_after(steps, &impossible()[0], &lab, &red);
    }
    assert!(blue.has_link("eth0"));
}

#[test]
fn steps_that_travelled_behind_the_failing_one_are_taken_back_too() {
    let (lab, red) = lab();
    let before = (lab.snapshot(), inside(&red));
    let mut failing = neighbour();
    let eth0 = name("eth0");
    failing.container(Route::to(net("10.1.0.0/16"), &eth0).via("192.0.2.1".parse().ok()));
    failing.container(Route::to(net("10.2.0.0/16"), &eth0).via("10.90.0.1".parse().ok()));
    failing.container(Link::existing(&IfName::loopback()).up(true));
    let mut kernel = kernel(&red);
    let mut journal = Journal::default();
    let error = kernel.ensure(&failing, &mut journal).unwrap_err();
    assert!(error.to_string().contains("10.1.0.0/16"), "{error}");
    assert!(red.ip("route show").contains("10.2.0.0/16"), "the kernel works on after a refusal");
    assert!(journal.undo(&mut kernel).is_empty());
    lab.assert_restored(&before.0);
    assert_eq!(inside(&red), before.1);
}

#[test]
fn what_another_container_has_come_to_rely_on_stays() {
    let (lab, red) = lab();
    let blue = lab.container("blue");
    let mut first = kernel(&red);
    let mut journal = Journal::default();
    first.ensure(&plan(), &mut journal).unwrap();
    make(&blue, &neighbour());

    assert!(journal.undo(&mut first).is_empty());

    assert!(!lab.has_link("veth7") && !red.has_link("eth0"), "the attachment is gone");
    assert!(blue.ping("10.90.0.1"), "the bridge and its address are not");
    assert_eq!(lab.sysctl("ipv4/ip_forward"), "1");
}

/// The plan with a masquerading network, which then fails.
fn masquerading(lab: &Lab, container: &str) -> Plan {
    let endpoint = Endpoint {
        network: "n1".parse().unwrap(),
        container: container.parse().unwrap(),
        ifname: name("eth0"),
    };
    let mut plan = plan();
    plan.host(Fragment::Masquerade(Masquerade {
        network: endpoint.network.clone(),
        subnets: vec![net("10.90.0.0/24")],
        endpoint: Some(endpoint),
        addresses: vec![net("10.90.0.7/24")],
        backend: Backend::Weft,
        claims: lab.path("run/weft/masquerade"),
    }));
    plan
}

#[test]
fn a_network_that_never_came_to_life_is_not_masqueraded() {
    let (lab, red) = lab();
    let before = lab.snapshot();
    let mut kernel = kernel(&red);
    let mut journal = Journal::default();
    kernel.ensure(&masquerading(&lab, "red"), &mut journal).unwrap();
    assert!(lab.ruleset().contains("10.90.0.0"), "{}", lab.ruleset());
    assert!(lab.path("run/weft/masquerade/networks/n1").exists());

    assert!(journal.undo(&mut kernel).is_empty());

    lab.assert_restored(&before);
    assert!(!lab.path("run/weft/masquerade/networks/n1").exists());
}

#[test]
fn a_claim_on_what_another_network_has_is_taken_back() {
    let (lab, red) = lab();
    let mut other = masquerading(&lab, "blue");
    let Some(Step { resource: Resource::Firewall(Fragment::Masquerade(masquerade)), .. }) =
        other.steps.last_mut()
    else {
        panic!("the last step is not the firewall's")
    };
    masquerade.network = "n2".parse().unwrap();
    other.steps.drain(..other.steps.len() - 1);
    make(&red, &other);
    let mut kernel = kernel(&red);
    let mut journal = Journal::default();
    kernel.ensure(&masquerading(&lab, "red"), &mut journal).unwrap();
    let claim = |network: &str| lab.path("run/weft/masquerade/networks").join(network).exists();
    assert!(claim("n1") && claim("n2"));

    assert!(journal.undo(&mut kernel).is_empty());

    assert!(!claim("n1") && claim("n2"));
    assert!(lab.ruleset().contains("10.90.0.0"), "{}", lab.ruleset());
}

#[test]
fn masquerading_stays_for_a_container_that_came_before_the_claim() {
    let (lab, red) = lab();
    let blue = lab.container("blue");
    make(&blue, &neighbour());
    let mut first = kernel(&red);
    let mut journal = Journal::default();
    first.ensure(&masquerading(&lab, "red"), &mut journal).unwrap();

    assert!(journal.undo(&mut first).is_empty());

    assert!(!lab.has_link("veth7"));
    assert!(lab.ruleset().contains("10.90.0.0"), "{}", lab.ruleset());
}

/// Publishes these ports, and then something else.
fn publishing(lab: &Lab, ports: &[&str], last: &Plan) -> Plan {
    let endpoint =
        Endpoint { network: "n1".parse().unwrap(), container: "red".parse().unwrap(), ifname: name("eth0") };
    let [books, locks, claims] = ["ports", "locks", "masquerade"].map(|dir| lab.path("run/weft").join(dir));
    let publication = |ports: &&str| Publication {
        protocol: Protocol::Tcp,
        host: [0, 0, 0, 0].into(),
        host_ports: ports.parse().unwrap(),
        target: [10, 90, 0, 7].into(),
        target_ports: ports.parse().unwrap(),
        from: Vec::new(),
    };
    let mut plan = Plan::new();
    plan.host(Fragment::Publish(Box::new(Publish {
        publications: ports.iter().map(publication).collect(),
        ..Publish::nothing(endpoint, Backend::Weft, books, locks, claims)
    })));
    plan.extend(last.clone());
    plan
}

#[test]
fn ports_that_were_published_before_are_published_again() {
    let (lab, red) = lab();
    let fresh = lab.snapshot();
    let mut kernel = kernel(&red);
    let mut fail = |ports: &[&str]| {
        let mut journal = Journal::default();
        kernel.ensure(&publishing(&lab, ports, &impossible()[0]), &mut journal).unwrap_err();
        let left = journal.undo(&mut kernel);
        assert!(left.is_empty(), "{ports:?}: {left:?}");
    };
    let owner = lab.path("run/weft/ports/owners/red,eth0.json");
    fail(&["9090"]);
    lab.assert_restored(&fresh);
    assert!(!owner.exists());

    make(&red, &publishing(&lab, &["9090", "9100-9110"], &Plan::new()));
    let (before, known) = (lab.snapshot(), std::fs::read(&owner).unwrap());
    assert!(lab.ruleset().contains("tcp . 9090 : 10.90.0.7 . 9090"), "{}", lab.ruleset());
    // More, fewer, others, and the same.
    for ports in [&["9090", "9100-9110", "8080"][..], &["9090"], &["9091"], &["9100-9110", "9090"]] {
        fail(ports);
        assert!(lab.ruleset().contains("tcp . 9090 : 10.90.0.7 . 9090"), "{ports:?}: {}", lab.ruleset());
        lab.assert_restored(&before);
        assert_eq!(std::fs::read(&owner).unwrap(), known, "{ports:?}");
    }
}

#[test]
fn what_cannot_be_taken_back_is_named() {
    let (lab, red) = lab();
    let mut first = kernel(&red);
    let mut journal = Journal::default();
    let mut only = Plan::new();
    only.host(Sysctl::set("net/ipv4/ip_forward", "1"));
    first.ensure(&only, &mut journal).unwrap();
    lab.sh("mount -o bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys").expect_ok();
    let left: Vec<_> = journal.undo(&mut first).iter().map(ToString::to_string).collect();
    let why = "cannot write /proc/sys/net/ipv4/ip_forward: Read-only file system (os error 30)";
    assert_eq!(left, [format!("host sysctl net/ipv4/ip_forward no longer 0 ({why})")]);
}

#[test]
fn a_read_only_sysctl_that_is_right_is_no_error() {
    let (lab, red) = lab();
    lab.set_sysctl("ipv4/ip_forward", "1");
    lab.sh("mount -o bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys").expect_ok();
    let mut only = Plan::new();
    only.host(Sysctl::set("net/ipv4/ip_forward", "1"));
    make(&red, &only);
}

#[test]
fn a_plan_for_a_container_that_is_not_there_fails_without_a_trace() {
    let (lab, _red) = lab();
    let before = lab.snapshot();
    let mut kernel = Kernel::open(None).unwrap();
    let mut journal = Journal::default();
    assert!(kernel.ensure(&plan(), &mut journal).is_err());
    assert!(journal.undo(&mut kernel).is_empty());
    lab.assert_restored(&before);
    assert_eq!(kernel.link(Place::Host, &name("veth7")), None);
}

#[test]
fn the_uplinks_mtu_is_the_default_routes() {
    let (lab, _red) = lab();
    let mut kernel = Kernel::open(None).unwrap();
    assert_eq!(kernel.uplink_mtu(), None);
    let _outside = lab.uplink();
    lab.ip("link set uplink0 mtu 1380");
    assert_eq!(kernel.uplink_mtu().unwrap().get(), 1380);
}
