//! `portmap`: what it refuses, and what its ports carry, as traffic.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use weft_testkit::Container;

use crate::bridge::gateway;
use crate::suite::{Done, Host};

const V4: [&str; 1] = ["10.1.2.0/24"];
const BOTH: [&str; 2] = ["10.1.2.0/24", "2001:db8:1::/64"];
const TCP: [u16; 2] = [8080, 80];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Returns a configuration that publishes these entries.
pub(crate) fn portmap(version: &str, mappings: Value) -> Value {
    json!({
        "cniVersion": version, "name": "n1", "type": "portmap", "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings},
    })
}

fn entry([host, container]: [u16; 2], protocol: &str) -> Value {
    json!({"hostPort": host, "containerPort": container, "protocol": protocol})
}

/// Connects a container to a bridge and returns the result.
pub(crate) fn connect(host: &Host, container: &Container, subnets: &[&str]) -> Value {
    host.plugin("bridge").json(&gateway(host, "1.0.0", subnets)).add(container).expect_json()
}

/// Connects a container and publishes its ports; returns the configuration with the previous result, for later calls.
fn publish(host: &Host, container: &Container, subnets: &[&str], conf: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = connect(host, container, subnets);
    host.plugin("portmap").json(&conf).add(container).expect_ok();
    conf
}

fn published(host: &Host, container: &Container, subnets: &[&str], mappings: Value) -> Value {
    publish(host, container, subnets, &portmap("1.0.0", mappings))
}

fn rules(host: &Host) -> String {
    host.lab.sh("iptables-save; nft list ruleset").stdout
}

/// KERNEL: an element of a set that is told to expire is listed until the next jiffy, 10 ms at most.
fn leaves(host: &Host, port: &str) -> bool {
    (0..20).any(|_| !rules(host).contains(port))
}

/// Publishing with this configuration fails with these words and changes nothing.
fn refused(host: &Host, mut conf: Value, words: &str) -> Done {
    let red = host.lab.container("red");
    conf["prevResult"] = connect(host, &red, &V4);
    let before = host.lab.snapshot();
    let refused = host.plugin("portmap").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "it was not refused: {refused}");
    assert!(refused.stdout.contains(words), "wanted {words:?}: {refused}");
    host.lab.assert_restored(&before);
    Ok(())
}

pub(crate) fn the_previous_result_is_passed_on(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["prevResult"] = connect(host, &red, &BOTH);
    let result = host.plugin("portmap").json(&conf).add(&red).expect_json();
    assert_eq!(result, conf["prevResult"]);
    Ok(())
}

pub(crate) fn without_a_previous_result_it_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("portmap").json(&portmap("1.0.0", json!([entry(TCP, "tcp")]))).add(&red);
    assert!(refused.stdout.contains("must be called as chained plugin"), "{refused}");
    assert_ne!(refused.code, 0);
    Ok(())
}

pub(crate) fn without_mappings_it_only_passes_on(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = portmap("1.0.0", json!([]));
    conf["prevResult"] = connect(host, &red, &V4);
    let before = host.lab.snapshot();
    assert_eq!(host.plugin("portmap").json(&conf).add(&red).expect_json(), conf["prevResult"]);
    host.plugin("portmap").json(&conf).check(&red).expect_ok();
    host.plugin("portmap").json(&conf).del(&red).expect_ok();
    host.lab.assert_restored(&before);
    Ok(())
}

pub(crate) fn a_container_port_that_is_none_is_refused(host: &Host) -> Done {
    refused(host, portmap("1.0.0", json!([entry([8080, 0], "tcp")])), "Invalid container port number: 0")
}

pub(crate) fn a_host_port_that_is_none_is_refused(host: &Host) -> Done {
    refused(host, portmap("1.0.0", json!([entry([0, 80], "tcp")])), "Invalid host port number: 0")
}

pub(crate) fn a_host_port_beyond_the_last_is_refused(host: &Host) -> Done {
    let mapping = json!([{"hostPort": 65536, "containerPort": 80, "protocol": "tcp"}]);
    refused(host, portmap("1.0.0", mapping), "65536")
}

pub(crate) fn a_mark_has_32_bits(host: &Host) -> Done {
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["markMasqBit"] = json!(32);
    refused(host, conf, "MasqMarkBit must be between 0 and 31")
}

