//! A host whose containers the reference plugins have connected, under our plugins; and the other way round.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Output};

const DEBIAN: &str = "/usr/lib/cni";

/// Who is asked.
#[derive(Clone, Copy, Debug)]
enum By {
    Ours,
    Debian,
}

/// A host with a network of three plugins, whoever runs them.
struct Host {
    lab: Lab,
    backend: Option<&'static str>,
}

impl Host {
    /// Makes it, with the backend that the configuration names.
    fn new(backend: Option<&'static str>) -> Option<Self> {
        let lab = Lab::new();
        lab.set_sysctl("ipv4/ip_forward", "1");
        lab.set_sysctl("ipv6/conf/all/forwarding", "1");
        if !Path::new(DEBIAN).join("bridge").exists() {
            weft_testkit::skipped("Debian's package containernetworking-plugins");
            return None;
        }
        Some(Self { lab, backend })
    }

    fn bridge(&self) -> Value {
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": "n1", "type": "bridge", "bridge": "br0", "isGateway": true,
            "ipMasq": true,
            "ipam": {
                "type": "host-local", "dataDir": self.lab.path("leases"),
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]],
            },
        });
        if let Some(backend) = self.backend {
            conf["ipMasqBackend"] = backend.into();
        }
        conf
    }

    fn portmap(&self) -> Value {
        let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        self.chained(json!({"type": "portmap", "runtimeConfig": {"portMappings": [mapping]}}))
    }

    fn firewall(&self) -> Value {
        self.chained(json!({"type": "firewall"}))
    }

    fn chained(&self, mut conf: Value) -> Value {
        conf["cniVersion"] = "1.0.0".into();
        conf["name"] = "n1".into();
        if let Some(backend) = self.backend {
            conf["backend"] = backend.into();
        }
        conf
    }

    fn confs(&self) -> [Value; 3] {
        [self.bridge(), self.portmap(), self.firewall()]
    }

    fn call(
        &self,
        by: By,
        verb: &str,
        conf: &Value,
        container: &Container,
        result: Option<&Value>,
    ) -> Output {
        let kind = conf["type"].as_str().unwrap();
        let mut call = match by {
            By::Ours => self.lab.plugin(kind),
            By::Debian => self.lab.plugin_in(Path::new(DEBIAN), kind),
        }
        .json(conf);
        if let Some(result) = result {
            call = call.prev_result(result);
        }
        match verb {
            "ADD" => call.add(container),
            "CHECK" => call.check(container),
            _ => call.del(container),
        }
    }

    /// Connects a container, as a runtime does.
    #[track_caller]
    fn add(&self, by: By, container: &Container) -> Value {
        let mut result = None;
        for conf in self.confs() {
            result = Some(self.call(by, "ADD", &conf, container, result.as_ref()).expect_json());
        }
        result.unwrap()
    }

    #[track_caller]
    fn check(&self, by: By, container: &Container, result: &Value) {
        for conf in self.confs() {
            // Its CHECK looks for one family's rules in the other's chain, also of what it made itself
            // (tests/conformance/differences/portmap.txt).
            if matches!(by, By::Debian) && conf["type"] == "portmap" {
                continue;
            }
            self.call(by, "CHECK", &conf, container, Some(result)).expect_ok();
        }
    }

    #[track_caller]
    fn del(&self, by: By, container: &Container, result: Option<&Value>) {
        for conf in self.confs().iter().rev() {
            self.call(by, "DEL", conf, container, result).expect_ok();
        }
    }

    /// What the reference plugins, or ours in their place, have in iptables for one container.
    fn chains(&self) -> Vec<String> {
        let listing = self.lab.sh("iptables-save; ip6tables-save").expect_ok().to_string();
        let of_one = |line: &&str| {
            line.starts_with("-A")
                && (line.contains(" id: ") || line.contains("10.1.2.") || line.contains("fd00:1::"))
                || line.starts_with(":CNI-DN-")
        };
        listing.lines().filter(of_one).map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_connected(&self, container: &Container) {
        let chains = self.chains();
        assert!(chains.len() > 8, "{chains:?}");
        assert_eq!(self.leases(), 2);
        assert!(container.has_link("eth0"));
    }

    #[track_caller]
    fn assert_disconnected(&self, container: &Container) {
        assert_eq!(self.chains(), Vec::<String>::new());
        assert_eq!(self.leases(), 0);
        assert!(!container.has_link("eth0"));
    }

    fn leases(&self) -> usize {
        let entries = std::fs::read_dir(self.lab.path("leases/n1")).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().parse::<std::net::IpAddr>().is_ok())
            .count()
    }
}

