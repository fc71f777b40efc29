//! podman 4 with CNI as its network backend.

use std::path::PathBuf;

use serde_json::Value;
use weft_testkit::{Output, Snapshot, peer};

use crate::containers::{Containers, NETWORKS};
use crate::host::{Host, results};
use crate::image;

struct Podman {
    program: PathBuf,
    containers: Containers,
}

impl Podman {
    /// Prepares it with the image, or says what is lacking.
    fn start() -> Option<Self> {
        let podman = Self { program: peer("/usr/bin/podman")?, containers: Containers::new()? };
        let archive = podman.host().image[0].to_str().unwrap().to_string();
        podman.run(&["load", "--quiet", "--input", &archive]).expect_ok();
        Some(podman)
    }

    fn host(&self) -> &Host {
        &self.containers.host
    }

    fn run(&self, words: &[&str]) -> Output {
        self.containers.program(&self.program).args(words).run()
    }

    /// Starts a container with a web server.
    #[track_caller]
    fn serve(&self, name: &str, words: &str) {
        let group = format!("--cgroup-parent=/{}", self.host().surroundings.name());
        // Who may not raise limits must name those that it has.
        let mut all = vec!["run", "--detach", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        all.extend([&group, "--name", name]);
        all.extend(words.split(' '));
        all.push(image::NAME);
        all.extend(image::SERVE);
        self.run(&all).expect_ok();
    }

    #[track_caller]
    fn remove(&self, name: &str) {
        self.run(&["rm", "--force", "--time", "0", name]).expect_ok();
    }

    /// Returns what podman knows of a container's networks.
    #[track_caller]
    fn networks(&self, name: &str) -> Value {
        self.run(&["inspect", "--format", "{{json .NetworkSettings.Networks}}", name]).expect_json()
    }

    #[track_caller]
    fn inside(&self, name: &str, command: &str) -> String {
        let mut words = vec!["exec", name];
        words.extend(command.split(' '));
        self.run(&words).expect_ok().to_string()
    }

    /// Removes a network the way podman does, and then what podman knows nothing of.
    #[track_caller]
    fn remove_network(&self, name: &str) {
        let list = std::fs::read_to_string(format!("{NETWORKS}/{name}.conflist")).unwrap();
        self.run(&["network", "rm", name]).expect_ok();
        self.host().collect_garbage(&list);
    }

    /// The host before a story. `network create` with a free subnet looks at the host; that alone changes nothing.
    fn snapshot(&self) -> Snapshot {
        self.host().lab.snapshot()
    }
}

#[test]
fn a_container_on_its_own_network() {
    let Some(podman) = Podman::start() else { return };
    let host = podman.host();
    let before = podman.snapshot();
    podman
        .run(&[
            "network",
            "create",
            "--subnet",
            "10.95.3.0/24",
            "--ipv6",
            "--subnet",
            "fd00:95:3::/64",
            "blue",
        ])
        .expect_ok();
    let inspected = podman.run(&["network", "inspect", "blue"]).expect_json();
    assert_eq!(inspected[0]["subnets"][0]["gateway"], "10.95.3.1");

    podman.serve("red", "--network blue --publish 8080:80");

    let blue = podman.networks("red")["blue"].take();
    assert_eq!(
        (&blue["IPAddress"], &blue["GlobalIPv6Address"]),
        (&"10.95.3.2".into(), &"fd00:95:3::2".into())
    );
    assert_eq!((&blue["Gateway"], &blue["IPv6Gateway"]), (&"10.95.3.1".into(), &"fd00:95:3::1".into()));
    for address in ["10.95.3.2", "fd00:95:3::2"] {
        host.reaches(address, 80);
    }
    let published = ["127.0.0.1", "10.95.3.1", "::1", "fd00:95:3::1"];
    for address in published {
        host.reaches(address, 8080);
    }
    assert!(podman.inside("red", "cat /etc/hosts").contains("10.95.3.2"));

    podman.remove("red");
    for address in published {
        host.does_not_reach(address, 8080);
    }
    host.assert_containers_left_nothing(&before, &["10.95.3.2", "fd00:95:3::2"]);
    podman.remove_network("blue");
    host.assert_restored(&before);
}

#[test]
fn a_second_network_comes_and_goes() {
    let Some(podman) = Podman::start() else { return };
    let host = podman.host();
    let before = podman.snapshot();
    podman.run(&["network", "create", "--subnet", "10.95.3.0/24", "blue"]).expect_ok();
    podman.run(&["network", "create", "--subnet", "10.95.4.0/24", "green"]).expect_ok();
    // Its process listens at the port meanwhile, and it asks every network for it.
    podman.serve("red", "--network blue --publish 8080:80");
    host.reaches("127.0.0.1", 8080);
    let on_one = podman.snapshot();

    podman.run(&["network", "connect", "green", "red"]).expect_ok();

    assert_eq!(podman.networks("red")["green"]["IPAddress"], "10.95.4.2");
    host.reaches("10.95.4.2", 80);
    host.reaches("127.0.0.1", 8080);
    assert!(podman.inside("red", "ip address").contains("10.95.4.2/24"));
    assert_ne!(podman.snapshot(), on_one);

    podman.run(&["network", "disconnect", "green", "red"]).expect_ok();
    assert!(!podman.inside("red", "ip address").contains("10.95.4.2"));
    host.reaches("127.0.0.1", 8080);
    // Now the network has what it keeps: coming and going once more makes no difference.
    let used = podman.snapshot();
    podman.run(&["network", "connect", "green", "red"]).expect_ok();
    host.reaches("10.95.4.3", 80);
    podman.run(&["network", "disconnect", "green", "red"]).expect_ok();
    host.lab.assert_restored(&used);
    assert_eq!(results().len(), 1, "{:?}", results());
    podman.remove_network("green");
    host.lab.assert_restored(&on_one);

    podman.remove("red");
    host.assert_containers_left_nothing(&before, &["10.95.3.2", "10.95.4.2"]);
    podman.remove_network("blue");
    host.assert_restored(&before);
}

#[test]
fn a_stopped_container_starts_again() {
    let Some(podman) = Podman::start() else { return };
    let host = podman.host();
    let before = podman.snapshot();
    podman.run(&["network", "create", "--subnet", "10.95.3.0/24", "blue"]).expect_ok();
    podman.serve("red", "--network blue --publish 8080:80");
    host.reaches("127.0.0.1", 8080);
    podman.run(&["stop", "--time", "0", "red"]).expect_ok();
    host.does_not_reach("127.0.0.1", 8080);
    host.assert_containers_left_nothing(&before, &["10.95.3.2"]);
    // From here on the network has what it keeps: a container more makes no difference once it is gone.
    let stopped = podman.snapshot();
    podman.run(&["start", "red"]).expect_ok();
    host.reaches("127.0.0.1", 8080);
    // Addresses go round: the next one.
    assert_eq!(podman.networks("red")["blue"]["IPAddress"], "10.95.3.3");
    assert_ne!(podman.snapshot(), stopped);
    podman.remove("red");
    host.assert_restored(&stopped);
}

#[test]
fn the_networks_servers_are_the_containers() {
    const NETWORK: &str = r#"{
        "cniVersion": "0.4.0",
        "name": "named",
        "plugins": [{
            "type": "bridge", "bridge": "named0", "isGateway": true,
            "dns": {"nameservers": ["192.0.2.53"], "search": ["weft.example"]},
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.95.5.0/24", "gateway": "10.95.5.1"}]]}
        }]
    }"#;
    let Some(podman) = Podman::start() else { return };
    let host = podman.host();
    let before = podman.snapshot();
    host.put(&format!("{NETWORKS}/named.conflist"), NETWORK);
    podman.serve("red", "--network named");
    let resolv = podman.inside("red", "cat /etc/resolv.conf");
    assert!(resolv.contains("nameserver 192.0.2.53") && resolv.contains("search weft.example"), "{resolv}");
    podman.remove("red");
    host.assert_containers_left_nothing(&before, &["10.95.5.2"]);
    host.collect_garbage(NETWORK);
    host.assert_restored(&before);
}
