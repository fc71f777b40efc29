//! `bandwidth`: what it refuses, and the buckets it makes.

use serde_json::{Value, json};
use weft_testkit::{Container, Program};

use crate::portmap::connect;
use crate::suite::{Done, Host, versions};

const V4: [&str; 1] = ["10.1.2.0/24"];

fn bandwidth(version: &str, more: &Value) -> Value {
    let mut conf = json!({"cniVersion": version, "name": "n1", "type": "bandwidth"});
    for (key, value) in more.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    conf
}

fn connected(host: &Host, container: &Container, more: &Value) -> Value {
    let mut conf = bandwidth("1.0.0", more);
    conf["prevResult"] = connect(host, container, &V4);
    conf
}

fn both() -> Value {
    json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000})
}

/// The token buckets of the host, as `tc` tells them.
fn buckets() -> Vec<String> {
    let listing = Program::new("tc").args(["qdisc", "show"]).run().expect_ok().to_string();
    let mut lines: Vec<_> = listing.lines().filter(|line| line.contains("tbf")).map(String::from).collect();
    lines.sort();
    lines
}

fn ifbs(host: &Host) -> Vec<String> {
    let links = host.lab.ip_json("link show type ifb");
    let names = links.as_array().into_iter().flatten();
    names
        .filter_map(|link| link["ifname"].as_str().map(String::from))
        .filter(|name| name.starts_with("bwp"))
        .collect()
}

pub(crate) fn both_directions_have_a_bucket(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &both());
    let call = host.plugin("bandwidth").json(&conf);
    let result = call.add(&red).expect_json();
    let told = &result["interfaces"][3];
    let ifb = ifbs(host);
    assert_eq!((ifb.len(), told["name"].as_str()), (1, ifb.first().map(String::as_str)));
    assert!(told["sandbox"].as_str().unwrap_or_default().is_empty());
    let buckets = buckets();
    assert_eq!(buckets.len(), 2, "{buckets:?}");
    let veth = conf["prevResult"]["interfaces"][1]["name"].as_str().unwrap();
    let of = |dev: &str| buckets.iter().find(|line| line.contains(dev)).cloned().unwrap_or_default();
    assert!(of(veth).contains("rate 8Mbit"), "{buckets:?}");
    assert!(of(&ifb[0]).contains("rate 16Mbit"), "{buckets:?}");
    let check = host.plugin("bandwidth").json(&conf).prev_result(&result);
    check.check(&red).expect_ok();
    call.del(&red).expect_ok();
    assert!(ifbs(host).is_empty());
    call.del(&red).expect_ok();
    Ok(())
}

pub(crate) fn without_ingress_there_is_one_bucket(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({"egressRate": 8_000_000, "egressBurst": 800_000}));
    host.plugin("bandwidth").json(&conf).add(&red).expect_ok();
    let buckets = buckets();
    assert!(buckets.len() == 1 && buckets[0].contains(&ifbs(host)[0]), "{buckets:?}");
    Ok(())
}

pub(crate) fn without_egress_there_is_no_link(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({"ingressRate": 8_000_000, "ingressBurst": 800_000}));
    host.plugin("bandwidth").json(&conf).add(&red).expect_ok();
    assert_eq!((buckets().len(), ifbs(host).len()), (1, 0));
    Ok(())
}

pub(crate) fn the_runtime_gives_the_rates(host: &Host) -> Done {
    let red = host.lab.container("red");
    let more = json!({"capabilities": {"bandwidth": true}, "runtimeConfig": {"bandwidth": both()}});
    host.plugin("bandwidth").json(&connected(host, &red, &more)).add(&red).expect_ok();
    assert_eq!(buckets().len(), 2);
    Ok(())
}

pub(crate) fn the_configuration_beats_the_runtime(host: &Host) -> Done {
    let red = host.lab.container("red");
    let more = json!({"ingressRate": 80_000, "ingressBurst": 80_000, "runtimeConfig": {"bandwidth": both()}});
    host.plugin("bandwidth").json(&connected(host, &red, &more)).add(&red).expect_ok();
    let buckets = buckets();
    assert!(buckets.len() == 1 && buckets[0].contains("rate 80Kbit"), "{buckets:?}");
    Ok(())
}

pub(crate) fn without_rates_it_only_passes_on(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &json!({}));
    let result = host.plugin("bandwidth").json(&conf).add(&red).expect_json();
    assert_eq!((&result, buckets().len()), (&conf["prevResult"], 0));
    Ok(())
}