#[test]
fn what_the_reference_connected_ours_disconnects() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let result = host.add(By::Debian, &red);
    host.assert_connected(&red);

    host.check(By::Ours, &red, &result);
    host.del(By::Ours, &red, Some(&result));

    host.assert_disconnected(&red);
}

#[test]
fn without_a_previous_result_too() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    host.add(By::Debian, &red);
    host.assert_connected(&red);

    host.del(By::Ours, &red, None);

    // What lets a container through the firewall names nothing but its address, and nobody told that.
    let left = host.chains();
    assert!(left.iter().all(|line| line.contains("CNI-FORWARD")), "{left:?}");
    assert_eq!(host.leases(), 0);
    assert!(!red.has_link("eth0"));
}

#[test]
fn when_the_namespace_is_gone_too() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let result = host.add(By::Debian, &red);
    host.assert_connected(&red);
    host.lab.ip("netns delete red");

    for conf in host.confs().iter().rev() {
        let call = host.lab.plugin(conf["type"].as_str().unwrap()).json(conf).prev_result(&result);
        call.netns("").del(&red).expect_ok();
    }

    assert_eq!(host.chains(), Vec::<String>::new());
    assert_eq!(host.leases(), 0);
}

#[test]
fn another_interface_of_the_container_keeps_its_masquerading() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let mut results = Vec::new();
    for ifname in ["eth0", "eth1"] {
        let mut conf = host.bridge();
        conf["isDefaultGateway"] = false.into();
        conf["ipam"].as_object_mut().unwrap().remove("routes");
        let call = host.lab.plugin_in(Path::new(DEBIAN), "bridge").json(&conf).ifname(ifname);
        results.push((conf, call.add(&red).expect_json()));
    }
    let both = host.chains().len();
    let (conf, result) = &results[0];
    host.lab.plugin("bridge").json(conf).prev_result(result).del(&red).expect_ok();
    // One jump of each family.
    assert_eq!(host.chains().len(), both - 2);
    assert!(host.chains().iter().any(|line| line.contains("-s 10.1.2.3/32")), "{:?}", host.chains());
    let (conf, result) = &results[1];
    host.lab.plugin("bridge").json(conf).prev_result(result).ifname("eth1").del(&red).expect_ok();
    assert_eq!(host.chains(), Vec::<String>::new());
}

#[test]
fn check_sees_what_the_reference_lost() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let result = host.add(By::Debian, &red);
    host.check(By::Ours, &red, &result);
    let refused = |conf: &Value| {
        let output = host.call(By::Ours, "CHECK", conf, &red, Some(&result));
        assert_ne!(output.code, 0, "{output}");
        output.stdout
    };
    host.lab.sh("iptables -t nat -F POSTROUTING").expect_ok();
    refused(&host.bridge());
    host.lab.sh("for c in $(iptables -t nat -S | sed -n 's/^-N \\(CNI-DN-.*\\)/\\1/p'); do iptables -t nat -F $c; done").expect_ok();
    assert!(refused(&host.portmap()).contains("publication"));
    host.lab.sh("iptables -F CNI-FORWARD").expect_ok();
    assert!(refused(&host.firewall()).contains("10.1.2.2"));
}

#[test]
fn what_ours_connected_the_reference_disconnects() {
    let Some(host) = Host::new(Some("iptables")) else { return };
    let red = host.lab.container("red");
    let result = host.add(By::Ours, &red);
    host.assert_connected(&red);

    host.check(By::Debian, &red, &result);
    host.del(By::Debian, &red, Some(&result));

    host.assert_disconnected(&red);
    // And what only ours know is forgotten with the next of their calls.
    host.del(By::Ours, &red, Some(&result));
    assert_eq!(host.lab.snapshot().lines_with("run/weft/attachments"), Vec::<&str>::new());
}

