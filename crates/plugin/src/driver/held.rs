//! What is written down of attachments, by `host-local` of either kind and by the runtime.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_cni::NetworkResult;
use weft_firewall::Departed;
use weft_model::Endpoint;
use weft_runtime::cache::Cache;
use weft_state::file;

use crate::Call;

/// An attachment that is written down, by `host-local` of either kind or by the runtime.
pub(super) struct Held {
    pub(super) container: String,
    /// Before version 0.8 of the reference `host-local` only the container was written.
    pub(super) ifname: Option<String>,
    pub(super) address: Option<IpAddr>,
}

impl Held {
    pub(super) fn is_of(&self, attachments: &[(&str, &str)]) -> bool {
        attachments.iter().any(|(container, ifname)| {
            self.container == *container && self.ifname.as_deref().is_none_or(|own| own == *ifname)
        })
    }

    pub(super) fn departed(&self) -> Option<Departed<'_>> {
        Some(Departed { container: &self.container, address: self.address? })
    }

    pub(super) fn endpoint(&self, call: &Call) -> Option<Endpoint> {
        let (container, ifname) = (self.container.parse().ok()?, self.ifname.as_deref()?.parse().ok()?);
        Some(Endpoint { network: call.conf.name.clone(), container, ifname })
    }
}

/// Returns what is written down of the call's network.
pub(super) fn held(call: &Call) -> Vec<Held> {
    let mut held = leased(call);
    held.extend(answered(call));
    held
}

/// Returns what `host-local` has given away, if that is where the network's addresses come from.
fn leased(call: &Call) -> Vec<Held> {
    if call.conf.ipam_type() != Some("host-local") {
        return Vec::new();
    }
    let given = call.conf.ipam.as_ref().and_then(data_dir);
    let folder = given.unwrap_or_else(|| call.root.cni_networks_dir()).join(call.conf.name.as_str());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

/// Returns the directory that the configuration of an address plugin names.
pub(super) fn data_dir(ipam: &serde_json::Value) -> Option<PathBuf> {
    let given = weft_cni::json::get(ipam, "dataDir").and_then(serde_json::Value::as_str);
    given.filter(|path| !path.is_empty()).map(PathBuf::from)
}

pub(super) fn read(path: &Path) -> Option<Held> {
    /// Two names and a line's end; a file that has more is no lease.
    const LONGEST: u64 = 4096;
    let address = path.file_name()?.to_str()?.parse().ok()?;
    if fs::metadata(path).ok()?.len() > LONGEST {
        return None;
    }
    let text = file::read_text(path).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (container, ifname) = (lines.next()?.to_owned(), lines.next().map(str::to_owned));
    Some(Held { container, ifname, address: Some(address) })
}

/// Returns what the runtime was told when it connected containers, as far as it keeps that in the reference library's
/// way: with it the addresses are known whoever gave them.
fn answered(call: &Call) -> Vec<Held> {
    let cache = Cache::new(call.root.cni_results_dir());
    let mut held = Vec::new();
    for cached in cache.of_network(call.conf.name.as_str()) {
        let (container, ifname) = (cached.id.container_id, Some(cached.id.ifname));
        let one = Held { container, ifname, address: None };
        let result = one.endpoint(call).and_then(|endpoint| cache.result(&endpoint));
        let result = result.and_then(|result| NetworkResult::from_value(&result, call.conf.version).ok());
        let result = result.unwrap_or_default();
        for ip in &result.ips {
            let (container, ifname) = (one.container.clone(), one.ifname.clone());
            held.push(Held { container, ifname, address: Some(ip.address.ip()) });
        }
        held.push(one);
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_at_a_pipe_among_the_leases() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("10.0.0.4")).unwrap();
        nix::unistd::mkfifo(&path("10.0.0.2"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        weft_state::atomic::write(
            &path("10.0.0.3"),
            b"red\r\neth0",
            weft_state::atomic::Durability::Boot,
            0o600,
        )
        .unwrap();
        let container = |name: &str| read(&path(name)).map(|held| held.container);
        assert_eq!(["10.0.0.2", "10.0.0.3", "10.0.0.4"].map(container), [None, Some("red".into()), None]);
    }
}
