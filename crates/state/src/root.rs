//! Where everything lives.

use std::env;
use std::path::{Path, PathBuf};

use weft_model::Endpoint;

/// The directory that every path of ours is below: `/`, unless `WEFT_ROOT` or `--root` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The environment variable that moves everything, for this process and the plugins it starts.
    pub const VARIABLE: &'static str = "WEFT_ROOT";

    /// Returns the root the environment asks for.
    pub fn from_env() -> Self {
        Self::new(env::var_os(Self::VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from))
    }

    /// Returns the root below `dir`, or the real one.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self(dir.unwrap_or_else(|| PathBuf::from("/")))
    }

    /// Returns the root directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the directories in which we write files, with everything below them.
    pub(crate) fn ours(&self) -> [PathBuf; 5] {
        ["etc/weft", "run/weft", "var/lib/weft", "var/lib/cni/results", "var/lib/cni/networks"]
            .map(|dir| self.0.join(dir))
    }

    /// Returns the administrator's settings file.
    pub fn config(&self) -> PathBuf {
        self.0.join("etc/weft/weft.toml")
    }

    /// Returns the directory of network definitions, one conflist each.
    pub fn networks_dir(&self) -> PathBuf {
        self.0.join("etc/weft/networks.d")
    }

    /// Returns the directory of attachment records.
    pub fn attachments_dir(&self) -> PathBuf {
        self.0.join("run/weft/attachments")
    }

    /// Returns the directory of what chained plugins did to attachments of others, one directory a plugin.
    pub fn chained_dir(&self) -> PathBuf {
        self.0.join("run/weft/chained")
    }

    /// Returns the directory of DHCP leases.
    pub fn dhcp_dir(&self) -> PathBuf {
        self.0.join("run/weft/dhcp")
    }

    /// Returns the directory of files that say which networks' subnets are masqueraded.
    pub fn masquerade_dir(&self) -> PathBuf {
        self.0.join("run/weft/masquerade")
    }

    /// Returns the directory of books about published ports.
    pub fn ports_dir(&self) -> PathBuf {
        self.0.join("run/weft/ports")
    }

    /// Returns the directory of lock files.
    pub fn locks_dir(&self) -> PathBuf {
        self.0.join("run/weft/locks")
    }

    /// Returns the directory of marks on networks that were swept in this boot.
    pub fn sweeps_dir(&self) -> PathBuf {
        self.0.join("run/weft/sweeps")
    }

    /// Returns the directory of the networks' definitions as they were last used in this boot.
    pub fn copies_dir(&self) -> PathBuf {
        self.0.join("run/weft/networks")
    }

    /// Returns the directory of name records for the resolver.
    pub fn names_dir(&self) -> PathBuf {
        self.0.join("run/weft/names")
    }

    /// Returns the directory of addresses kept for names.
    pub fn reservations_dir(&self) -> PathBuf {
        self.0.join("var/lib/weft/reservations")
    }

    /// Returns the directory of what the administrator says of overlays: this host, static peers, their networks.
    pub fn overlay_config_dir(&self) -> PathBuf {
        self.0.join("etc/weft/overlay")
    }

    /// Returns the directory of what a host keeps of its overlays over a reboot.
    pub fn overlay_dir(&self) -> PathBuf {
        self.0.join("var/lib/weft/overlay")
    }

    /// Returns the directory of what an ADD to an overlay reads, and of the agent's socket.
    pub fn overlay_run_dir(&self) -> PathBuf {
        self.0.join("run/weft/overlay")
    }

    /// Returns the directory of what the overlay's agent tells others in this boot. No network's file can be in its place.
    pub fn overlay_agent_dir(&self) -> PathBuf {
        self.overlay_run_dir().join("agent")
    }

    /// Returns the socket on which the daemon of `dhcp` is asked, the same as upstream's.
    pub fn dhcp_socket(&self) -> PathBuf {
        self.0.join("run/cni/dhcp.sock")
    }

    /// Returns the directory of what interfaces were before `tuning` changed them, the same as upstream's.
    pub fn cni_tuning_dir(&self) -> PathBuf {
        self.0.join("run/cni/tuning")
    }

    /// Returns the file in such a directory that is about one interface.
    pub fn tuning_backup(dir: &Path, endpoint: &Endpoint) -> PathBuf {
        dir.join(format!("{}_{}.json", endpoint.container, endpoint.ifname))
    }

    /// Returns the administrator's list of sysctls that `tuning` may set, the same as upstream's.
    pub fn cni_sysctl_allowlist(&self) -> PathBuf {
        self.0.join("etc/cni/tuning/allowlist.conf")
    }

    /// Returns the directory where runtimes look for networks.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.0.join("etc/cni/net.d")
    }

    /// Returns libcni's result cache.
    pub fn cni_results_dir(&self) -> PathBuf {
        self.0.join("var/lib/cni/results")
    }

    /// Returns host-local's data directory, the same as upstream's.
    pub fn cni_networks_dir(&self) -> PathBuf {
        self.0.join("var/lib/cni/networks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_moves_every_path() {
        let real = Root::new(None);
        assert_eq!(real.config(), Path::new("/etc/weft/weft.toml"));
        assert_eq!(real.cni_networks_dir(), Path::new("/var/lib/cni/networks"));
        let moved = Root::new(Some("/srv/lab".into()));
        for path in [moved.networks_dir(), moved.attachments_dir(), moved.locks_dir(), moved.names_dir()] {
            assert!(path.starts_with("/srv/lab"), "{path:?}");
        }
        assert_eq!(moved.cni_results_dir(), Path::new("/srv/lab/var/lib/cni/results"));
        assert_eq!(moved.reservations_dir(), Path::new("/srv/lab/var/lib/weft/reservations"));
    }
}
