//! What podman and buildah are told by the same files.

use std::path::{Path, PathBuf};

use weft_testkit::{Program, peer, peer_program, staged_folder};

use crate::host::Host;

const FOLDER: &str = "/run/client/containers";
/// Where they look for networks, and podman puts its own.
pub(crate) const NETWORKS: &str = "/run/client/containers/networks";

/// A host for programs that look for networks in `containers.conf`.
pub(crate) struct Containers {
    pub(crate) host: Host,
    runc: PathBuf,
}

impl Containers {
    /// Writes their configuration, or says what is lacking.
    pub(crate) fn new() -> Option<Self> {
        let (runc, conmon) = (peer("/usr/sbin/runc")?, peer("/usr/bin/conmon")?);
        let host = Host::new()?;
        host.put(&format!("{FOLDER}/containers.conf"), &config(&runc, &conmon));
        let accept = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        host.put(&format!("{FOLDER}/.config/containers/policy.json"), accept);
        host.put(&format!("{FOLDER}/registries.conf"), "unqualified-search-registries = []\n");
        std::fs::create_dir_all(NETWORKS).unwrap();
        Some(Self { host, runc })
    }

    /// Prepares one of the two.
    pub(crate) fn program(&self, path: &Path) -> Program {
        let folder = |name: &str| format!("{FOLDER}/{name}");
        peer_program(path)
            .args(["--root", &folder("graph"), "--runroot", &folder("run"), "--storage-driver", "vfs"])
            .env("CONTAINERS_CONF", folder("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", folder("registries.conf"))
            .env("HOME", FOLDER)
            .env("TMPDIR", FOLDER)
            .env("WEFT_ROOT", self.host.lab.root())
    }

    /// Returns the program that makes containers.
    pub(crate) fn runc(&self) -> &str {
        self.runc.to_str().unwrap()
    }
}

fn config(runc: &Path, conmon: &Path) -> String {
    let (runc, conmon, plugins) = (runc.display(), conmon.display(), staged_folder());
    let plugins = plugins.display();
    format!(
        r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}"]
network_config_dir = "{NETWORKS}"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
conmon_path = ["{conmon}"]
tmp_dir = "{FOLDER}/tmp"
[engine.runtimes]
runc = ["{runc}"]
"#
    )
}
