//! What interfaces were before they were tuned, of attachments that are gone, where the configuration names the directory.
//!
//! A file's name tells the container and the interface and not the network, and other networks may keep theirs in the
//! same directory. So a file goes if nobody on the host knows of an interface that it could be about. Those in the usual
//! directory are known by the addresses that their containers had, whatever plugin is asked to collect.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use weft_cni::{Code, Failure};
use weft_plan::forget_backup;
use weft_plugin::{Call, known_attachments};

/// Removes the files in a directory that are about nobody.
pub(crate) fn collect(call: &Call, dir: &Path) -> Result<(), Failure> {
    if dir == call.root.cni_tuning_dir() || !dir.is_dir() {
        return Ok(());
    }
    let known = known_attachments(call)?;
    let kept: BTreeSet<PathBuf> =
        known.iter().map(|(container, ifname)| dir.join(format!("{container}_{ifname}.json"))).collect();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let stale = entries.filter(|path| is_named_like_one(path) && !kept.contains(path));
    let problems = stale.filter_map(|path| forget_backup(&path).err());
    Failure::all(problems.map(|cause| Failure::new(Code::Io, cause)).collect())
}

fn is_named_like_one(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
    name.is_some_and(|name| name.contains('_'))
}
