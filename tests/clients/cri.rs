//! Pods, by the socket through which a kubelet speaks to containerd.

use crate::containerd::{Containerd, SOCKET};
use crate::grpc::{Fields, Message, call};
use crate::host::{Host, results};
use crate::image;

/// What a kubelet's host has: `containerd` itself puts `loopback` in front of it.
const NETWORK: &str = r#"{
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true,
            "ipam": {
                "type": "host-local", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "ranges": [[{"subnet": "10.95.2.0/24"}], [{"subnet": "fd00:95:2::/64"}]]
            }
        },
        {"type": "portmap", "capabilities": {"portMappings": true}}
    ]
}"#;

fn ask(method: &str, request: &Message) -> Fields {
    let answer = call(SOCKET, &format!("/runtime.v1.RuntimeService/{method}"), request);
    answer.unwrap_or_else(|| panic!("{method} is refused"))
}

/// A pod that publishes port 80 as 8080, with a web server in it.
struct Pod {
    id: String,
}

impl Pod {
    /// The configuration of a pod, by the numbers of `PodSandboxConfig`.
    fn config(host: &Host, name: &str) -> Message {
        let metadata = Message::default().bytes(1, name).bytes(2, format!("uid-{name}")).bytes(3, "default");
        // A TCP port, which is 0 and so not written.
        let port = Message::default().number(2, 80).number(3, 8080);
        let group = format!("/{}", host.surroundings.name());
        Message::default()
            .bytes(1, metadata)
            .bytes(2, name)
            .bytes(5, port)
            .bytes(8, Message::default().bytes(1, group))
    }

    fn start(host: &Host, name: &str) -> Self {
        let config = Self::config(host, name);
        let id = ask("RunPodSandbox", &Message::default().bytes(1, &config)).text(1);
        let mut container = Message::default()
            .bytes(1, Message::default().bytes(1, "web"))
            .bytes(2, Message::default().bytes(1, image::NAME));
        for word in image::SERVE {
            container = container.bytes(3, word);
        }
        let request = Message::default().bytes(1, &id).bytes(2, container).bytes(3, config);
        let container = ask("CreateContainer", &request).text(1);
        ask("StartContainer", &Message::default().bytes(1, container));
        Self { id }
    }

    /// Returns its addresses, as the kubelet is told them.
    fn addresses(&self) -> Vec<String> {
        let status = ask("PodSandboxStatus", &Message::default().bytes(1, &self.id));
        let network = status.message(1).message(5);
        let mut addresses = vec![network.text(1)];
        addresses.extend(network.messages(2).map(|more| more.text(1)));
        addresses
    }

    fn stop(self) {
        ask("StopPodSandbox", &Message::default().bytes(1, &self.id));
        ask("RemovePodSandbox", &Message::default().bytes(1, &self.id));
    }
}

#[test]
fn a_pod_comes_and_goes() {
    let Some(containerd) = Containerd::start(NETWORK) else { return };
    let host = &containerd.host;
    let before = host.lab.snapshot();

    let pod = Pod::start(host, "red");

    assert_eq!(pod.addresses(), ["10.95.2.2", "fd00:95:2::2"]);
    for address in ["10.95.2.2", "fd00:95:2::2"] {
        host.reaches(address, 80);
    }
    let published = ["127.0.0.1", "10.95.2.1", "::1", "fd00:95:2::1"];
    for address in published {
        host.reaches(address, 8080);
    }
    assert_eq!(results().len(), 2, "of the pod and of its loopback: {:?}", results());

    pod.stop();
    for address in published {
        host.does_not_reach(address, 8080);
    }
    host.assert_containers_left_nothing(&before, &["10.95.2.2", "fd00:95:2::2"]);
    host.collect_garbage(NETWORK);
    host.assert_restored(&before);
}

#[test]
fn pods_follow_each_other() {
    let Some(containerd) = Containerd::start(NETWORK) else { return };
    let host = &containerd.host;
    Pod::start(host, "red").stop();
    // The network has what it keeps. A pod more makes no difference once it is gone.
    let before = host.lab.snapshot();
    for name in ["green", "blue"] {
        let pod = Pod::start(host, name);
        host.reaches(&pod.addresses()[0], 80);
        for address in ["127.0.0.1", "::1"] {
            host.reaches(address, 8080);
        }
        assert_ne!(host.lab.snapshot(), before);
        pod.stop();
        host.assert_restored(&before);
    }
}
