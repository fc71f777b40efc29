//! Containers on a bridge, on the real kernel.

#![cfg(test)]

mod lab;

use lab::{MAC, differences, inside, kernel, lab, make, name, neighbour, net, plan};
use weft_model::{Mac, Mtu};
use weft_plan::{
    Address, Cause, Conflict, Journal, Kernel, Lifetime, Link, Peer, Place, Plan, Port, Removal, Resource,
    Route, Step, Sysctl,
};

#[test]
fn a_container_is_connected_and_disconnected_and_the_host_is_as_before() {
    let (lab, red) = lab();
    let (before, empty) = (lab.snapshot(), inside(&red));

    let mut kernel = make(&red, &plan());
    kernel.wait_up(&name("veth7")).unwrap();
    assert_eq!(differences(&mut kernel, &plan()), Vec::<String>::new());
    assert!(red.ping("10.90.0.1"), "the container reaches the bridge");
    assert!(red.ping("fd00:90::1"), "by IPv6, too, and at once");

    assert!(kernel.remove(&plan().of_lifetime(Lifetime::Attachment), Removal::Synchronous).is_empty());
    assert!(lab.has_link("br0"), "the network stays when the last container goes");
    assert!(!lab.has_link("veth7") && !red.has_link("eth0"));
    assert!(kernel.remove(&plan().of_lifetime(Lifetime::Network), Removal::Synchronous).is_empty());
    lab.set_sysctl("ipv4/ip_forward", "0");
    red.ip("link set lo down");
    lab.assert_restored(&before);
    assert_eq!(inside(&red), empty);
}

#[test]
fn the_facts_are_what_ip_shows() {
    let (lab, red) = lab();
    let kernel = make(&red, &plan());
    for (place, link, shown) in [
        (Place::Host, "br0", lab.ip_json("link show br0")[0].clone()),
        (Place::Host, "veth7", lab.ip_json("link show veth7")[0].clone()),
        (Place::Container, "eth0", red.link("eth0")),
    ] {
        let facts = kernel.link(place, &name(link)).unwrap();
        assert_eq!(shown["ifindex"], facts.index, "{link}");
        assert_eq!(shown["address"], facts.mac.to_string(), "{link}");
        assert_eq!(shown["mtu"], facts.mtu, "{link}");
    }
    assert_eq!(kernel.link(Place::Container, &name("eth0")).unwrap().mac, MAC);
    assert_eq!(kernel.link(Place::Host, &name("eth9")), None);
}

#[test]
fn what_is_there_already_is_left_alone() {
    let (lab, red) = lab();
    make(&red, &plan()).wait_up(&name("veth7")).unwrap();
    assert!(red.ping("fd00:90::1"));
    let before = (lab.snapshot(), inside(&red));
    let mut again = Plan::new();
    // All but the pair itself, which would be somebody else's.
    again.extend(plan().into_iter().filter(|step| !step.to_string().contains("peer")));

    let mut journal = Journal::default();
    kernel(&red).ensure(&again, &mut journal).unwrap();

    assert!(journal.is_empty(), "{journal:?}");
    lab.assert_restored(&before.0);
    assert_eq!(inside(&red), before.1);
}

#[test]
fn a_bridge_keeps_its_mac_and_mtu() {
    let (lab, red) = lab();
    let mac = |lab: &weft_testkit::Lab| lab.ip_json("link show br0")[0]["address"].to_string();
    let mut kernel = make(&red, &plan());
    let first = mac(&lab);
    assert_eq!(first.trim_matches('"'), kernel.link(Place::Host, &name("br0")).unwrap().mac.to_string());

    lab.ip("link add low0 address 02:00:00:00:00:00 mtu 1280 type veth peer name low1");
    lab.ip("link set low0 master br0");
    assert_eq!(mac(&lab), first, "a port with a lower address changes nothing");
    lab.ip("link delete low0");
    assert!(kernel.remove(&plan().of_lifetime(Lifetime::Attachment), Removal::Synchronous).is_empty());
    assert_eq!(mac(&lab), first, "nor does the last port that goes");
    assert_eq!(lab.ip_json("link show br0")[0]["mtu"], 1400);
}