pub(crate) fn two_marks_are_refused(host: &Host) -> Done {
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["markMasqBit"] = json!(5);
    conf["externalSetMarkChain"] = json!("MARKS");
    refused(host, conf, "Cannot specify externalSetMarkChain and markMasqBit")
}

pub(crate) fn an_unknown_backend_is_refused(host: &Host) -> Done {
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["backend"] = json!("pigeons");
    refused(host, conf, "unrecognized backend \\\"pigeons\\\"")
}

pub(crate) fn iptables_does_not_speak_nft(host: &Host) -> Done {
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["backend"] = json!("iptables");
    conf["conditionsV4"] = json!(["aaa", "bbbb"]);
    conf["conditionsV6"] = json!(["ccc"]);
    let words = "iptables backend was requested but configuration contains nftables-specific options \
                 [conditionsV4 conditionsV6]";
    refused(host, conf, words)
}

pub(crate) fn nftables_does_not_speak_iptables(host: &Host) -> Done {
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["backend"] = json!("nftables");
    conf["externalSetMarkChain"] = json!("KUBE-MARK-MASQ");
    conf["conditionsV4"] = json!(["-a", "b"]);
    conf["conditionsV6"] = json!(["-c", "d"]);
    let words = "nftables backend was requested but configuration contains iptables-specific options \
                 [externalSetMarkChain conditionsV4 conditionsV6]";
    refused(host, conf, words)
}

pub(crate) fn an_unknown_protocol_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = portmap("1.0.0", json!([entry(TCP, "icmp")]));
    conf["prevResult"] = connect(host, &red, &V4);
    let before = host.lab.ruleset();
    assert_ne!(host.plugin("portmap").json(&conf).add(&red).code, 0);
    assert_eq!(host.lab.ruleset(), before, "something stayed");
    Ok(())
}

/// A port is reached from outside, from the host and from a neighbour, in one family.
fn leads_to_the_container(host: &Host, subnets: &[&str], at: &str, outside_is: &str) -> Done {
    let outside = host.lab.uplink();
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let (tcp, udp) = (red.serve_tcp(80), red.serve_udp(53));
    connect(host, &green, subnets);
    let calls = |of: &Container| {
        [of.ask_tcp(ip(at), 8080).map(|answer| answer.by), of.ask_udp(ip(at), 5353).map(|answer| answer.by)]
    };
    assert!(calls(&outside).iter().all(Result::is_err), "it answers before it is published");

    let mappings = json!([entry(TCP, "tcp"), entry([5353, 53], "udp")]);
    let conf = published(host, &red, subnets, mappings);
    for of in [&outside, &green] {
        let answers = calls(of).map(|answer| answer.map_err(|error| error.to_string()));
        assert!(answers == [Ok("red".into()), Ok("red".into())], "from {}: {answers:?}", of.name());
    }
    assert_eq!(host.lab.ask_tcp(ip(at), 8080).unwrap().by, "red", "from the host");
    assert_eq!(host.lab.ask_udp(ip(at), 5353).unwrap().by, "red", "from the host");
    let caller = outside.ask_tcp(ip(at), 8080).unwrap();
    assert_eq!((caller.caller, caller.port), (ip(outside_is), tcp.port()));
    let caller = outside.ask_udp(ip(at), 5353).unwrap();
    assert_eq!((caller.caller, caller.port), (ip(outside_is), udp.port()));

    host.plugin("portmap").json(&conf).del(&red).expect_ok();
    let silent = (0..20).any(|_| outside.ask_tcp(ip(at), 8080).is_err());
    assert!(silent, "it answers after DEL");
    Ok(())
}

pub(crate) fn ports_lead_to_the_container_by_ipv4(host: &Host) -> Done {
    leads_to_the_container(host, &V4, "192.0.2.1", "192.0.2.2")
}

pub(crate) fn ports_lead_to_the_container_by_ipv6(host: &Host) -> Done {
    leads_to_the_container(host, &BOTH, "2001:db8:ffff::1", "2001:db8:ffff::2")
}

