//! `weft doctor --drop-in`: a node whose runtimes call weft's plugins in place of the reference ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_cni::json::get;
use weft_cni::{Conflist, Finding};
use weft_runtime::Runtime;
use weft_runtime::find::find;
use weft_runtime::load;
use weft_state::file;

use crate::drivers::Drivers;
use crate::{Error, Manager};

/// The files of CNI plugins that a node may have from elsewhere, and that we bring, too.
const REFERENCE: [&str; 19] = [
    "bandwidth",
    "bridge",
    "dhcp",
    "dummy",
    "firewall",
    "host-device",
    "host-local",
    "ipvlan",
    "loopback",
    "macvlan",
    "portmap",
    "ptp",
    "sbr",
    "static",
    "tap",
    "tuning",
    "vlan",
    "vrf",
    "host",
];

impl Manager {
    /// Says what is not as it should be on a node whose runtimes look for plugins in one folder and for networks in
    /// another: files that are not weft's, lists that cannot be used, and addresses of containers that nobody has.
    ///
    /// # Errors
    ///
    /// When a folder is not there.
    pub fn examine_node(&self, plugins: &Path, networks: &Path) -> Result<Vec<Finding>, Error> {
        let drivers = Drivers::new(&self.root, vec![plugins.to_path_buf()]);
        let mut found = Vec::new();
        let there = names_in(plugins)?;
        for kind in REFERENCE.iter().filter(|kind| there.contains(**kind)) {
            if !matches!(drivers.describe(kind), Ok(Some(_))) {
                found.push(Finding {
                    what: plugins.join(kind).display().to_string(),
                    why: "it is not weft's".into(),
                    mend: format!("install weft's file {kind} in its place"),
                });
            }
        }
        let runtime = Runtime::new(&self.root, vec![plugins.to_path_buf()]);
        for file in names_in(networks)?.iter().map(|name| networks.join(name)).filter(|path| is_list(path)) {
            match load::conflist(&file) {
                Ok(list) => found.extend(self.examine_list(&runtime, &list, &file)),
                Err(error) => found.push(Finding {
                    what: file.display().to_string(),
                    why: error.to_string(),
                    mend: "mend the file".into(),
                }),
            }
        }
        Ok(found)
    }

    fn examine_list(&self, runtime: &Runtime, list: &Conflist, file: &Path) -> Vec<Finding> {
        let what = file.display().to_string();
        let mut found = Vec::new();
        let mut complain = |why: String, mend: &str| {
            found.push(Finding { what: what.clone(), why, mend: mend.into() });
        };
        let mut complete = true;
        for kind in list.plugins.iter().flat_map(kinds) {
            if let Err(error) = find(kind, runtime.paths()) {
                complain(error.to_string(), "install the plugin");
                complete = false;
            }
        }
        // The plugins themselves say what they make of it.
        if complete && let Err(error) = runtime.status(list) {
            complain(error.to_string(), "mend the file");
        }
        found.extend(self.ownerless(list));
        found
    }

    /// The addresses of a network whose holders no runtime has a result of and we have no record of: a runtime that was
    /// killed, or that never calls DEL, left them.
    fn ownerless(&self, list: &Conflist) -> Vec<Finding> {
        let results = names_in(&self.root.cni_results_dir()).unwrap_or_default();
        let records = self.records.all();
        let is_known = |container: &str, ifname: &str| {
            results.contains(&format!("{}-{container}-{ifname}", list.name))
                || records.iter().any(|one| {
                    one.endpoint.container.as_str() == container && one.endpoint.ifname.as_str() == ifname
                })
        };
        let mut found = Vec::new();
        for folder in list.plugins.iter().filter_map(|plugin| self.lease_folder(list, plugin)) {
            for address in names_in(&folder).unwrap_or_default() {
                let text = match address.parse::<std::net::IpAddr>() {
                    Ok(_) => file::read_text(&folder.join(&address)).unwrap_or_default(),
                    Err(_) => continue,
                };
                let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                let (Some(container), Some(ifname)) = (lines.next(), lines.next()) else { continue };
                if !is_known(container, ifname) {
                    found.push(Finding {
                        what: format!("{address} of network {}", list.name),
                        why: format!("it is held for {ifname} of {container}, of which there is no result"),
                        mend: format!("if the container is gone: rm {}", folder.join(&address).display()),
                    });
                }
            }
        }
        found
    }

    /// Returns the folder of a network's leases, if that is where a plugin's addresses come from.
    fn lease_folder(&self, list: &Conflist, plugin: &Value) -> Option<PathBuf> {
        let ipam = get(plugin, "ipam")?;
        if kind_of(ipam) != "host-local" {
            return None;
        }
        let given = get(ipam, "dataDir").and_then(Value::as_str).filter(|path| !path.is_empty());
        let folder = given.map_or_else(|| self.root.cni_networks_dir(), PathBuf::from);
        Some(folder.join(list.name.as_str()))
    }
}

/// The plugins that a configuration names.
fn kinds(plugin: &Value) -> impl Iterator<Item = &str> {
    let ipam = get(plugin, "ipam").map(kind_of);
    [Some(kind_of(plugin)), ipam].into_iter().flatten().filter(|kind| !kind.is_empty())
}

fn kind_of(plugin: &Value) -> &str {
    get(plugin, "type").and_then(Value::as_str).unwrap_or_default()
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "conflist")
}

fn names_in(folder: &Path) -> Result<BTreeSet<String>, Error> {
    let entries = fs::read_dir(folder)
        .map_err(|source| Error::Config { path: folder.into(), why: format!("cannot list it: {source}") })?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
