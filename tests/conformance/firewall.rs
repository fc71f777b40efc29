//! `firewall`: what it refuses, the rules it writes by iptables, and what they do to traffic.

use serde_json::{Value, json};
use weft_testkit::{Container, Output, Program, does_not_reach, reaches};

use crate::portmap::connect;
use crate::suite::{Done, Host, Lack, versions};

const BOTH: [&str; 2] = ["10.1.2.0/24", "2001:db8:1::/64"];
const ADDRESSES: [&str; 2] = ["10.1.2.2", "2001:db8:1::2"];
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:ffff::2"];

fn firewall(version: &str, more: Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "n1", "type": "firewall", "backend": "iptables"});
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

/// Connects a container to a bridge, and returns a configuration with the result.
fn connected(host: &Host, container: &Container, more: Value) -> Value {
    let mut conf = firewall("1.0.0", more);
    conf["prevResult"] = connect(host, container, &BOTH);
    conf
}

/// Runs iptables of both families.
fn both(words: &str) -> Result<String, Lack> {
    let run = |program: &str| Program::new(program).args(words.split(' ')).run();
    let outputs: [Output; 2] = ["iptables", "ip6tables"].map(run);
    if outputs.iter().any(|output| output.code != 0) && words.starts_with("-S") {
        return Err(Lack("iptables of both families to work here"));
    }
    Ok(outputs.map(|output| output.expect_ok().to_string()).concat())
}

pub(crate) fn without_a_previous_result_it_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("firewall").json(&firewall("1.0.0", json!({}))).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("missing prevResult from earlier plugin"), "{refused}");
    Ok(())
}

pub(crate) fn an_unknown_policy_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, json!({"ingressPolicy": "shut"}));
    let refused = host.plugin("firewall").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains(r#"unknown ingress policy: \"shut\""#), "{refused}");
    Ok(())
}

pub(crate) fn a_policy_needs_an_interface(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut conf = firewall("1.0.0", json!({"ingressPolicy": "same-bridge"}));
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.2/24"}]});
    let refused = host.plugin("firewall").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    let words = r#"interface needs to be set for ingress policy \"same-bridge\", make sure to chain \"firewall\" plugin with \"bridge\""#;
    assert!(refused.stdout.contains(words), "{refused}");
    Ok(())
}

pub(crate) fn the_rules_are_those_of_the_reference(host: &Host) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    let conf = connected(host, &red, json!({}));
    let call = host.plugin("firewall").json(&conf);
    assert_eq!(call.add(&red).expect_json(), conf["prevResult"], "the result is passed on");
    call.add(&red).expect_ok();
    let rules = both("-S")?;
    let [v4, v6] = [format!("{}/32", ADDRESSES[0]), format!("{}/128", ADDRESSES[1])];
    for addr in [&v4, &v6] {
        let own: Vec<_> = rules.lines().filter(|line| line.contains(addr.as_str())).collect();
        assert_eq!(
            own,
            [
                format!("-A CNI-FORWARD -d {addr} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
                format!("-A CNI-FORWARD -s {addr} -j ACCEPT"),
            ]
        );
    }
    let jump = r#"-A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD"#;
    let admin = r#"-A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN"#;
    assert_eq!((rules.matches(jump).count(), rules.matches(admin).count()), (2, 2), "{rules}");
    Ok(())
}

pub(crate) fn the_administrators_chain_has_the_name_asked_for(host: &Host) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    let conf = connected(host, &red, json!({"iptablesAdminChainName": "CNI-foobar"}));
    host.plugin("firewall").json(&conf).add(&red).expect_ok();
    let rules = both("-S")?;
    assert_eq!(rules.matches("-j CNI-foobar").count(), 2, "{rules}");
    assert!(!rules.contains("CNI-ADMIN"), "{rules}");
    Ok(())
}

pub(crate) fn del_takes_the_rules_and_leaves_the_chains(host: &Host) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    let call = host.plugin("firewall").json(&connected(host, &red, json!({})));
    call.add(&red).expect_ok();
    assert!(both("-S")?.contains(ADDRESSES[0]));
    call.del(&red).expect_ok();
    call.del(&red).expect_ok();
    let rules = both("-S")?;
    assert!(ADDRESSES.iter().all(|addr| !rules.contains(addr)), "{rules}");
    assert_eq!(rules.matches("-N CNI-FORWARD").count(), 2, "{rules}");
    assert_eq!(rules.matches("-j CNI-ADMIN").count(), 2, "{rules}");
    Ok(())
}