/// A container calls its own port by the host's address.
fn reaches_itself(host: &Host, subnets: &[&str], at: &str) -> Done {
    host.lab.uplink();
    let red = host.lab.container("red");
    let _services = (red.serve_tcp(80), red.serve_udp(53));
    published(host, &red, subnets, json!([entry(TCP, "tcp"), entry([5353, 53], "udp")]));
    let (tcp, udp) = (red.ask_tcp(ip(at), 8080), red.ask_udp(ip(at), 5353));
    assert!(tcp.as_ref().is_ok_and(|answer| answer.by == "red"), "its own tcp port: {tcp:?}");
    assert!(udp.as_ref().is_ok_and(|answer| answer.by == "red"), "its own udp port: {udp:?}");
    Ok(())
}

pub(crate) fn the_container_reaches_itself_by_ipv4(host: &Host) -> Done {
    reaches_itself(host, &V4, "192.0.2.1")
}

pub(crate) fn the_container_reaches_itself_by_ipv6(host: &Host) -> Done {
    reaches_itself(host, &BOTH, "2001:db8:ffff::1")
}

/// The host calls a published port by a loopback address.
fn reached_by(host: &Host, loopback: &str) -> Done {
    let red = host.lab.container("red");
    let _services = (red.serve_tcp(80), red.serve_udp(53));
    assert!(host.lab.ask_tcp(ip(loopback), 8080).is_err(), "it answers before it is published");
    published(host, &red, &BOTH, json!([entry(TCP, "tcp"), entry([5353, 53], "udp")]));
    let answer = host.lab.ask_tcp(ip(loopback), 8080);
    assert!(answer.as_ref().is_ok_and(|answer| answer.by == "red"), "tcp at {loopback}: {answer:?}");
    let answer = host.lab.ask_udp(ip(loopback), 5353);
    assert!(answer.as_ref().is_ok_and(|answer| answer.by == "red"), "udp at {loopback}: {answer:?}");
    Ok(())
}

pub(crate) fn the_host_calls_127_0_0_1(host: &Host) -> Done {
    reached_by(host, "127.0.0.1")
}

pub(crate) fn the_host_calls_colon_colon_1(host: &Host) -> Done {
    reached_by(host, "::1")
}

pub(crate) fn with_masq_all_every_caller_is_the_host(host: &Host) -> Done {
    let outside = host.lab.uplink();
    let red = host.lab.container("red");
    let _service = red.serve_tcp(80);
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["masqAll"] = json!(true);
    publish(host, &red, &BOTH, &conf);
    for (at, seen) in [("192.0.2.1", "10.1.2.1"), ("2001:db8:ffff::1", "2001:db8:1::1")] {
        assert_eq!(outside.call_tcp(ip(at), 8080).unwrap(), ip(seen));
    }
    Ok(())
}

pub(crate) fn without_snat_only_others_call(host: &Host) -> Done {
    let outside = host.lab.uplink();
    let red = host.lab.container("red");
    let _service = red.serve_tcp(80);
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["snat"] = json!(false);
    publish(host, &red, &V4, &conf);
    assert_eq!(outside.call_tcp(ip("192.0.2.1"), 8080).unwrap(), ip("192.0.2.2"));
    assert!(red.call_tcp(ip("192.0.2.1"), 8080).is_err(), "its own answers pass the host by");
    Ok(())
}

pub(crate) fn a_host_ip_is_the_only_one(host: &Host) -> Done {
    let outside = host.lab.uplink();
    host.lab.ip("address add 192.0.2.7/24 dev uplink0");
    let red = host.lab.container("red");
    let _service = red.serve_tcp(80);
    let mut mapping = entry(TCP, "tcp");
    mapping["hostIP"] = json!("192.0.2.7");
    published(host, &red, &BOTH, json!([mapping]));
    assert_eq!(outside.ask_tcp(ip("192.0.2.7"), 8080).unwrap().by, "red");
    assert!(outside.ask_tcp(ip("192.0.2.1"), 8080).is_err());
    assert!(outside.ask_tcp(ip("2001:db8:ffff::1"), 8080).is_err());
    Ok(())
}

