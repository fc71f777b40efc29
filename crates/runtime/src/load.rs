//! Reading a network's configuration from disk.

use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_cni::{Conflist, Failure};

/// Why a file holds no usable network.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is not a conflist.
    #[error("{}: {}", path.display(), failure.msg)]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the JSON path.
        failure: Failure,
    },
}

impl LoadError {
    /// Returns the file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Malformed { path, .. } => path,
        }
    }

    /// Returns whether the file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Reads a conflist and, unless it says otherwise, the plugins dropped beside it.
///
/// CNI: with `loadOnlyInlinedPlugins` false, which is the default, every `*.conf` in the directory named
/// after the network, beside its file, is one more plugin at the end of the chain.
pub fn conflist(path: &Path) -> Result<Conflist, LoadError> {
    let read = |path: &Path| {
        weft_state::file::read(path).map_err(|source| LoadError::Read { path: path.into(), source })
    };
    let malformed = |failure| LoadError::Malformed { path: path.into(), failure };
    let mut list = Conflist::parse(&read(path)?).map_err(malformed)?;
    if !list.load_only_inlined_plugins
        && let Some(dir) = path.parent()
    {
        for file in drop_ins(&dir.join(list.name.as_str())) {
            let plugin: Value =
                serde_json::from_slice(&read(&file)?).map_err(|error| LoadError::Malformed {
                    path: file.clone(),
                    failure: Failure::text(weft_cni::Code::Decode, error.to_string()),
                })?;
            list.plugins.push(plugin);
        }
    }
    Ok(list)
}

/// Returns the plugins of the networks that a directory has, as far as they can be read, each with its network's name.
pub fn plugins_in(dir: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| {
        path.extension().is_some_and(|ext| ["conflist", "conf", "json"].iter().any(|one| ext == *one))
    });
    files.flat_map(|path| plugins_of(&path)).collect()
}

fn plugins_of(path: &Path) -> Vec<Value> {
    if let Ok(list) = conflist(path) {
        let named = |mut plugin: Value| {
            plugin["name"] = list.name.as_str().into();
            plugin
        };
        return list.plugins.into_iter().filter(Value::is_object).map(named).collect();
    }
    // One plugin that stands alone, or a list that we would not take: what can be told of it is told.
    let config = weft_state::file::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    config.map(crate::cache::plugins).unwrap_or_default()
}

fn drop_ins(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "conf") && path.is_file())
        .collect();
    files.sort();
    files
}