pub(crate) fn del_without_a_previous_result_succeeds(host: &Host) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    host.plugin("firewall").json(&firewall("1.0.0", json!({}))).del(&red).expect_ok();
    Ok(())
}

pub(crate) fn del_without_a_previous_result_takes_the_rules(host: &Host) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    host.plugin("firewall").json(&connected(host, &red, json!({}))).add(&red).expect_ok();
    assert!(both("-S")?.contains(ADDRESSES[0]));
    host.plugin("firewall").json(&firewall("1.0.0", json!({}))).del(&red).expect_ok();
    let rules = both("-S")?;
    assert!(ADDRESSES.iter().all(|addr| !rules.contains(addr)), "{rules}");
    Ok(())
}

pub(crate) fn check_misses_a_lost_rule(host: &Host) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    let call = host.plugin("firewall").json(&connected(host, &red, json!({})));
    call.add(&red).expect_ok();
    call.check(&red).expect_ok();
    let rule = format!("CNI-FORWARD -s {} -j ACCEPT", ADDRESSES[0]);
    Program::new("iptables").args(format!("-D {rule}").split(' ')).run().expect_ok();
    let refused = call.check(&red);
    assert!(refused.stdout.contains("expected ") && refused.stdout.contains("not found"), "{refused}");
    Ok(())
}

pub(crate) fn check_needs_a_previous_result(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("firewall").json(&firewall("1.0.0", json!({}))).check(&red);
    assert!(refused.stdout.contains("missing prevResult from earlier plugin"), "{refused}");
    Ok(())
}

pub(crate) fn a_container_passes_a_filter_that_drops(host: &Host) -> Done {
    both("-S FORWARD")?;
    let outside = host.lab.uplink();
    outside.ip("route add 10.1.2.0/24 via 192.0.2.1");
    outside.ip("route add 2001:db8:1::/64 via 2001:db8:ffff::1");
    let red = host.lab.container("red");
    let call = host.plugin("firewall").json(&connected(host, &red, json!({})));
    reaches(&red, OUTSIDE);
    both("-P FORWARD DROP")?;
    does_not_reach(&red, OUTSIDE);
    call.add(&red).expect_ok();
    reaches(&red, OUTSIDE);
    does_not_reach(&outside, ADDRESSES);
    call.del(&red).expect_ok();
    does_not_reach(&red, OUTSIDE);
    Ok(())
}

pub(crate) fn ipv4_alone_needs_no_ip6tables(host: &Host) -> Done {
    both("-S FORWARD")?;
    let folder = host.lab.path("programs");
    std::fs::create_dir_all(&folder).unwrap();
    for end in ["", "-save", "-restore"] {
        let program = format!("iptables{end}");
        std::os::unix::fs::symlink(format!("/usr/sbin/{program}"), folder.join(program)).unwrap();
    }
    let red = host.lab.container("red");
    let mut conf = firewall("1.0.0", json!({}));
    conf["prevResult"] = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.2/24"}]});
    let call = host.plugin("firewall").json(&conf).env("PATH", folder.display().to_string());
    call.add(&red).expect_ok();
    assert!(both("-S")?.contains("-s 10.1.2.2/32 -j ACCEPT"));
    call.del(&red).expect_ok();
    Ok(())
}

pub(crate) fn gc_takes_what_is_not_valid(host: &Host) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    host.plugin("firewall").json(&connected(host, &red, json!({}))).add(&red).expect_ok();
    let gc = |valid: &[(&str, &str)]| host.plugin("firewall").json(&firewall("1.1.0", json!({}))).gc(valid);
    gc(&[("red", "eth0")]).expect_ok();
    assert!(both("-S")?.contains(ADDRESSES[0]), "a valid one stays");
    gc(&[]).expect_ok();
    let rules = both("-S")?;
    assert!(ADDRESSES.iter().all(|addr| !rules.contains(addr)), "{rules}");
    Ok(())
}

pub(crate) fn status_is_ready(host: &Host) -> Done {
    both("-S FORWARD")?;
    host.plugin("firewall").json(&firewall("1.1.0", json!({}))).status().expect_ok();
    Ok(())
}

