//! The chained `bandwidth` plugin: what it slows down, and what becomes of the host.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, PluginCall, skip_unless};

/// What is sent in one go, in bytes.
const LOAD: usize = 1_000_000;
/// A rate in bits a second at which that takes some two seconds.
const RATE: u64 = 4_000_000;

fn bandwidth<'lab>(lab: &'lab Lab, keys: &Value) -> PluginCall<'lab> {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": "bandwidth"});
    for (key, value) in keys.as_object().into_iter().flatten() {
        conf[key] = value.clone();
    }
    lab.plugin("bandwidth").json(&conf)
}

fn connected(lab: &Lab, name: &str) -> (Container, Value, IpAddr) {
    let container = lab.container(name);
    let conf = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "bridge", "isDefaultGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.90.0.0/24"},
    });
    let result = lab.plugin("bridge").json(&conf).add(&container).expect_json();
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    (container, result, address)
}

fn rates(direction: &str) -> Value {
    json!({format!("{direction}Rate"): RATE, format!("{direction}Burst"): 400_000})
}

/// Sends the load from one place to a listener in another, and returns how long it took until all had arrived.
fn transfer(listener: TcpListener, connect: impl FnOnce() -> TcpStream) -> Duration {
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received.len()
    });
    let start = Instant::now();
    let mut stream = connect();
    stream.write_all(&vec![7; LOAD]).unwrap();
    drop(stream);
    assert_eq!(server.join().unwrap(), LOAD);
    start.elapsed()
}

/// From the host to the container.
fn down(container: &Container, address: IpAddr) -> Duration {
    let listener = container.inside(|| TcpListener::bind(SocketAddr::new(address, 0))).unwrap();
    let to = listener.local_addr().unwrap();
    transfer(listener, || TcpStream::connect(to).unwrap())
}