#[test]
fn a_bridge_that_was_there_gets_its_mac_pinned_with_its_address() {
    let (lab, red) = lab();
    lab.ip("link add br0 type bridge");
    let mac = || lab.ip_json("link show br0")[0]["address"].to_string();
    make(&red, &plan());
    let first = mac();
    lab.ip("link add low0 address 02:00:00:00:00:00 type veth peer name low1");
    lab.ip("link set low0 master br0");
    assert_eq!(mac(), first);
}

#[test]
fn a_bridge_whose_last_port_has_left_gets_an_address_with_its_gateway() {
    let (lab, red) = lab();
    lab.ip("link add br0 type bridge");
    lab.ip("link add low0 type veth peer name low1");
    lab.ip("link set low0 master br0");
    lab.ip("link delete low0");
    let mac = || lab.ip_json("link show br0")[0]["address"].clone();
    assert_eq!(mac(), "00:00:00:00:00:00", "the kernel takes the address away with the last port");
    let mut gateway = Plan::new();
    gateway.network(Link::bridge(&name("br0")).up(true));
    gateway.network(Address::on(&name("br0"), net("10.90.0.1/24")).conflict(Conflict::Refuse));
    let kernel = make(&red, &gateway);
    assert_ne!(mac(), "00:00:00:00:00:00");
    assert_eq!(mac(), kernel.link(Place::Host, &name("br0")).unwrap().mac.to_string());
    make(&red, &plan());
    assert_eq!(mac(), kernel.link(Place::Host, &name("br0")).unwrap().mac.to_string(), "and keeps it");
}

#[test]
fn a_bridge_that_takes_its_ports_address_is_shown_with_it() {
    let (lab, red) = lab();
    let mac = || lab.ip_json("link show br0")[0]["address"].clone();
    lab.ip("link add br0 type bridge");
    let first = mac();
    let kernel = make(&red, &neighbour());
    assert_ne!(mac(), first, "it has taken the port's");
    assert_eq!(mac(), kernel.link(Place::Host, &name("br0")).unwrap().mac.to_string());
}

#[test]
fn a_failure_gives_a_bridge_its_address_back() {
    let (lab, red) = lab();
    lab.ip("link add br0 type bridge");
    let mac = || lab.ip_json("link show br0")[0]["address"].clone();
    let first = mac();
    let mut kernel = kernel(&red);
    let mut journal = Journal::default();
    kernel.ensure(&plan(), &mut journal).unwrap();
    assert_ne!(mac(), first, "it has taken the port's, for good");
    assert!(journal.undo(&mut kernel).is_empty());
    assert_eq!(mac(), first);
}

