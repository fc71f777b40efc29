//! A host whose containers the reference plugins have connected, under our plugins; and the other way round.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Output};

/// The reference plugins.
pub(crate) const DEBIAN: &str = "/usr/lib/cni";

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    Ours,
    Debian,
}

/// A host with a network of three plugins, whoever runs them.
pub(crate) struct Host {
    pub(crate) lab: Lab,
    pub(crate) backend: Option<&'static str>,
}

impl Host {
    /// Makes it, with the backend that the configuration names.
    pub(crate) fn new(backend: Option<&'static str>) -> Option<Self> {
        let lab = Lab::new();
        lab.set_sysctl("ipv4/ip_forward", "1");
        lab.set_sysctl("ipv6/conf/all/forwarding", "1");
        if !Path::new(DEBIAN).join("bridge").exists() {
            weft_testkit::skipped("Debian's package containernetworking-plugins");
            return None;
        }
        Some(Self { lab, backend })
    }

    pub(crate) fn bridge(&self) -> Value {
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

    pub(crate) fn portmap(&self) -> Value {
        let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        self.chained(json!({"type": "portmap", "runtimeConfig": {"portMappings": [mapping]}}))
    }

    pub(crate) fn firewall(&self) -> Value {
        self.chained(json!({"type": "firewall"}))
    }

    pub(crate) fn chained(&self, mut conf: Value) -> Value {
        conf["cniVersion"] = "1.0.0".into();
        conf["name"] = "n1".into();
        if let Some(backend) = self.backend {
            conf["backend"] = backend.into();
        }
        conf
    }

    pub(crate) fn confs(&self) -> [Value; 3] {
        [self.bridge(), self.portmap(), self.firewall()]
    }

    pub(crate) fn call(
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
    pub(crate) fn add(&self, by: By, container: &Container) -> Value {
        let mut result = None;
        for conf in self.confs() {
            result = Some(self.call(by, "ADD", &conf, container, result.as_ref()).expect_json());
        }
        result.unwrap()
    }

    #[track_caller]
    pub(crate) fn check(&self, by: By, container: &Container, result: &Value) {
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
    pub(crate) fn del(&self, by: By, container: &Container, result: Option<&Value>) {
        for conf in self.confs().iter().rev() {
            self.call(by, "DEL", conf, container, result).expect_ok();
        }
    }

    /// What the reference plugins, or ours in their place, have in iptables for one container.
    pub(crate) fn chains(&self) -> Vec<String> {
        let listing = self.lab.sh("iptables-save; ip6tables-save").expect_ok().to_string();
        let of_one = |line: &&str| {
            line.starts_with("-A")
                && (line.contains(" id: ") || line.contains("10.1.2.") || line.contains("fd00:1::"))
                || line.starts_with(":CNI-DN-")
        };
        listing.lines().filter(of_one).map(str::to_owned).collect()
    }

    #[track_caller]
    pub(crate) fn assert_connected(&self, container: &Container) {
        let chains = self.chains();
        assert!(chains.len() > 8, "{chains:?}");
        assert_eq!(self.leases(), 2);
        assert!(container.has_link("eth0"));
    }

    #[track_caller]
    pub(crate) fn assert_disconnected(&self, container: &Container) {
        assert_eq!(self.chains(), Vec::<String>::new());
        assert_eq!(self.leases(), 0);
        assert!(!container.has_link("eth0"));
    }

    pub(crate) fn leases(&self) -> usize {
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

/// The same configurations in the version in which a runtime asks for GC.
pub(crate) fn newest(confs: [Value; 3]) -> [Value; 3] {
    confs.map(|mut conf| {
        conf["cniVersion"] = "1.1.0".into();
        conf
    })
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