/// Two bridges, foo with two containers and bar with one, and what this policy makes of them.
fn bridges(host: &Host, policy: &str) -> Result<[Container; 3], Lack> {
    both("-S FORWARD")?;
    let joined = |name: &str, bridge: &str, subnet: &str| {
        let container = host.lab.container(name);
        let conf = json!({
            "cniVersion": "1.0.0", "name": bridge, "type": "bridge", "bridge": bridge, "isDefaultGateway": true,
            "ipam": {"type": "host-local", "subnet": subnet, "dataDir": host.lab.path("leases")},
        });
        let result = host.plugin("bridge").json(&conf).add(&container).expect_json();
        let mut conf = firewall("1.0.0", json!({"ingressPolicy": policy}));
        conf["name"] = bridge.into();
        conf["prevResult"] = result;
        (container, conf)
    };
    let all = [
        joined("foo1", "foo", "10.88.3.0/24"),
        joined("foo2", "foo", "10.88.3.0/24"),
        joined("bar1", "bar", "10.88.4.0/24"),
    ];
    reaches(&all[0].0, ["10.88.3.3", "10.88.4.2"]);
    for (container, conf) in &all {
        host.plugin("firewall").json(conf).add(container).expect_ok();
    }
    Ok(all.map(|(container, _)| container))
}

pub(crate) fn bridges_with_a_policy_are_apart(host: &Host) -> Done {
    let [one, two, other] = bridges(host, "same-bridge")?;
    reaches(&one, ["10.88.3.3"]);
    reaches(&two, ["10.88.3.2"]);
    for container in [&one, &two] {
        does_not_reach(container, ["10.88.4.2"]);
    }
    does_not_reach(&other, ["10.88.3.2", "10.88.3.3"]);
    Ok(())
}

pub(crate) fn an_isolated_bridge_keeps_its_containers_apart(host: &Host) -> Done {
    if !std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
        return Err(Lack("br_netfilter"));
    }
    host.lab.set_sysctl("bridge/bridge-nf-call-iptables", "1");
    let [one, two, other] = bridges(host, "isolated")?;
    does_not_reach(&one, ["10.88.3.3", "10.88.4.2"]);
    does_not_reach(&two, ["10.88.3.2", "10.88.4.2"]);
    does_not_reach(&other, ["10.88.3.2", "10.88.3.3"]);
    Ok(())
}

/// ADD, CHECK where the version has it, and DEL.
fn round_trip(host: &Host, version: &str) -> Done {
    both("-S FORWARD")?;
    let red = host.lab.container("red");
    let mut ip = json!({"version": "4", "address": "10.1.2.2/24", "gateway": "10.1.2.1", "interface": 0});
    if version >= "1.0.0" {
        ip.as_object_mut().unwrap().remove("version");
    }
    let mut conf = firewall(version, json!({}));
    conf["prevResult"] = json!({
        "cniVersion": version, "ips": [ip], "dns": {},
        "interfaces": [{"name": "eth0", "sandbox": red.netns().display().to_string()}],
    });
    let call = host.plugin("firewall").json(&conf);
    let told = call.add(&red).expect_json();
    assert_eq!((&told["cniVersion"], &told["ips"]), (&json!(version), &conf["prevResult"]["ips"]));
    if version >= "0.4.0" {
        call.check(&red).expect_ok();
    }
    assert!(both("-S")?.contains("-s 10.1.2.2/32 -j ACCEPT"));
    call.del(&red).expect_ok();
    assert!(!both("-S")?.contains("10.1.2.2"));
    Ok(())
}

versions! { round_trip:
    round_trip_0_3_0 "0.3.0"
    round_trip_0_3_1 "0.3.1"
    round_trip_0_4_0 "0.4.0"
    round_trip_1_0_0 "1.0.0"
    round_trip_1_1_0 "1.1.0"
}

crate::suite::stories! { firewall:
    without_a_previous_result_it_is_refused
    an_unknown_policy_is_refused
    a_policy_needs_an_interface
    the_rules_are_those_of_the_reference
    the_administrators_chain_has_the_name_asked_for
    del_takes_the_rules_and_leaves_the_chains
    del_without_a_previous_result_succeeds
    del_without_a_previous_result_takes_the_rules
    check_misses_a_lost_rule
    check_needs_a_previous_result
    a_container_passes_a_filter_that_drops
    bridges_with_a_policy_are_apart
    an_isolated_bridge_keeps_its_containers_apart
    ipv4_alone_needs_no_ip6tables
    gc_takes_what_is_not_valid
    status_is_ready
    round_trip_0_3_0
    round_trip_0_3_1
    round_trip_0_4_0
    round_trip_1_0_0
    round_trip_1_1_0
}
