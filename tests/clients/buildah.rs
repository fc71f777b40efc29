//! buildah, whose every step of a build is a container.

use weft_testkit::{peer, staged_folder};

use crate::containers::Containers;

/// The network that it has when there is none: as it writes it down.
const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "podman", "plugins": [
    {"type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]]}},
    {"type": "portmap"}, {"type": "firewall"}, {"type": "tuning"}
]}"#;

#[test]
fn a_step_of_a_build_has_a_network() {
    let Some(program) = peer("/usr/bin/buildah") else { return };
    let Some(containers) = Containers::new() else { return };
    let host = &containers.host;
    let buildah = |words: &[&str]| containers.program(&program).args(words).run();
    let before = host.lab.snapshot();
    let name = buildah(&["from", "scratch"]).expect_ok().trim().to_string();
    buildah(&["add", &name, host.image[1].to_str().unwrap(), "/"]).expect_ok();

    let plugins = staged_folder();
    let mut words = vec!["run", "--runtime", containers.runc(), "--isolation", "oci"];
    words.extend(["--cni-plugin-path", plugins.to_str().unwrap(), &name, "--", "/bin/sh", "-c"]);
    words.push("ip -o address show dev eth0 && ping -c 1 -W 5 10.88.0.1");
    let output = buildah(&words);

    assert!(output.expect_ok().contains("inet 10.88.0.2/16"), "{output}");
    assert!(host.lab.has_link("cni-podman0"), "the bridge is the network's");
    host.assert_containers_left_nothing(&before, &["10.88.0.2"]);
    host.collect_garbage(NETWORK);
    host.assert_restored(&before);
    buildah(&["rm", &name]).expect_ok();
}