pub(crate) fn what_only_passes_through_is_left_alone(host: &Host) -> Done {
    let outside = host.lab.uplink();
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let (_red, _outside) = (red.serve_tcp(80), outside.serve_tcp(8080));
    let mut conf = gateway(host, "1.0.0", &V4);
    conf["ipMasq"] = json!(true);
    host.plugin("bridge").json(&conf).add(&green).expect_ok();
    published(host, &red, &V4, json!([entry(TCP, "tcp")]));
    assert_eq!(green.ask_tcp(ip("192.0.2.1"), 8080).unwrap().by, "red");
    assert_eq!(green.ask_tcp(ip("192.0.2.2"), 8080).unwrap().by, "outside");
    Ok(())
}

pub(crate) fn a_host_ip_of_a_family_the_container_lacks_is_refused(host: &Host) -> Done {
    let mut mapping = entry(TCP, "tcp");
    mapping["hostIP"] = json!("::1");
    refused(host, portmap("1.0.0", json!([mapping])), "the container has no IPv6 address")
}

pub(crate) fn a_host_ip_of_another_host_is_refused(host: &Host) -> Done {
    let mut mapping = entry(TCP, "tcp");
    mapping["hostIP"] = json!("192.0.2.77");
    refused(host, portmap("1.0.0", json!([mapping])), "192.0.2.77 is not an address of this host")
}

pub(crate) fn a_port_asked_for_twice_is_refused(host: &Host) -> Done {
    let mappings = json!([entry(TCP, "tcp"), entry([8080, 81], "tcp")]);
    refused(host, portmap("1.0.0", mappings), "port 8080/tcp of 0.0.0.0 is asked for twice")
}

pub(crate) fn a_port_of_another_container_is_refused(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let conf = published(host, &red, &V4, json!([entry(TCP, "tcp")]));
    let mut second = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    second["prevResult"] = connect(host, &green, &V4);
    let before = host.lab.snapshot();
    let refused = host.plugin("portmap").json(&second).add(&green);
    assert_ne!(refused.code, 0, "it was not refused: {refused}");
    assert!(refused.stdout.contains("published by red on n1"), "{refused}");
    host.lab.assert_restored(&before);
    host.plugin("portmap").json(&conf).del(&red).expect_ok();
    host.plugin("portmap").json(&second).add(&green).expect_ok();
    Ok(())
}

pub(crate) fn a_port_the_host_listens_on_is_refused(host: &Host) -> Done {
    let _service = host.lab.serve_tcp(8080);
    refused(host, portmap("1.0.0", json!([entry(TCP, "tcp")])), "port 8080/tcp of 0.0.0.0 is in use")
}

pub(crate) fn conditions_of_iptables_apply(host: &Host) -> Done {
    let outside = host.lab.uplink();
    outside.ip("address add 192.0.2.3/24 dev eth0");
    let red = host.lab.container("red");
    let _service = red.serve_tcp(80);
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["conditionsV4"] = json!(["-s", "192.0.2.2"]);
    conf["conditionsV6"] = json!(["!", "-s", "2001:db8:ffff::/64"]);
    publish(host, &red, &BOTH, &conf);
    assert!(outside.ask_tcp(ip("192.0.2.1"), 8080).is_ok());
    assert!(outside.ask_tcp(ip("2001:db8:ffff::1"), 8080).is_err());
    outside.ip("route add 192.0.2.1/32 dev eth0 src 192.0.2.3");
    assert!(outside.ask_tcp(ip("192.0.2.1"), 8080).is_err());
    Ok(())
}

pub(crate) fn a_chain_of_others_marks(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.lab.sh("iptables -t nat -N MARKS; ip6tables -t nat -N MARKS").expect_ok();
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["externalSetMarkChain"] = json!("MARKS");
    publish(host, &red, &V4, &conf);
    let saved = host.lab.sh("iptables-save -t nat").stdout;
    assert!(
        saved.lines().any(|line| line.starts_with("-A CNI-DN-") && line.ends_with("-j MARKS")),
        "{saved}"
    );
    assert!(!saved.contains("CNI-HOSTPORT-SETMARK"), "{saved}");
    Ok(())
}

