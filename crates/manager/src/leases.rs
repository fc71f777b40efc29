//! The addresses that host-local has leased, as far as other people's networks are concerned: their leases
//! are the only trace of containers that another runtime connected.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_cni::Conflist;
use weft_cni::json::get;
use weft_state::Root;

/// Returns the ids of the containers that have leases of a network, each once.
pub(crate) fn holders(root: &Root, list: &Conflist) -> Vec<String> {
    let mut dirs: Vec<PathBuf> = list.plugins.iter().filter_map(data_dir).collect();
    dirs.push(root.cni_networks_dir());
    let mut holders: Vec<String> =
        dirs.iter().flat_map(|dir| leases(&dir.join(list.name.as_str()))).collect();
    holders.sort();
    holders.dedup();
    holders
}

fn data_dir(plugin: &serde_json::Value) -> Option<PathBuf> {
    let dir = get(get(plugin, "ipam")?, "dataDir")?.as_str()?;
    (!dir.is_empty()).then(|| dir.into())
}

/// Returns who has the leases in a directory: their files are named after addresses and begin with the
/// container's id.
fn leases(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let lease = |entry: std::fs::DirEntry| {
        entry.file_name().to_str()?.parse::<IpAddr>().ok()?;
        let text = weft_state::file::read_text(&entry.path()).ok()?;
        text.lines().next().map(|id| id.trim().to_owned()).filter(|id| !id.is_empty())
    };
    entries.filter_map(lease).collect()
}
