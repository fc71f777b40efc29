//! The plugin `overlay` as a runtime calls it.

use serde_json::{Value, json};
use weft_testkit::{Host, StaticNetwork, Underlay, reaches};

const BLUE: StaticNetwork = StaticNetwork::new("blue", 5000, "10.1", "fd00:1");

fn conf() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "blue",
        "type": "overlay",
        "ipam": {"type": "host-local", "ranges": [
            [{"subnet": "10.1.0.64/26", "gateway": "10.1.0.65"}],
            [{"subnet": "fd00:1::40/122", "gateway": "fd00:1::41"}],
        ]},
    })
}

/// What a host is, line by line.
fn lines(host: &Host) -> Vec<String> {
    let snapshot = format!("{:?}", host.snapshot());
    let ours = |line: &&str| !line.contains("run/weft/overlay");
    snapshot.lines().filter(ours).map(str::to_string).collect()
}

#[test]
fn every_verb_keeps_its_promise() {
    let net = Underlay::new(2);
    net.write_statics(&[BLUE], "v4");
    let host = net.host(1);
    let (red, pink) = (host.container("red"), host.container("pink"));
    let plugin = || host.plugin("overlay").json(&conf());
    plugin().status().expect_ok();
    // Forwarding stays on when the network goes, as on any host with containers.
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        .expect_ok();
    host.ip("route add 10.99.0.0/16 via 192.0.2.2");
    let before = lines(host);

    let result = plugin().add(&red).expect_json();
    let ips: Vec<_> = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].clone()).collect();
    assert_eq!(ips, ["10.1.0.66/26", "fd00:1::42/122"]);
    assert_eq!(result["interfaces"][0]["name"], "ovb1388", "{result}");
    plugin().prev_result(&result).check(&red).expect_ok();
    let with_one = lines(host);
    assert_ne!(with_one, before, "ADD did nothing, so DEL proves nothing");

    // Another one comes and goes: nothing of the first or of the network goes with it.
    plugin().add(&pink).expect_ok();
    reaches(&red, ["10.1.0.67", "fd00:1::43"]);
    plugin().del(&pink).expect_ok();
    plugin().del(&pink).expect_ok();
    let mut now = lines(host);
    now.retain(|line| !line.contains("last_reserved_ip") && !line.contains(".index"));
    let mut then = with_one.clone();
    then.retain(|line| !line.contains("last_reserved_ip") && !line.contains(".index"));
    assert_eq!(now, then);

    // CHECK tells what is missing, each thing by name.
    for (damage, words) in [
        ("ip link set ov1388 mtu 1300", "ov1388 has MTU 1300, not 1450"),
        ("ip route delete blackhole 10.1.0.64/26", "route blackhole 10.1.0.64/26"),
        ("ip address delete 10.1.0.65/26 dev ovb1388", "ovb1388 does not have address 10.1.0.65/26"),
        ("ip link delete ov1388", "ov1388 does not exist"),
    ] {
        host.sh(damage).expect_ok();
        let failure = plugin().prev_result(&result).check(&red).expect_error(999);
        assert!(failure["msg"].as_str().unwrap().contains(words), "{damage}: {failure}");
    }
    host.weft(["overlay", "apply"]);
    plugin().del(&red).expect_ok();
    plugin().del(&red).expect_ok();

    // The network goes when the runtime says that nobody is left.
    plugin().gc(&[]).expect_ok();
    assert!(!host.has_link("ov1388") && !host.has_link("ovb1388"));
    // It was the last: the guard of all of them goes, too.
    let mut now = lines(host);
    let mut then = before;
    for lines in [&mut now, &mut then] {
        lines.retain(|line| !line.contains("var/lib/cni"));
    }
    assert_eq!(now, then);
}

