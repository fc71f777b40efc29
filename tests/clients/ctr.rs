//! `ctr run --cni`: the smallest client of containerd's, which asks for GC never and for DEL not always.

use weft_testkit::until;

use crate::containerd::Containerd;
use crate::host::results;
use crate::image;

const NETWORK: &str = r#"{
    "cniVersion": "1.0.0",
    "name": "blue",
    "plugins": [
        {
            "type": "bridge", "bridge": "blue0", "isGateway": true, "ipMasq": true,
            "ipam": {
                "type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.95.1.0/24"}], [{"subnet": "fd00:95:1::/64"}]]
            }
        },
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall"}
    ]
}"#;

/// Words that run a container under our control group's name.
fn run<'a>(group: &'a str, more: &[&'a str], name: &'a str) -> Vec<&'a str> {
    let mut words = vec!["run", "--snapshotter", "native", "--cni", "--cgroup", group];
    words.extend(more);
    words.extend([image::NAME, name]);
    words.extend(image::SERVE);
    words
}

#[test]
fn a_container_comes_and_goes() {
    let Some(containerd) = Containerd::start(NETWORK) else { return };
    let host = &containerd.host;
    let before = host.lab.snapshot();
    let group = format!("/{}/red", host.surroundings.name());

    // In the foreground, it takes the network down when the container ends.
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| containerd.ctr("default", &run(&group, &[], "red")));
        host.reaches("10.95.1.2", 80);
        host.reaches("fd00:95:1::2", 80);
        assert_eq!(results(), ["blue-default-red-eth0"]);
        assert_eq!(host.lab.read("var/lib/cni/networks/blue/10.95.1.2"), "default-red\r\neth0");
        containerd.ctr("default", &["task", "kill", "--signal", "9", "red"]).expect_ok();
        ended.join().unwrap();
    });
    host.does_not_reach("10.95.1.2", 80);
    assert!(host.lab.has_link("blue0"), "the bridge is the network's");
    assert!(!host.lab.path("var/lib/cni/networks/blue/10.95.1.2").exists());
    containerd.ctr("default", &["container", "rm", "red"]);
    host.assert_containers_left_nothing(&before, &["10.95.1.2", "fd00:95:1::2"]);
    host.collect_garbage(NETWORK);
    host.assert_restored(&before);
}

#[test]
fn what_a_detached_container_leaves_is_collected() {
    let Some(containerd) = Containerd::start(NETWORK) else { return };
    let host = &containerd.host;
    let before = host.lab.snapshot();
    let group = format!("/{}/red", host.surroundings.name());
    containerd.ctr("default", &run(&group, &["--detach"], "red")).expect_ok();
    host.reaches("10.95.1.2", 80);

    // This client forgets a detached container's network: nobody ever calls DEL.
    containerd.ctr("default", &["task", "kill", "--signal", "9", "red"]).expect_ok();
    until("the container's end", || containerd.ctr("default", &["task", "delete", "red"]).code == 0);
    assert_eq!(results(), ["blue-default-red-eth0"]);
    assert!(host.lab.path("var/lib/cni/networks/blue/10.95.1.2").exists(), "leaked");

    host.collect_garbage(NETWORK);

    std::fs::remove_file("/var/lib/cni/results/blue-default-red-eth0").unwrap();
    host.assert_restored(&before);
}
