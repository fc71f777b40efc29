//! `weft plugin ls` and `weft plugin describe`.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::own_directory;
use crate::drivers::{About, plugin_of};
use crate::{Error, Manager, order};

/// A file every directory of CNI plugins has.
const MARK: &str = "loopback";

/// A plugin that was found.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Its CNI type.
    pub kind: String,
    /// Its binary.
    pub path: PathBuf,
    /// What it says about itself; other people's plugins say nothing.
    pub about: Option<About>,
    /// The CNI versions it understands.
    pub versions: Vec<String>,
}

impl Manager {
    /// Lists the plugins found in the search path, the first of each type.
    pub fn plugins(&self) -> Vec<Plugin> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for dir in self.runtime.paths().iter().filter(|dir| is_for_plugins(dir)) {
            for (kind, path) in programs(dir) {
                if seen.insert(kind.clone()) {
                    found.extend(self.plugin(kind, path));
                }
            }
        }
        found.sort_by(|a: &Plugin, b| order::natural(&a.kind, &b.kind));
        found
    }

    /// Returns a program as a plugin, if it is one.
    fn plugin(&self, kind: String, path: PathBuf) -> Option<Plugin> {
        // Whoever has not answered one question in time is not asked another.
        let about = self.drivers.describe(&kind).ok()?;
        let versions = match &about {
            Some(about) => about.versions.clone(),
            None => self.runtime.versions(&kind).ok().filter(|versions| !versions.is_empty())?,
        };
        Some(Plugin { kind, path, about, versions })
    }

    /// Returns a plugin's description of itself.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or it does not describe itself.
    pub fn describe(&self, kind: &str) -> Result<About, Error> {
        let kind = plugin_of(kind);
        self.drivers.describe(kind)?.ok_or_else(|| Error::Plugin {
            kind: kind.into(),
            why: "it is not one of weft's and does not describe itself".into(),
        })
    }
}

/// Returns whether the programs in a directory may be run to see if they are plugins.
///
/// The directory we run from may be anybody's, such as `~/.cargo/bin`.
fn is_for_plugins(dir: &Path) -> bool {
    own_directory().is_none_or(|own| own != dir) || dir.join(MARK).is_file()
}

fn programs(dir: &Path) -> Vec<(String, PathBuf)> {
    let own = std::env::current_exe().ok();
    let program = |path: PathBuf| {
        let meta = path.metadata().ok()?;
        let runnable = meta.is_file() && meta.permissions().mode() & 0o111 != 0;
        let name = path.file_name()?.to_str()?.to_owned();
        // The daemon and the command line live beside their plugins.
        let ours = own.as_ref() == Some(&path) || name.starts_with("weft");
        (runnable && !ours && !name.contains('.')).then_some((name, path))
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut programs: Vec<(String, PathBuf)> = entries.filter_map(|entry| program(entry.path())).collect();
    programs.sort();
    programs
}