pub(crate) fn the_iptables_chain_is_the_upstream_name(host: &Host) -> Done {
    let red = host.lab.container("1234");
    let mut conf = portmap("1.0.0", json!([entry(TCP, "tcp")]));
    conf["name"] = json!("test");
    conf["backend"] = json!("iptables");
    let conf = publish(host, &red, &V4, &conf);
    let saved = || host.lab.sh("iptables-save -t nat").stdout;
    assert!(saved().contains("-A CNI-DN-2bbe0c48b91a7d1b8a675"), "{}", saved());
    assert!(saved().contains("dnat name: \\\"test\\\" id: \\\"1234\\\""), "{}", saved());
    host.plugin("portmap").json(&conf).del(&red).expect_ok();
    assert!(!saved().contains("CNI-DN-2bbe0c48b91a7d1b8a675"), "{}", saved());
    Ok(())
}

/// The same client goes on sending while the port changes hands.
pub(crate) fn a_udp_flow_follows_its_port(host: &Host) -> Done {
    let outside = host.lab.uplink();
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let _services = (red.serve_udp(53), green.serve_udp(53));
    let client = outside.udp_client(ip("192.0.2.1"), 5353);
    let early = client.ask_within(Duration::from_millis(300));
    assert!(early.is_err(), "before it is published: {early:?}");
    let mappings = json!([entry([5353, 53], "udp")]);
    let conf = published(host, &red, &V4, mappings.clone());
    assert_eq!(client.ask().unwrap().by, "red");
    host.plugin("portmap").json(&conf).del(&red).expect_ok();
    published(host, &green, &V4, mappings);
    assert_eq!(client.ask().unwrap().by, "green");
    Ok(())
}

/// After DEL the port is the host's again, also for a client that has never stopped sending.
pub(crate) fn a_udp_flow_ends_with_its_port(host: &Host) -> Done {
    let outside = host.lab.uplink();
    let red = host.lab.container("red");
    let _service = red.serve_udp(53);
    let client = outside.udp_client(ip("192.0.2.1"), 5353);
    let conf = published(host, &red, &V4, json!([entry([5353, 53], "udp")]));
    assert_eq!(client.ask().unwrap().by, "red");
    host.plugin("portmap").json(&conf).del(&red).expect_ok();
    let _host = host.lab.serve_udp(5353);
    let answer = client.ask().unwrap();
    assert_eq!(answer.by, "host", "the flow still leads to the container");
    Ok(())
}

/// DEL with whatever the runtime has left, for a port of red's beside one of green's.
fn del_with(host: &Host, change: fn(&mut Value), red_goes: fn(&Container), netns: Option<&str>) -> Done {
    let outside = host.lab.uplink();
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    let _services = (red.serve_tcp(80), green.serve_tcp(80));
    let mut conf = published(host, &red, &V4, json!([entry(TCP, "tcp")]));
    published(host, &green, &V4, json!([entry([9090, 80], "tcp")]));
    assert_eq!(outside.ask_tcp(ip("192.0.2.1"), 8080).unwrap().by, "red");

    change(&mut conf);
    red_goes(&red);
    let call = host.plugin("portmap").json(&conf);
    let call = if let Some(path) = netns { call.netns(path) } else { call };
    call.del(&red).expect_ok();
    call.del(&red).expect_ok();
    assert!(leaves(host, "8080"), "the port stayed: {}", rules(host));
    assert_eq!(outside.ask_tcp(ip("192.0.2.1"), 9090).unwrap().by, "green", "DEL of one took the other's");
    Ok(())
}

pub(crate) fn del_takes_its_ports(host: &Host) -> Done {
    del_with(host, |_| (), |_| (), None)
}

pub(crate) fn del_needs_no_previous_result(host: &Host) -> Done {
    del_with(host, |conf| conf["prevResult"] = Value::Null, Container::vanish, Some(""))
}

pub(crate) fn del_needs_no_mappings(host: &Host) -> Done {
    del_with(host, |conf| conf["runtimeConfig"] = json!({}), |_| (), None)
}