pub(crate) fn without_a_previous_result_it_is_refused(host: &Host) -> Done {
    let red = host.lab.container("red");
    let refused = host.plugin("bandwidth").json(&bandwidth("1.0.0", &both())).add(&red);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(refused.stdout.contains("must be called as chained plugin"), "{refused}");
    Ok(())
}

fn refused(host: &Host, more: &Value, edit: impl Fn(&mut Value), words: &str) -> Done {
    let red = host.lab.container("red");
    let mut conf = connected(host, &red, more);
    edit(&mut conf["prevResult"]);
    let before = host.lab.snapshot();
    let refused = host.plugin("bandwidth").json(&conf).add(&red);
    assert_ne!(refused.code, 0, "it was not refused: {refused}");
    assert!(refused.stdout.contains(words), "wanted {words:?}: {refused}");
    host.lab.assert_restored(&before);
    Ok(())
}

pub(crate) fn a_rate_needs_a_burst(host: &Host) -> Done {
    refused(host, &json!({"ingressRate": 8}), |_| (), "if rate is set, burst must also be set")
}

pub(crate) fn a_burst_needs_a_rate(host: &Host) -> Done {
    refused(host, &json!({"egressBurst": 8}), |_| (), "if burst is set, rate must also be set")
}

pub(crate) fn a_burst_has_an_end(host: &Host) -> Done {
    let more = json!({"ingressRate": 8, "ingressBurst": 34_359_738_360_u64});
    refused(host, &more, |_| (), "burst cannot be more than 4GB")
}

pub(crate) fn a_result_without_interfaces_is_refused(host: &Host) -> Done {
    refused(host, &both(), |result| result["interfaces"] = json!([]), "no interfaces provided")
}

pub(crate) fn a_result_without_the_peer_is_refused(host: &Host) -> Done {
    let edit = |result: &mut Value| result["interfaces"][1]["name"] = "other0".into();
    refused(host, &both(), edit, "no veth peer of container interface found in host ns")
}

pub(crate) fn subnets_are_left_alone(host: &Host) -> Done {
    let red = host.lab.container("red");
    let mut more = both();
    more["unshapedSubnets"] = json!(["10.0.0.0/8", "fd00:db8:abcd:1234:e000::/68"]);
    let conf = connected(host, &red, &more);
    let call = host.plugin("bandwidth").json(&conf);
    let result = call.add(&red).expect_json();
    let listing = Program::new("tc").args(["qdisc", "show"]).run().expect_ok().to_string();
    assert_eq!(listing.matches("htb").count(), 2, "the subnets were passed over: {listing}");
    host.plugin("bandwidth").json(&conf).prev_result(&result).check(&red).expect_ok();
    call.del(&red).expect_ok();
    Ok(())
}

pub(crate) fn two_interfaces_have_buckets_of_their_own(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &both());
    host.plugin("bandwidth").json(&conf).add(&red).expect_ok();
    let bridge = crate::bridge::gateway(host, "1.0.0", &V4);
    let mut second = bandwidth("1.0.0", &both());
    second["prevResult"] = host.plugin("bridge").json(&bridge).ifname("eth1").add(&red).expect_json();
    let call = host.plugin("bandwidth").json(&second).ifname("eth1");
    call.add(&red).expect_ok();
    assert_eq!((buckets().len(), ifbs(host).len()), (4, 2));
    call.del(&red).expect_ok();
    assert_eq!(ifbs(host).len(), 1, "the other's stays");
    Ok(())
}

pub(crate) fn del_takes_the_bucket_of_the_host(host: &Host) -> Done {
    let red = host.lab.container("red");
    let call = host.plugin("bandwidth").json(&connected(host, &red, &both()));
    call.add(&red).expect_ok();
    call.del(&red).expect_ok();
    assert!(buckets().is_empty(), "a bucket stayed");
    Ok(())
}

pub(crate) fn del_without_a_namespace_takes_the_link(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bandwidth").json(&connected(host, &red, &both())).add(&red).expect_ok();
    assert_eq!(ifbs(host).len(), 1);
    red.vanish();
    host.plugin("bandwidth").json(&bandwidth("1.0.0", &both())).netns("").del(&red).expect_ok();
    assert!(ifbs(host).is_empty());
    Ok(())
}