/// What versions before 1.1.0 have: a result of their own version, CHECK, DEL as often as somebody likes, and neither GC nor STATUS.
#[test]
fn older_versions_have_their_verbs() {
    let net = Underlay::new(2);
    net.statics(&[BLUE], "v4");
    let (host, far) = (net.host(1), net.host(2).connected("blue", "far"));
    for version in ["0.4.0", "1.0.0"] {
        let mut conf = conf();
        conf["cniVersion"] = version.into();
        let plugin = || host.plugin("overlay").json(&conf);
        let red = host.container(&format!("v{}", version.replace('.', "-")));
        let result = plugin().add(&red).expect_json();
        assert_eq!(result["cniVersion"], version, "{result}");
        let is_of_old = result["ips"][0]["version"] == "4";
        assert_eq!(is_of_old, version == "0.4.0", "{result}");
        plugin().prev_result(&result).check(&red).expect_ok();
        reaches(&red, &far.1);
        for call in [plugin().gc(&[]), plugin().status()] {
            let failure = call.expect_error(1);
            assert!(failure["msg"].as_str().unwrap().contains("config version does not allow"), "{failure}");
        }
        assert!(red.has_link("eth0"), "GC of a version that has none");
        red.ip("link set eth0 down");
        red.ip("address flush dev eth0");
        plugin().prev_result(&result).check(&red).expect_error(999);
        for _ in 0..2 {
            plugin().del(&red).expect_ok();
            assert!(!red.has_link("eth0"));
        }
    }
}

#[test]
fn del_works_whatever_is_gone() {
    let net = Underlay::new(2);
    net.write_statics(&[BLUE], "v4");
    let host = net.host(1);
    let plugin = || host.plugin("overlay").json(&conf());
    for (name, damage) in [
        ("nothing", "true"),
        ("files", "rm -r $WEFT_ROOT/etc/weft/overlay $WEFT_ROOT/run/weft/overlay"),
        ("records", "rm -rf $WEFT_ROOT/run/weft"),
        ("devices", "ip link delete ov1388; ip link delete ovb1388"),
    ] {
        net.write_statics(&[BLUE], "v4");
        let container = host.container(name);
        plugin().add(&container).expect_ok();
        assert!(container.has_link("eth0"));
        host.sh(damage).expect_ok();
        plugin().del(&container).expect_ok();
        assert!(!container.has_link("eth0"), "{name}");
    }
    // The namespace went first.
    let gone = host.container("gone");
    plugin().add(&gone).expect_ok();
    gone.vanish();
    plugin().netns("").del(&gone).expect_ok();
}

#[test]
fn what_cannot_be_has_a_code() {
    let net = Underlay::new(1);
    let host = net.host(1);
    let plugin = || host.plugin("overlay").json(&conf());
    let red = host.container("red");
    let before = lines(host);
    let failure = plugin().add(&red).expect_error(11);
    assert!(failure["msg"].as_str().unwrap().contains("takes no part in overlay network blue"), "{failure}");
    plugin().status().expect_error(50);
    assert_eq!(lines(host), before, "a refused ADD leaves nothing behind");
    net.write_statics(&[StaticNetwork { more: "mtu = 1451", ..BLUE }], "v4");
    let failure = plugin().add(&red).expect_error(7);
    assert!(failure["msg"].as_str().unwrap().contains("an MTU of 1451 does not fit"), "{failure}");
    net.write_statics(&[BLUE], "v4");
    plugin().add(&red).expect_ok();
    // The agent's word: containers may not reach everybody.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let health = json!({"schema": 1, "boot": boot.trim(), "degraded": "the tunnel is down"});
    host.write("run/weft/overlay/agent/health.json", health.to_string());
    let failure = plugin().status().expect_error(51);
    assert!(failure["msg"].as_str().unwrap().contains("the tunnel is down"), "{failure}");
}

/// An ADD asks nobody and starts nothing: with no network to a store and no program to start, it works.
#[test]
fn an_add_starts_no_process_and_opens_no_connection() {
    let net = Underlay::new(2);
    net.write_statics(&[BLUE], "v4");
    let host = net.host(1);
    let have = host.sh("command -v strace");
    weft_testkit::skip_unless!(have.code == 0, "strace");
    let (first, red) = (host.container("first"), host.container("red"));
    let plugin = || host.plugin("overlay").json(&conf());
    plugin().add(&first).expect_ok();
    let trace = host.path("trace");
    let line = format!(
        "echo '{}' | CNI_COMMAND=ADD CNI_CONTAINERID={id} CNI_IFNAME=eth0 CNI_NETNS=/run/netns/{id} strace -f -o {} \
         -e trace=execve,connect $CNI_PATH/overlay",
        conf(),
        trace.display(),
        id = red.name()
    );
    host.sh(&line).expect_ok();
    let calls = std::fs::read_to_string(trace).unwrap();
    assert_eq!(calls.matches("execve(").count(), 1, "{calls}");
    assert!(!calls.contains("AF_INET") && !calls.contains("AF_UNIX"), "{calls}");
    assert!(red.has_link("eth0"));
}