/// From the container to the host.
fn up(container: &Container) -> Duration {
    let listener = TcpListener::bind("10.90.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    transfer(listener, || container.inside(|| TcpStream::connect(to)).unwrap())
}

/// At most three times the rate: a megabyte takes at least half a second, and the twin without a bucket less.
fn assert_slow(slow: Duration, twin: Duration) {
    let least = Duration::from_secs_f64(LOAD as f64 * 8.0 / RATE as f64 / 4.0);
    assert!(slow >= least, "{slow:?} is faster than the rate allows");
    assert!(twin < slow, "the one without a bucket took {twin:?}, and not less than {slow:?}");
}

fn queues(lab: &Lab) -> String {
    lab.sh("tc qdisc show; tc filter show").expect_ok().to_string()
}

#[test]
fn what_the_container_receives_is_slowed_down() {
    let lab = Lab::new();
    let (red, result, red_at) = connected(&lab, "red");
    let (blue, _, blue_at) = connected(&lab, "blue");
    bandwidth(&lab, &rates("ingress")).prev_result(&result).add(&red).expect_ok();
    let (slow, twin) = (down(&red, red_at), down(&blue, blue_at));
    assert_slow(slow, twin);
    assert!(up(&red) < slow, "the other way is free");
}

#[test]
fn what_the_container_sends_is_slowed_down() {
    let lab = Lab::new();
    let (red, result, red_at) = connected(&lab, "red");
    let (blue, ..) = connected(&lab, "blue");
    bandwidth(&lab, &rates("egress")).prev_result(&result).add(&red).expect_ok();
    let (slow, twin) = (up(&red), up(&blue));
    assert_slow(slow, twin);
    assert!(down(&red, red_at) < slow, "the other way is free");
}

#[test]
fn subnets_decide() {
    for (key, subnet, slowed) in [
        ("unshapedSubnets", "10.90.0.1/32", false),
        ("unshapedSubnets", "192.0.2.0/24", true),
        ("shapedSubnets", "10.90.0.1/32", true),
        ("shapedSubnets", "192.0.2.0/24", false),
    ] {
        thread::scope(|scope| {
            let told = scope.spawn(|| {
                let lab = Lab::new();
                let (red, result, red_at) = connected(&lab, "red");
                let mut keys = json!({
                    "ingressRate": RATE, "ingressBurst": 400_000, "egressRate": RATE, "egressBurst": 400_000,
                });
                keys[key] = json!([subnet, "fd00::/8"]);
                let told = bandwidth(&lab, &keys).prev_result(&result).add(&red).expect_json();
                bandwidth(&lab, &keys).prev_result(&told).check(&red).expect_ok();
                let least = Duration::from_secs_f64(LOAD as f64 * 8.0 / RATE as f64 / 4.0);
                for took in [down(&red, red_at), up(&red)] {
                    assert_eq!(took >= least, slowed, "{took:?}");
                }
            });
            told.join().unwrap_or_else(|_| panic!("{key} {subnet}"));
        });
    }
}

#[test]
fn the_host_is_as_before() {
    let lab = Lab::new();
    let (red, result, _) = connected(&lab, "red");
    let (before, queues_before) = (lab.snapshot(), queues(&lab));
    let mut keys = rates("ingress");
    keys.as_object_mut().unwrap().extend(rates("egress").as_object().unwrap().clone());
    let call = bandwidth(&lab, &keys).prev_result(&result);
    let told = call.add(&red).expect_json();
    assert_eq!(told["interfaces"].as_array().unwrap().len(), 4);
    assert_ne!(lab.snapshot(), before, "ADD did nothing, so DEL proves nothing");
    assert_ne!(queues(&lab), queues_before);
    call.add(&red).expect_ok();
    bandwidth(&lab, &keys).prev_result(&told).check(&red).expect_ok();
    bandwidth(&lab, &keys).del(&red).expect_ok();
    lab.assert_restored(&before);
    assert_eq!(queues(&lab), queues_before);
    bandwidth(&lab, &keys).del(&red).expect_ok();
}

#[test]
fn a_failed_add_leaves_nothing() {
    let lab = Lab::new();
    let (red, result, _) = connected(&lab, "red");
    // Where the link that takes what the container sends should be, there is another one.
    let name = {
        let told = bandwidth(&lab, &rates("egress")).prev_result(&result).add(&red).expect_json();
        bandwidth(&lab, &rates("egress")).del(&red).expect_ok();
        told["interfaces"][3]["name"].as_str().unwrap().to_string()
    };
    lab.ip(&format!("link add {name} type bridge"));
    let (before, queues_before) = (lab.snapshot(), queues(&lab));
    let mut keys = rates("ingress");
    keys.as_object_mut().unwrap().extend(rates("egress").as_object().unwrap().clone());
    let refused = bandwidth(&lab, &keys).prev_result(&result).add(&red);
    assert!(refused.code != 0 && refused.stdout.contains("is not a ifb"), "{refused}");
    lab.assert_restored(&before);
    assert_eq!(queues(&lab), queues_before);
    // What is no link of ours stays.
    bandwidth(&lab, &keys).del(&red).expect_ok();
    assert!(lab.has_link(&name));
}

#[test]
fn del_succeeds_in_every_bad_case() {
    let lab = Lab::new();
    let none = lab.snapshot();
    bandwidth(&lab, &rates("egress")).netns("").id("never").del(&lab.container("unseen")).expect_ok();
    lab.assert_restored(&none);
    let ifbs = || lab.ip("link show type ifb").lines().filter(|line| line.contains("bwp")).count();
    type Case = fn(&Lab, &Container, PluginCall<'_>);
    let cases: [(&str, Case); 5] = [
        ("gone", |_, red, call| {
            red.vanish();
            call.del(red).expect_ok();
        }),
        ("empty", |_, red, call| {
            call.netns("").del(red).expect_ok();
        }),
        ("file", |_, red, call| {
            red.vanish_leaving_a_file();
            call.del(red).expect_ok();
            std::fs::remove_file(red.netns()).unwrap();
        }),
        ("nolink", |_, red, call| {
            red.ip("link delete eth0");
            call.del(red).expect_ok();
        }),
        ("broken", |lab, red, _| {
            let conf = r#"{"cniVersion": "1.1.0", "name": "net", "type": "bandwidth", "ingressRate": "x", "prevResult": 5}"#;
            lab.plugin("bandwidth").conf(conf).del(red).expect_ok();
        }),
    ];
    for (name, case) in cases {
        let (red, result, _) = connected(&lab, name);
        bandwidth(&lab, &rates("egress")).prev_result(&result).add(&red).expect_ok();
        assert_eq!(ifbs(), 1, "{name}");
        case(&lab, &red, bandwidth(&lab, &rates("egress")));
        assert_eq!(ifbs(), 0, "{name}: the link stayed");
        assert!(!lab.path("run/weft/chained/bandwidth").join(name).exists(), "{name}: the record stayed");
    }
}

/// A kernel that lacks what `tc` is asked for here names the option, and nothing stays.
fn refused_without(feature: &str, keys: &Value, option: &str) {
    let lab = Lab::new();
    let (red, result, _) = connected(&lab, "red");
    let filter = "tc qdisc add dev probe0 ingress && tc filter add dev probe0 parent ffff: u32 match u32 0 0";
    let words = match feature {
        "tbf" => "tc qdisc add dev probe0 root tbf rate 1mbit burst 10kb latency 10ms".into(),
        "ifb" => "ip link add probe1 type ifb".into(),
        "ingress" => "tc qdisc add dev probe0 ingress".into(),
        "u32" => filter.to_string(),
        _ => format!("{filter} action mirred egress redirect dev lo"),
    };
    let there = lab.sh(&format!("ip link add probe0 type veth peer name probe2 && {words}"));
    lab.sh("ip link delete probe0; ip link delete probe1");
    skip_unless!(there.code != 0, format!("a kernel without {option}, which this test is about"));
    let before = lab.snapshot();
    let refused = bandwidth(&lab, keys).prev_result(&result).add(&red).expect_error(7);
    assert!(refused["msg"].as_str().unwrap().contains(option), "{refused}");
    lab.assert_restored(&before);
}

#[test]
fn a_kernel_without_buckets_is_told_apart() {
    refused_without("tbf", &rates("ingress"), "CONFIG_NET_SCH_TBF");
}

#[test]
fn a_kernel_without_ifb_is_told_apart() {
    refused_without("ifb", &rates("egress"), "CONFIG_IFB");
}

#[test]
fn a_kernel_without_ingress_is_told_apart() {
    refused_without("ingress", &rates("egress"), "CONFIG_NET_SCH_INGRESS");
}

#[test]
fn a_kernel_without_u32_is_told_apart() {
    refused_without("u32", &rates("egress"), "CONFIG_NET_CLS_U32");
}

#[test]
fn a_kernel_without_mirred_is_told_apart() {
    refused_without("mirred", &rates("egress"), "CONFIG_NET_ACT_MIRRED");
}