#[test]
fn gc_collects_what_the_reference_left() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    host.add(By::Debian, &red);
    let mine = host.chains();
    // Without a port, of which a host has one of each.
    let kept = host.call(By::Debian, "ADD", &host.bridge(), &blue, None).expect_json();
    host.call(By::Debian, "ADD", &host.firewall(), &blue, Some(&kept)).expect_json();
    let of_blue: Vec<String> = host.chains().into_iter().filter(|line| !mine.contains(line)).collect();
    assert!(of_blue.len() > 6, "{of_blue:?}");
    host.lab.ip("netns delete red");

    // Who does not say what stays is refused, and nothing happens.
    for conf in newest(host.confs()) {
        let kind = conf["type"].as_str().unwrap().to_owned();
        let call = host.lab.plugin(&kind).json(&conf).env("CNI_COMMAND", "GC").env("CNI_PATH", DEBIAN);
        call.bare().expect_error(7);
    }
    assert_eq!(host.leases(), 4);
    assert_eq!(host.chains().len(), mine.len() + of_blue.len());

    for conf in newest(host.confs()) {
        let kind = conf["type"].as_str().unwrap().to_owned();
        host.lab.plugin(&kind).json(&conf).gc(&[("blue", "eth0")]).expect_ok();
    }

    assert_eq!(host.leases(), 2);
    let mut left = host.chains();
    left.retain(|line| !of_blue.contains(line));
    assert_eq!(left, Vec::<String>::new());
    assert!(
        of_blue.iter().all(|line| host.chains().contains(line)),
        "of the one that stays: {:?}",
        host.chains()
    );
    host.call(By::Debian, "CHECK", &host.bridge(), &blue, Some(&kept)).expect_ok();
}

/// The same configurations in the version in which a runtime asks for GC.
fn newest(confs: [Value; 3]) -> [Value; 3] {
    confs.map(|mut conf| {
        conf["cniVersion"] = "1.1.0".into();
        conf
    })
}

#[test]
fn ports_of_another_interface_than_the_first_are_checked_and_withdrawn() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let call = |by: By, conf: &Value| {
        let kind = conf["type"].as_str().unwrap().to_owned();
        let call = match by {
            By::Ours => host.lab.plugin(&kind),
            By::Debian => host.lab.plugin_in(Path::new(DEBIAN), &kind),
        };
        call.json(conf).ifname("eth1")
    };
    let result = call(By::Debian, &host.bridge()).add(&red).expect_json();
    let conf = host.portmap();
    let chains = || host.chains().into_iter().filter(|line| line.contains("CNI-DN-")).count();
    call(By::Debian, &conf).prev_result(&result).add(&red).expect_ok();
    assert!(chains() > 0);

    call(By::Ours, &conf).prev_result(&result).check(&red).expect_ok();
    call(By::Ours, &conf).del(&red).expect_ok();
    assert_eq!(chains(), 0, "{:?}", host.chains());
    assert_ne!(call(By::Ours, &conf).prev_result(&result).check(&red).code, 0);

    // A first interface whose ports are ours has the same chain, and keeps it.
    let mut first = host.bridge();
    first["ipam"].as_object_mut().unwrap().remove("routes");
    let first = host.lab.plugin("bridge").json(&first).add(&red).expect_json();
    let mut asked = conf.clone();
    asked["backend"] = "iptables".into();
    let ours = || host.lab.plugin("portmap").json(&asked).prev_result(&first);
    ours().add(&red).expect_ok();
    let kept = chains();
    assert!(kept > 0);
    for conf in [&conf, &asked] {
        call(By::Ours, conf).prev_result(&result).del(&red).expect_ok();
        assert_eq!(chains(), kept);
    }
    ours().check(&red).expect_ok();
}