#[test]
fn a_link_that_is_no_bridge_is_refused_by_name() {
    let (lab, red) = lab();
    lab.ip("link add br0 type veth peer name other");
    let before = lab.snapshot();
    let error = kernel(&red).ensure(&plan(), &mut Journal::default()).unwrap_err();
    assert_eq!(error.to_string(), "\"br0\" already exists but is not a bridge");
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn an_interface_name_that_is_taken_in_the_container_is_refused() {
    let (lab, red) = lab();
    red.ip("link add eth0 type veth peer name other");
    let (before, within) = (lab.snapshot(), inside(&red));
    let mut journal = Journal::default();
    let mut kernel = kernel(&red);
    let error = kernel.ensure(&plan(), &mut journal).unwrap_err();
    assert_eq!(error.to_string(), "container veth name (\"eth0\") peer provided (\"veth7\") already exists");
    assert_ne!(lab.snapshot(), before, "the bridge was made");
    assert!(journal.undo(&mut kernel).is_empty());
    lab.assert_restored(&before);
    assert_eq!(inside(&red), within);
}

#[test]
fn a_second_add_does_not_touch_the_first() {
    let (lab, red) = lab();
    make(&red, &plan()).wait_up(&name("veth7")).unwrap();
    // The kernel adds an IPv6 address's own route a little later.
    assert!(red.ping("fd00:90::1"));
    let before = (lab.snapshot(), inside(&red));
    let mut journal = Journal::default();
    let mut second = kernel(&red);
    let error = second.ensure(&plan(), &mut journal).unwrap_err();
    assert!(matches!(error.cause, Cause::NameTaken { .. }), "{error}");
    assert!(journal.undo(&mut second).is_empty());
    lab.assert_restored(&before.0);
    assert_eq!(inside(&red), before.1);
}

#[test]
fn a_pair_left_by_an_add_that_was_killed_is_replaced() {
    let (lab, red) = lab();
    // Killed after the pair was made: the container's end is down, in this container or another.
    lab.ip("link add veth7 up type veth peer name eth0 netns red");
    let stale = lab.ip_json("link show veth7")[0]["ifindex"].clone();
    let mut kernel = make(&red, &plan());
    assert_ne!(lab.ip_json("link show veth7")[0]["ifindex"], stale, "a new pair");
    assert_eq!(differences(&mut kernel, &plan()), Vec::<String>::new());
}

#[test]
fn a_pair_at_work_in_another_namespace_is_not_taken_away() {
    let (lab, red) = lab();
    let blue = lab.container("blue");
    make(&blue, &plan()).wait_up(&name("veth7")).unwrap();
    assert!(blue.ping("fd00:90::1"));
    let before = lab.snapshot();
    let error = kernel(&red).ensure(&plan(), &mut Journal::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "interface \"veth7\" exists already and its other end is up in another namespace"
    );
    lab.assert_restored(&before);
    assert!(blue.ping("10.90.0.1"));
}

#[test]
fn a_pair_whose_namespace_is_going_is_replaced() {
    let (lab, red) = lab();
    let blue = lab.container("blue");
    make(&blue, &plan()).wait_up(&name("veth7")).unwrap();
    blue.vanish();
    let mut kernel = make(&red, &plan());
    assert_eq!(differences(&mut kernel, &plan()), Vec::<String>::new());
}

#[test]
fn removal_works_without_the_namespace_twice_and_after_a_foreign_deletion() {
    let (lab, red) = lab();
    let attachment = plan().of_lifetime(Lifetime::Attachment);
    make(&red, &plan());
    let remove = || {
        let problems = Kernel::open(None).unwrap().remove(&attachment, Removal::Announced);
        assert!(problems.is_empty(), "{problems:?}");
        assert!(!lab.has_link("veth7"));
    };
    assert!(lab.has_link("veth7"));
    remove();
    assert!(!red.has_link("eth0"), "the container's end went with the host's");
    remove();
    make(&red, &plan());
    lab.ip("link delete veth7");
    remove();
    make(&red, &plan());
    red.vanish();
    remove();
}

#[test]
fn removal_names_what_it_cannot_do_and_goes_on() {
    let (lab, red) = lab();
    make(&red, &plan());
    lab.ip("link add squatter type bridge");
    let mut both = Plan::new();
    both.host(Link::veth(&name("squatter"), Peer::container(&name("eth1"))));
    both.extend(plan().of_lifetime(Lifetime::Attachment));
    both.host(Link::veth(&name("lo"), Peer::container(&name("eth2"))));
    let problems = kernel(&red).remove(&both, Removal::Synchronous);
    let texts: Vec<_> = problems.iter().map(|problem| format!("{problem}: {}", problem.cause)).collect();
    assert_eq!(
        texts,
        [
            "cannot remove link lo peer container:eth2: \"lo\" already exists but is not a veth",
            "cannot remove link squatter peer container:eth1: \"squatter\" already exists but is not a veth",
        ]
    );
    assert!(!lab.has_link("veth7") && lab.has_link("squatter"));
}

#[test]
fn a_bridge_in_use_is_not_removed() {
    let (lab, red) = lab();
    let blue = lab.container("blue");
    make(&red, &plan());
    make(&blue, &neighbour());
    let network = plan().of_lifetime(Lifetime::Network);
    let mut kernel = kernel(&red);
    assert!(kernel.remove(&plan(), Removal::Synchronous).is_empty());
    assert!(lab.has_link("br0") && blue.ping("10.90.0.1"), "with its address");
    kernel.remove(&neighbour().of_lifetime(Lifetime::Attachment), Removal::Synchronous);
    assert!(kernel.remove(&network, Removal::Synchronous).is_empty());
    assert!(!lab.has_link("br0"));
}

#[test]
fn loopback_alone_goes_up_and_down() {
    let (_lab, red) = lab();
    let lo = name("lo");
    let mut plan = Plan::new();
    plan.container(Link::existing(&lo).up(true));
    let before = inside(&red);
    let mut kernel = make(&red, &plan);
    assert!(red.ping("127.0.0.1"));
    assert_eq!(kernel.addresses(Place::Container, &lo).unwrap(), [net("127.0.0.1/8"), net("::1/128")]);
    assert_eq!(kernel.link(Place::Container, &lo).unwrap().mac, Mac([0; 6]));
    assert!(differences(&mut kernel, &plan).is_empty());
    assert!(kernel.remove(&plan, Removal::Announced).is_empty());
    assert_eq!(differences(&mut kernel, &plan), ["container interface lo is down"]);
    assert_eq!(inside(&red), before);
    assert!(
        Kernel::open(None).unwrap().remove(&plan, Removal::Announced).is_empty(),
        "without the namespace"
    );
}

#[test]
fn another_address_of_the_bridge_is_refused_or_replaced() {
    let (lab, red) = lab();
    // KERNEL: an IPv6 address goes when its link goes down, an unpinned MAC when the last port goes.
    lab.ip("link add br0 address 02:00:00:00:00:99 up type bridge");
    for address in ["10.91.0.1/24", "10.91.0.2/24", "fd00:91::1/64"] {
        lab.ip(&format!("address add {address} dev br0 nodad"));
    }
    let before = lab.snapshot();
    let mut journal = Journal::default();
    let mut kernel = kernel(&red);
    let error = kernel.ensure(&plan(), &mut journal).unwrap_err();
    assert_eq!(error.to_string(), "\"br0\" already has an IP address different from 10.90.0.1/24");
    assert!(journal.undo(&mut kernel).is_empty());
    lab.assert_restored(&before);

    let mut replacing = Plan::new();
    replacing.network(Link::bridge(&name("br0")).up(true));
    replacing.network(Address::on(&name("br0"), net("10.90.0.1/24")).conflict(Conflict::Replace));
    replacing.network(Address::on(&name("br0"), net("fd00:90::1/64")).conflict(Conflict::Replace));
    kernel.ensure(&replacing, &mut journal).unwrap();
    let mut addresses = kernel.addresses(Place::Host, &name("br0")).unwrap();
    addresses.retain(|address| !address.to_string().starts_with("fe80"));
    addresses.sort();
    assert_eq!(addresses, [net("10.90.0.1/24"), net("fd00:90::1/64"), net("fd00:91::1/64")]);
    assert!(journal.undo(&mut kernel).is_empty());
    lab.assert_restored(&before);
}

#[test]
fn addresses_of_one_plan_do_not_exclude_each_other() {
    let (_lab, red) = lab();
    let mut plan = Plan::new();
    plan.network(Link::bridge(&name("br0")).up(true));
    for address in ["10.90.0.1/24", "10.92.0.1/24"] {
        plan.network(Address::on(&name("br0"), net(address)).conflict(Conflict::Refuse));
    }
    make(&red, &plan);
    let mut again = make(&red, &plan);
    assert!(differences(&mut again, &plan).is_empty());
}

#[test]
fn the_1024th_port_is_refused_with_the_limit() {
    let (lab, red) = lab();
    make(&red, &neighbour());
    let lines: Vec<_> =
        (1..1023).map(|n| format!("link add p{n} master br0 type veth peer name q{n}")).collect();
    lab.write("ports", lines.join("\n"));
    lab.ip(&format!("-batch {}", lab.path("ports").display()));
    let blue = lab.container("blue");
    let error = kernel(&blue).ensure(&plan(), &mut Journal::default()).unwrap_err();
    assert_eq!(error.to_string(), "bridge \"br0\" has 1023 ports, as many as a bridge takes");
    assert!(!lab.has_link("veth7") && !blue.has_link("eth0"));
}

#[test]
fn a_pair_inside_the_host_is_made_once() {
    let (lab, red) = lab();
    let before = lab.snapshot();
    let mut plan = Plan::new();
    plan.network(Link::bridge(&name("br0")).up(true));
    plan.network(
        Link::veth(&name("port100"), Peer::host(&name("br0.100"))).port(Port::of(&name("br0"))).up(true),
    );
    plan.network(Link::existing(&name("br0.100")).up(true));
    plan.network(Address::on(&name("br0.100"), net("10.93.0.1/24")).conflict(Conflict::Refuse));
    let mut kernel = make(&red, &plan);
    assert!(differences(&mut kernel, &plan).is_empty());
    let mut journal = Journal::default();
    let mut again = lab::kernel(&red);
    again.ensure(&plan, &mut journal).unwrap();
    assert!(journal.is_empty(), "{journal:?}");
    lab.ip("link set port100 nomaster down");
    assert_ne!(differences(&mut again, &plan), Vec::<String>::new());
    again.ensure(&plan, &mut journal).unwrap();
    assert!(differences(&mut again, &plan).is_empty(), "mended");
    assert!(again.remove(&plan, Removal::Synchronous).is_empty());
    lab.assert_restored(&before);
}

#[test]
fn a_pair_inside_the_host_stays_while_another_network_has_containers_on_its_bridge() {
    let (lab, red) = lab();
    let gateway = |vlan: &str| {
        let mut plan = Plan::new();
        plan.network(Link::bridge(&name("br0")).up(true));
        let port = Port::of(&name("br0"));
        let carrier = name(&format!("br0.{vlan}"));
        plan.network(Link::veth(&name(&format!("port{vlan}")), Peer::host(&carrier)).port(port).up(true));
        plan.network(Link::existing(&carrier).up(true));
        plan
    };
    let (one, other) = (gateway("100"), gateway("200"));
    make(&red, &other);
    make(&red, &neighbour());
    let mut kernel = make(&red, &one);
    assert!(kernel.remove(&one, Removal::Synchronous).is_empty());
    assert!(lab.has_link("br0.100") && lab.has_link("port100"));

    assert!(kernel.remove(&neighbour().of_lifetime(Lifetime::Attachment), Removal::Synchronous).is_empty());
    assert!(kernel.remove(&one, Removal::Synchronous).is_empty());
    assert!(!lab.has_link("port100") && lab.has_link("br0") && lab.has_link("br0.200"));
    assert!(kernel.remove(&other, Removal::Synchronous).is_empty());
    assert!(!lab.has_link("port200") && !lab.has_link("br0"));
}

#[test]
fn a_link_that_is_no_bridge_shows_before_anything_is_made() {
    let (lab, red) = lab();
    let mut kernel = kernel(&red);
    kernel.allows(&plan()).unwrap();
    lab.ip("link add br0 type veth peer name other");
    let error = kernel.allows(&plan()).unwrap_err();
    assert_eq!(error.to_string(), "\"br0\" already exists but is not a bridge");
}

#[test]
fn a_duplicate_address_is_found_when_probing_is_asked_for() {
    let (lab, red) = lab();
    let blue = lab.container("blue");
    let mut alone = neighbour();
    alone.container(Address::on(&name("eth0"), net("fd00:90::7/64")).dad(true));
    let mut kernel = make(&red, &alone);
    assert_eq!(
        differences(&mut kernel, &alone),
        Vec::<String>::new(),
        "a unique one is ready when ensure returns"
    );

    let mut twice = Plan::new();
    twice.host(
        Link::veth(&name("veth9"), Peer::container(&name("eth0"))).port(Port::of(&name("br0"))).up(true),
    );
    twice.container(Link::existing(&name("eth0")).up(true));
    twice.container(Address::on(&name("eth0"), net("fd00:90::7/64")).dad(true));
    let before = lab.snapshot();
    let mut journal = Journal::default();
    let mut kernel = lab::kernel(&blue);
    let error = kernel.ensure(&twice, &mut journal).unwrap_err();
    assert_eq!(error.to_string(), "link eth0 has address fd00:90::7/64 in DADFAILED state");
    assert!(journal.undo(&mut kernel).is_empty());
    lab.assert_restored(&before);
}

#[test]
fn check_lets_later_plugins_have_their_way() {
    let (_lab, red) = lab();
    let mut plan = plan();
    plan.container(Route::to(net("10.2.0.0/16"), &name("eth0")).via("10.90.0.2".parse().ok()).table(Some(0)));
    let mut kernel = make(&red, &plan);
    assert!(differences(&mut kernel, &plan).is_empty(), "table 0 is the main one");
    red.ip("link set eth0 mtu 1300");
    red.ip("link add eth1 type veth peer name eth2");
    red.ip("link set eth1 up");
    red.ip("route delete default");
    red.ip("route add default dev eth1");
    red.ip("route delete 10.2.0.0/16");
    red.ip("route add 10.2.0.0/16 via 10.90.0.2 dev eth1 onlink metric 7");
    assert_eq!(differences(&mut kernel, &plan), Vec::<String>::new());
    red.ip("route delete 10.2.0.0/16");
    red.ip("route add 10.2.0.0/16 via 10.90.0.3 dev eth1 onlink");
    let missing = "container route 10.2.0.0/16 via 10.90.0.2 dev eth0 table 0 does not exist";
    assert_eq!(differences(&mut kernel, &plan), [missing], "another gateway is another route");
}

#[test]
fn check_has_a_sentence_for_everything_that_is_wrong() {
    let (lab, red) = lab();
    let mut kernel = make(&red, &plan());
    assert!(differences(&mut kernel, &plan()).is_empty());
    lab.ip("link set br0 promisc off");
    lab.ip("link set br0 down");
    // A plugin behind this one may have turned hairpin mode on, which is nothing wrong.
    lab.ip("link set veth7 type bridge_slave isolated off hairpin on");
    lab.ip("address delete 10.90.0.1/24 dev br0");
    lab.set_sysctl("ipv4/ip_forward", "0");
    red.ip("route delete default");
    red.ip("route delete 10.1.0.0/16 table 500");
    red.ip("link set eth0 address 02:00:00:00:00:08");
    red.ip("address delete fd00:90::7/64 dev eth0");
    red.run("sysctl", "-qw net.ipv4.conf.eth0.arp_notify=0").expect_ok();
    let mut text = differences(&mut kernel, &plan()).join("\n");
    insta::assert_snapshot!(text, @r#"
    host interface br0 is down
    host interface br0 is not promiscuous
    container interface eth0 has MAC address 02:00:00:00:00:08, not 02:00:00:00:00:07
    host interface veth7 has isolated off, not on
    container sysctl net/ipv4/conf/eth0/arp_notify is 0, not 1
    container interface eth0 does not have address fd00:90::7/64
    container route default via 10.90.0.1 dev eth0 metric 100 mtu 1300 does not exist
    container route 10.1.0.0/16 via 10.90.0.2 dev eth0 table 500 does not exist
    host interface br0 does not have address 10.90.0.1/24
    host interface br0 does not have address fd00:90::1/64
    host sysctl net/ipv4/ip_forward is 0, not 1
    "#);
    red.ip("link delete eth0");
    text = differences(&mut kernel, &plan()).join("\n");
    insta::assert_snapshot!(text, @r#"
    host interface br0 is down
    host interface br0 is not promiscuous
    host interface veth7 does not exist
    container sysctl net/ipv4/conf/eth0/arp_notify does not exist
    container interface eth0 does not exist
    host interface br0 does not have address 10.90.0.1/24
    host interface br0 does not have address fd00:90::1/64
    host sysctl net/ipv4/ip_forward is 0, not 1
    "#);
}

#[test]
fn an_unfit_request_is_refused_with_the_step_and_the_kernels_words() {
    let (lab, red) = lab();
    let before = lab.snapshot();
    let refused = |resource: Resource, place: Place| {
        let mut plan = neighbour();
        plan.extend([Step { place, lifetime: Lifetime::Attachment, resource }]);
        let mut journal = Journal::default();
        let mut kernel = kernel(&red);
        let error = kernel.ensure(&plan, &mut journal).unwrap_err();
        assert!(journal.undo(&mut kernel).is_empty());
        lab.assert_restored(&before);
        let why = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{why}")
    };
    let eth0 = name("eth0");
    let inside = |resource: Resource| refused(resource, Place::Container);
    let tiny = Link::existing(&eth0).mtu(Mtu::try_from(68).ok()).mac(Some(Mac([1; 6])));
    let texts = [
        inside(Route::to(net("0.0.0.0/0"), &eth0).via("192.0.2.1".parse().ok()).into()),
        inside(Address::on(&name("eth7"), net("10.0.0.1/8")).into()),
        inside(Sysctl::set("net/ipv4/conf/eth7/arp_notify", "1").into()),
        inside(Sysctl::set("net/../kernel/hostname", "x").into()),
        inside(Sysctl::set("net/ipv4/conf/eth0/arp_notify", "many").into()),
        inside(tiny.into()),
        refused(Link::existing(&name("nobody")).up(true).into(), Place::Host),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r#"
    cannot make route default via 192.0.2.1 dev eth0: network is unreachable: Nexthop has invalid gateway
    there is no interface "eth7" in the container
    cannot read /proc/sys/net/ipv4/conf/eth7/arp_notify: No such file or directory (os error 2)
    "net/../kernel/hostname" is not a sysctl of a network namespace
    cannot write /proc/sys/net/ipv4/conf/eth0/arp_notify: Invalid argument (os error 22)
    cannot make link eth0 mtu 68 mac 01:01:01:01:01:01: cannot assign requested address
    there is no interface "nobody" in the host
    "#);
}

#[test]
fn a_link_that_wants_no_link_local_address_gets_none() {
    let (_lab, red) = lab();
    let mode = |link_local| {
        let mut plan = Plan::new();
        plan.host(Link::veth(&name("veth7"), Peer::container(&name("eth0"))).up(true));
        plan.container(Link::existing(&name("eth0")).link_local(link_local).up(true));
        let mut kernel = make(&red, &plan);
        let mode = red.run("cat", "/proc/sys/net/ipv6/conf/eth0/addr_gen_mode").expect_ok().to_string();
        let shown = red.ip("-6 -oneline address show dev eth0");
        assert!(kernel.remove(&plan, Removal::Synchronous).is_empty());
        (mode.trim().to_owned(), shown)
    };
    // KERNEL: 0 is eui64, 1 is none (enum in6_addr_gen_mode, include/uapi/linux/if_link.h).
    assert_eq!(mode(false), ("1".into(), String::new()));
    assert_eq!(mode(true).0, "0");
}
