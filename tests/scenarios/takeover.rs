//! A host whose containers the reference plugins have connected, under our plugins; and the other way round.

use std::path::Path;

use serde_json::{Value, json};
use weft_testkit::{Container, Lab, Output, skip_unless};

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
    assert!(host.chains().len() > 8, "{:?}", host.chains());
    assert_eq!(host.leases(), 2);

    host.check(By::Ours, &red, &result);
    host.del(By::Ours, &red, Some(&result));

    assert_eq!(host.chains(), Vec::<String>::new());
    assert_eq!(host.leases(), 0);
    assert!(!red.has_link("eth0"));
}