#[test]
fn what_old_versions_masqueraded_goes() {
    for is_gc in [false, true] {
        let Some(host) = Host::new(None) else { return };
        let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
        host.call(By::Debian, "ADD", &host.bridge(), &blue, None).expect_json();
        // What the reference `portmap` wrote before version 0.7, beside the chain of DNAT.
        host.lab.sh("iptables -t nat -N CNI-HOSTPORT-SNAT").expect_ok();
        for name in ["red", "blue"] {
            let text = format!(
                "chain=CNI-SN-$(printf n1{name} | sha512sum | cut -c1-21)\n\
                 iptables -t nat -N $chain\n\
                 iptables -t nat -A $chain -p tcp -s 127.0.0.1 -d 10.1.2.9 --dport 80 -j MASQUERADE\n\
                 iptables -t nat -A CNI-HOSTPORT-SNAT -m comment --comment 'snat name: \"n1\" id: \"{name}\"' -j $chain\n"
            );
            host.lab.sh(&format!("set -e\n{text}")).expect_ok();
        }
        let chains = || host.lab.sh("iptables-save -t nat").expect_ok().matches("CNI-SN-").count();
        assert_eq!(chains(), 6);

        if is_gc {
            let [conf, ..] = newest(host.confs());
            host.lab.plugin("bridge").json(&conf).gc(&[("blue", "eth0")]).expect_ok();
        } else {
            host.call(By::Ours, "DEL", &host.portmap(), &red, None).expect_ok();
        }

        assert_eq!(chains(), 3, "{is_gc}: blue's stays");
        let left = host.lab.sh("iptables-save -t nat").expect_ok().to_string();
        assert!(left.contains(r#"snat name: \"n1\" id: \"blue\""#), "{left}");
    }
}

/// What newer versions of the reference `portmap` write (plugins/meta/portmap/portmap_nftables.go): Debian's package is older.
const HOSTPORTS: &str = r#"
table ip cni_hostport {
    comment "CNI portmap plugin"
    chain hostports {
        tcp dport 8080 dnat to 10.1.2.2:80 comment "red"
        tcp dport 8081 dnat to 10.1.2.3:80 comment "blue"
        tcp dport 8082 dnat to 10.7.7.2:80 comment "red"
        tcp dport 8083 dnat to 10.1.2.20:80 comment "red"
    }
    chain masquerading {
        type nat hook postrouting priority 100
        ip saddr 10.1.2.2 ip daddr 10.1.2.2 masquerade comment "red"
        ip saddr 127.0.0.1 ip daddr 10.1.2.3 masquerade comment "blue"
    }
}
table ip6 cni_hostport {
    chain hostports {
        tcp dport 8080 dnat to [fd00:1::2]:80 comment "red"
    }
}
"#;

#[test]
fn gc_collects_ports_of_the_references_nftables() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    for container in [&red, &blue] {
        host.call(By::Debian, "ADD", &host.bridge(), container, None).expect_json();
    }
    host.lab.write("hostports.nft", HOSTPORTS);
    host.lab.sh(&format!("nft -f {}", host.lab.path("hostports.nft").display())).expect_ok();
    let rules = || {
        let text = host
            .lab
            .sh("nft list table ip cni_hostport; nft list table ip6 cni_hostport")
            .expect_ok()
            .to_string();
        text.lines()
            .filter(|line| line.contains(" comment \"red") || line.contains(" comment \"blue"))
            .count()
    };
    assert_eq!(rules(), 7);
    host.lab.ip("netns delete red");

    let [conf, ..] = newest(host.confs());
    host.lab.plugin("bridge").json(&conf).gc(&[("red", "eth0"), ("blue", "eth0")]).expect_ok();
    assert_eq!(rules(), 7, "both are connected");
    host.lab.plugin("bridge").json(&conf).gc(&[("blue", "eth0")]).expect_ok();

    // Of red only what leads to an address that it had here: the others are another network's.
    assert_eq!(rules(), 4);
    let left = host.lab.sh("nft list table ip cni_hostport").expect_ok().to_string();
    for stays in ["10.1.2.3:80", "10.7.7.2:80", "10.1.2.20:80"] {
        assert!(left.contains(stays), "{stays}: {left}");
    }
}

#[test]
fn ports_of_the_references_nftables_are_checked_and_withdrawn() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let result = host.call(By::Debian, "ADD", &host.bridge(), &red, None).expect_json();
    host.lab.write("hostports.nft", HOSTPORTS);
    host.lab.sh(&format!("nft -f {}", host.lab.path("hostports.nft").display())).expect_ok();
    let conf = host.portmap();
    let rules = || host.lab.sh("nft list ruleset").expect_ok().to_string();

    host.call(By::Ours, "CHECK", &conf, &red, Some(&result)).expect_ok();
    let mut more = conf.clone();
    more["runtimeConfig"]["portMappings"] = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 81, "protocol": "tcp"},
    ]);
    let refused = host.call(By::Ours, "CHECK", &more, &red, Some(&result));
    assert!(refused.code != 0 && refused.stdout.contains("10.1.2.2:81"), "{refused}");

    host.call(By::Ours, "DEL", &conf, &red, Some(&result)).expect_ok();
    let left = rules();
    for gone in ["10.1.2.2:80", "daddr 10.1.2.2 ", "[fd00:1::2]:80"] {
        assert!(!left.contains(gone), "{gone}: {left}");
    }
    for stays in ["10.1.2.3:80", "10.7.7.2:80", "10.1.2.20:80"] {
        assert!(left.contains(stays), "{stays}: {left}");
    }
    let refused = host.call(By::Ours, "CHECK", &conf, &red, Some(&result));
    assert!(refused.code != 0 && refused.stdout.contains("publication tcp"), "{refused}");
    host.call(By::Ours, "DEL", &conf, &red, None).expect_ok();
    assert!(!rules().contains("comment \"red\""), "{}", rules());
}

