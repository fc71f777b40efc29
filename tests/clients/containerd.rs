//! A containerd of the lab's own.

use std::path::PathBuf;

use weft_testkit::{Background, Output, peer, peer_program, until};

use crate::host::Host;
use crate::image;

const FOLDER: &str = "/run/client/containerd";
/// Where it listens.
pub(crate) const SOCKET: &str = "/run/client/containerd/socket";
/// The folder of configurations that both its clients and it look into.
pub(crate) const NETWORKS: &str = "/etc/cni/net.d";

/// A daemon that serves one host.
pub(crate) struct Containerd {
    daemon: Option<Background>,
    client: PathBuf,
    pub(crate) host: Host,
}

impl Containerd {
    /// Starts it with our plugins, a network and an image, or says what is lacking.
    pub(crate) fn start(network: &str) -> Option<Self> {
        let (server, client) = (peer("/usr/bin/containerd")?, peer("/usr/bin/ctr")?);
        peer("/usr/sbin/runc")?;
        let host = Host::new()?;
        host.install();
        host.put(&format!("{NETWORKS}/10-blue.conflist"), network);
        host.put(&format!("{FOLDER}/config.toml"), &config());
        let log = format!("exec \"$0\" --config {FOLDER}/config.toml > {FOLDER}/log 2>&1");
        // A pipe that nobody reads would stop it one day.
        let daemon = peer_program("/bin/sh".as_ref())
            .args(["-c", &log, server.to_str().unwrap()])
            .env("WEFT_ROOT", host.lab.root())
            .background();
        let containerd = Self { daemon: Some(daemon), client, host };
        until("containerd", || containerd.ctr("default", &["version"]).code == 0);
        for namespace in ["default", "k8s.io"] {
            let archive = containerd.host.image[0].to_str().unwrap();
            containerd.ctr(namespace, &["image", "import", "--snapshotter", "native", archive]).expect_ok();
        }
        Some(containerd)
    }

    /// Runs its client in a namespace of containerd's.
    pub(crate) fn ctr(&self, namespace: &str, words: &[&str]) -> Output {
        // It calls the plugins of `run --cni` itself.
        let client = peer_program(&self.client).env("WEFT_ROOT", self.host.lab.root());
        client.args(["--address", SOCKET, "--namespace", namespace]).args(words).run()
    }

    /// Returns what it has logged, for a test that fails.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(format!("{FOLDER}/log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.log();
            eprintln!(
                "containerd said:\n{}",
                said.lines().filter(|line| !line.contains("level=info")).collect::<Vec<_>>().join("\n")
            );
        }
        drop(self.daemon.take());
    }
}

/// Its configuration: nothing outside the lab, and no file system that needs a device.
fn config() -> String {
    let name = image::NAME;
    format!(
        r#"
version = 2
root = "{FOLDER}/root"
state = "{FOLDER}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{SOCKET}"
[ttrpc]
address = "{SOCKET}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{name}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "{NETWORKS}"
"#
    )
}