pub(crate) fn del_needs_no_sound_configuration(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &both());
    host.plugin("bandwidth").json(&conf).add(&red).expect_ok();
    host.plugin("bandwidth").json(&bandwidth("1.0.0", &json!({"ingressRate": 8}))).del(&red).expect_ok();
    assert!(ifbs(host).is_empty());
    Ok(())
}

pub(crate) fn check_sees_a_lost_bucket(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &both());
    let result = host.plugin("bandwidth").json(&conf).add(&red).expect_json();
    let call = host.plugin("bandwidth").json(&conf).prev_result(&result);
    call.check(&red).expect_ok();
    let veth = conf["prevResult"]["interfaces"][1]["name"].as_str().unwrap();
    host.lab.sh(&format!("tc qdisc del dev {veth} root")).expect_ok();
    let refused = call.check(&red);
    assert!(refused.code != 0 && refused.stdout.contains("Failed to find qdisc"), "{refused}");
    Ok(())
}

pub(crate) fn check_sees_another_rate(host: &Host) -> Done {
    let red = host.lab.container("red");
    let conf = connected(host, &red, &both());
    let result = host.plugin("bandwidth").json(&conf).add(&red).expect_json();
    let veth = conf["prevResult"]["interfaces"][1]["name"].as_str().unwrap();
    host.lab
        .sh(&format!("tc qdisc change dev {veth} root handle 1: tbf rate 1mbit burst 10k latency 25ms"))
        .expect_ok();
    let refused = host.plugin("bandwidth").json(&conf).prev_result(&result).check(&red);
    assert!(refused.code != 0 && refused.stdout.contains("Rate doesn't match"), "{refused}");
    Ok(())
}

pub(crate) fn gc_takes_what_is_not_valid(host: &Host) -> Done {
    let red = host.lab.container("red");
    host.plugin("bandwidth").json(&connected(host, &red, &both())).add(&red).expect_ok();
    let gc = |valid: &[(&str, &str)]| host.plugin("bandwidth").json(&bandwidth("1.1.0", &both())).gc(valid);
    gc(&[("red", "eth0")]).expect_ok();
    assert_eq!(ifbs(host).len(), 1, "a valid one stays");
    gc(&[]).expect_ok();
    assert_eq!((ifbs(host).len(), buckets().len()), (0, 0));
    Ok(())
}

pub(crate) fn status_is_ready(host: &Host) -> Done {
    host.plugin("bandwidth").json(&bandwidth("1.1.0", &both())).status().expect_ok();
    Ok(())
}

fn round_trip(host: &Host, version: &str) -> Done {
    let red = host.lab.container("red");
    let bridge = crate::bridge::gateway(host, version, &V4);
    let mut conf = bandwidth(version, &both());
    conf["prevResult"] = host.plugin("bridge").json(&bridge).add(&red).expect_json();
    let result = host.plugin("bandwidth").json(&conf).add(&red).expect_json();
    assert_eq!((&result["cniVersion"], buckets().len()), (&json!(version), 2));
    let call = host.plugin("bandwidth").json(&conf).prev_result(&result);
    if version >= "0.4.0" {
        call.check(&red).expect_ok();
    }
    call.del(&red).expect_ok();
    assert!(ifbs(host).is_empty());
    Ok(())
}

versions! { round_trip:
    round_trip_0_3_0 "0.3.0"
    round_trip_0_3_1 "0.3.1"
    round_trip_0_4_0 "0.4.0"
    round_trip_1_0_0 "1.0.0"
    round_trip_1_1_0 "1.1.0"
}

crate::suite::stories! { bandwidth:
    both_directions_have_a_bucket
    without_ingress_there_is_one_bucket
    without_egress_there_is_no_link
    the_runtime_gives_the_rates
    the_configuration_beats_the_runtime
    without_rates_it_only_passes_on
    without_a_previous_result_it_is_refused
    a_rate_needs_a_burst
    a_burst_needs_a_rate
    a_burst_has_an_end
    a_result_without_interfaces_is_refused
    a_result_without_the_peer_is_refused
    subnets_are_left_alone
    two_interfaces_have_buckets_of_their_own
    del_takes_the_bucket_of_the_host
    del_without_a_namespace_takes_the_link
    del_needs_no_sound_configuration
    check_sees_a_lost_bucket
    check_sees_another_rate
    gc_takes_what_is_not_valid
    status_is_ready
    round_trip_0_3_0
    round_trip_0_3_1
    round_trip_0_4_0
    round_trip_1_0_0
    round_trip_1_1_0
}