/// Limits what a container sends, as the reference does it.
#[track_caller]
fn slow_down(lab: &Lab, container: &Container, result: &Value) {
    let conf = json!({"cniVersion": "1.0.0", "name": "n1", "type": "bandwidth",
        "egressRate": 8_000_000, "egressBurst": 8_000_000});
    lab.plugin_in(Path::new(DEBIAN), "bandwidth")
        .json(&conf)
        .prev_result(result)
        .add(container)
        .expect_json();
}

fn ifbs(lab: &Lab) -> usize {
    lab.ip_json("link show type ifb").as_array().map_or(0, Vec::len)
}

#[test]
fn gc_collects_links_of_the_references_bandwidth() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    for container in [&red, &blue] {
        let result = host.call(By::Debian, "ADD", &host.bridge(), container, None).expect_json();
        slow_down(&host.lab, container, &result);
    }
    assert_eq!(ifbs(&host.lab), 2);
    // Of a link that looks like one nobody knows whose it is.
    host.lab.ip("link add bwp000000000000 type ifb");
    host.lab.ip("netns delete red");
    let before = host.lab.snapshot();

    let [conf, ..] = newest(host.confs());
    host.lab.plugin("bridge").json(&conf).gc(&[("red", "eth0"), ("blue", "eth0")]).expect_ok();
    assert_eq!(ifbs(&host.lab), 3, "both are connected");
    host.lab.plugin("bridge").json(&conf).gc(&[("blue", "eth0")]).expect_ok();

    assert_eq!(ifbs(&host.lab), 2, "{}", before.difference(&host.lab.snapshot()));
    assert!(host.lab.has_link("bwp000000000000"));
}