pub(crate) fn del_needs_no_sound_configuration(host: &Host) -> Done {
    del_with(host, |conf| conf["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(-1), |_| (), None)
}

pub(crate) fn del_of_what_never_was_succeeds(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("portmap").json(&portmap("1.0.0", json!([entry(TCP, "tcp")]))).del(&red).expect_ok();
    host.plugin("portmap").json(&portmap("1.0.0", json!([]))).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn check_sees_lost_rules(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = published(host, &red, &BOTH, json!([entry(TCP, "tcp"), entry([5353, 53], "udp")]));
    let check = || host.plugin("portmap").json(&conf).check(&red);
    check().expect_ok();
    host.lab.sh("iptables -t nat -F; ip6tables -t nat -F; nft flush ruleset").expect_ok();
    assert_ne!(check().code, 0);
    Ok(())
}

pub(crate) fn check_needs_a_previous_result(host: &Host) -> Done {
    let red = host.lab.container("red");
    let check = host.plugin("portmap").json(&portmap("1.0.0", json!([entry(TCP, "tcp")]))).check(&red);
    assert_ne!(check.code, 0);
    assert!(check.stdout.contains("Required prevResult missing"), "{check}");
    Ok(())
}

pub(crate) fn gc_takes_what_is_not_valid(host: &Host) -> Done {
    let (red, green) = (host.lab.container("red"), host.lab.container("green"));
    published(host, &red, &V4, json!([entry(TCP, "tcp")]));
    published(host, &green, &V4, json!([entry([9090, 80], "tcp")]));
    assert!(rules(host).contains("8080") && rules(host).contains("9090"), "{}", rules(host));
    host.plugin("portmap").json(&portmap("1.1.0", json!([]))).gc(&[("green", "eth0")]).expect_ok();
    assert!(leaves(host, "8080"), "{}", rules(host));
    assert!(rules(host).contains("9090"), "{}", rules(host));
    Ok(())
}

pub(crate) fn gc_without_a_list_refuses(host: &Host) -> Done {
    let call = host.plugin("portmap").json(&portmap("1.1.0", json!([]))).env("CNI_COMMAND", "GC");
    call.env("CNI_PATH", "/nowhere").bare().expect_error(7);
    Ok(())
}

pub(crate) fn status_is_ready(host: &Host) -> Done {
    host.plugin("portmap").json(&portmap("1.1.0", json!([]))).status().expect_ok();
    Ok(())
}

fn round_trip(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    let mut conf = portmap(version, json!([entry(TCP, "tcp")]));
    conf["prevResult"] = host.plugin("bridge").json(&gateway(host, version, &V4)).add(&red).expect_json();
    let result = host.plugin("portmap").json(&conf).add(&red).expect_json();
    assert_eq!(result, conf["prevResult"]);
    if !["0.1.0", "0.2.0", "0.3.0", "0.3.1"].contains(&version) {
        host.plugin("portmap").json(&conf).check(&red).expect_ok();
    }
    host.plugin("portmap").json(&conf).del(&red).expect_ok();
    Ok(())
}

crate::suite::round_trips!();

crate::suite::stories! { portmap: round_trips
    the_previous_result_is_passed_on
    without_a_previous_result_it_is_refused
    without_mappings_it_only_passes_on
    a_container_port_that_is_none_is_refused
    a_host_port_that_is_none_is_refused
    a_host_port_beyond_the_last_is_refused
    a_mark_has_32_bits
    two_marks_are_refused
    an_unknown_backend_is_refused
    iptables_does_not_speak_nft
    nftables_does_not_speak_iptables
    an_unknown_protocol_is_refused
    ports_lead_to_the_container_by_ipv4
    ports_lead_to_the_container_by_ipv6
    the_container_reaches_itself_by_ipv4
    the_container_reaches_itself_by_ipv6
    the_host_calls_127_0_0_1
    the_host_calls_colon_colon_1
    with_masq_all_every_caller_is_the_host
    without_snat_only_others_call
    a_host_ip_is_the_only_one
    what_only_passes_through_is_left_alone
    a_host_ip_of_a_family_the_container_lacks_is_refused
    a_host_ip_of_another_host_is_refused
    a_port_asked_for_twice_is_refused
    a_port_of_another_container_is_refused
    a_port_the_host_listens_on_is_refused
    conditions_of_iptables_apply
    a_chain_of_others_marks
    the_iptables_chain_is_the_upstream_name
    a_udp_flow_follows_its_port
    a_udp_flow_ends_with_its_port
    del_takes_its_ports
    del_needs_no_previous_result
    del_needs_no_mappings
    del_needs_no_sound_configuration
    del_of_what_never_was_succeeds
    check_sees_lost_rules
    check_needs_a_previous_result
    gc_takes_what_is_not_valid
    gc_without_a_list_refuses
    status_is_ready
}