#[test]
fn gc_knows_by_the_runtimes_results_whose_things_are_without_leases() {
    let Some(host) = Host::new(None) else { return };
    let red = host.lab.container("red");
    let mut conf = host.bridge();
    conf["ipMasq"] = false.into();
    conf["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.2.2/24"}]});
    let result = host.call(By::Debian, "ADD", &conf, &red, None).expect_json();
    slow_down(&host.lab, &red, &result);
    host.lab.ip("netns delete red");
    conf["cniVersion"] = "1.1.0".into();
    let collect =
        |valid: &[(&str, &str)]| host.lab.plugin("bridge").json(&conf).gc(valid).expect_ok().to_string();

    collect(&[("blue", "eth0")]);
    assert_eq!(ifbs(&host.lab), 1, "nobody knows whose it is");
    let cached = json!({"kind": "cniCacheV1", "containerId": "red", "config": "", "ifName": "eth0",
        "networkName": "n1", "netns": "/run/netns/red", "result": result});
    host.lab.write("var/lib/cni/results/n1-red-eth0", cached.to_string());
    collect(&[("red", "eth0")]);
    assert_eq!(ifbs(&host.lab), 1, "it is connected");
    collect(&[("blue", "eth0")]);
    assert_eq!(ifbs(&host.lab), 0);
}

#[test]
fn gc_collects_what_the_references_tuning_and_spoof_check_left() {
    let Some(host) = Host::new(None) else { return };
    let [red, blue] = ["red", "blue"].map(|name| host.lab.container(name));
    let mut bridge = host.bridge();
    bridge["macspoofchk"] = true.into();
    let folder = host.lab.path("run/cni/tuning");
    let tuning =
        json!({"cniVersion": "1.0.0", "name": "n1", "type": "tuning", "mtu": 1400, "dataDir": folder});
    for container in [&red, &blue] {
        let result = host.call(By::Debian, "ADD", &bridge, container, None).expect_json();
        host.call(By::Debian, "ADD", &tuning, container, Some(&result)).expect_json();
    }
    let left = || {
        let rules = host.lab.ruleset();
        let of = |name: &str| {
            rules.contains(&format!("cni-br-iface-{name}-eth0")) as usize
                + folder.join(format!("{name}_eth0.json")).exists() as usize
        };
        (of("red"), of("blue"))
    };
    assert_eq!(left(), (2, 2));
    host.lab.ip("netns delete red");

    let mut newer = bridge.clone();
    newer["cniVersion"] = "1.1.0".into();
    host.lab.plugin("bridge").json(&newer).gc(&[("red", "eth0"), ("blue", "eth0")]).expect_ok();
    assert_eq!(left(), (2, 2), "both are connected");
    host.lab.plugin("bridge").json(&newer).gc(&[("blue", "eth0")]).expect_ok();

    assert_eq!(left(), (0, 2));
    host.lab.plugin("bridge").json(&newer).gc(&[]).expect_ok();
    assert_eq!(left(), (0, 0));
}

#[test]
fn both_give_addresses_from_one_directory_at_once() {
    const EACH: usize = 12;
    let Some(host) = Host::new(None) else { return };
    let ipam = json!({
        "cniVersion": "1.0.0", "name": "n1", "type": "bridge",
        "ipam": {"type": "host-local", "dataDir": host.lab.path("leases"), "subnet": "10.1.2.0/27"},
    });
    let containers: Vec<_> = (0..2 * EACH).map(|number| host.lab.container(&format!("c{number}"))).collect();
    let addresses: Vec<String> = std::thread::scope(|scope| {
        let calls = containers.iter().enumerate().map(|(number, container)| {
            let ours = number % 2 == 0;
            let (host, ipam) = (&host, &ipam);
            scope.spawn(move || {
                let call = match ours {
                    true => host.lab.plugin("host-local"),
                    false => host.lab.plugin_in(Path::new(DEBIAN), "host-local"),
                };
                let result = call.json(ipam).add(container).expect_json();
                result["ips"][0]["address"].as_str().unwrap().to_owned()
            })
        });
        let calls: Vec<_> = calls.collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let different: std::collections::BTreeSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), 2 * EACH, "{addresses:?}");
    assert_eq!(host.leases(), 2 * EACH);

    // Each frees what the other has given.
    for (number, container) in containers.iter().enumerate() {
        let call = match number % 2 == 0 {
            true => host.lab.plugin_in(Path::new(DEBIAN), "host-local"),
            false => host.lab.plugin("host-local"),
        };
        call.json(&ipam).del(container).expect_ok();
    }
    assert_eq!(host.leases(), 0);
}
