//! What other networks of the host have, whoever made it: it stays when the leftovers of this one go.
//!
//! A source of firewalld's and a file of `tuning`'s tell no network. That nobody is known to have one is no proof that
//! nobody has: another runtime may write down its attachments where we do not look. So the leases and the runtime's cache of a
//! network have to show that something was its own, and then it stays all the same if it is found here.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use weft_cni::json::get;
use weft_cni::{NetworkResult, Version};
use weft_model::{Endpoint, IfName};
use weft_plan::{Cause, Kernel};
use weft_runtime::cache::Cache;
use weft_runtime::load;
use weft_state::attachment::Records;

use super::held::{data_dir, read};
use crate::Call;

/// The configurations of plugins that the host has, each with its network's name: in the runtimes' usual directory, and with
/// the attachments that a runtime has written down.
pub(super) struct Configured(Vec<Value>);

impl Configured {
    pub(super) fn read(call: &Call) -> Self {
        let mut plugins = load::plugins_in(&call.root.cni_conf_dir());
        let made = Cache::new(call.root.cni_results_dir()).made();
        plugins.extend(made.into_iter().flat_map(|made| made.plugins));
        plugins.push(call.conf.raw.clone());
        Self(plugins)
    }

    /// Returns where this network's `tuning` keeps what interfaces were, apart from the usual directory.
    pub(super) fn tuning_dirs(&self, call: &Call) -> BTreeSet<PathBuf> {
        let text = |plugin: &Value, key: &str| Some(get(plugin, key)?.as_str()?.to_owned());
        let own = self.0.iter().filter(|plugin| {
            text(plugin, "name").as_deref() == Some(call.conf.name.as_str())
                && text(plugin, "type").as_deref() == Some("tuning")
        });
        own.filter_map(data_dir).filter(|dir| *dir != call.root.cni_tuning_dir()).collect()
    }

    /// Returns where `host-local` keeps the leases of networks.
    fn lease_dirs(&self, call: &Call) -> BTreeSet<PathBuf> {
        let named = self.0.iter().filter_map(|plugin| data_dir(get(plugin, "ipam")?));
        named.chain([call.root.cni_networks_dir()]).collect()
    }
}

/// Returns the attachments, container and interface, that other networks than the call's have, as far as that is written down
/// anywhere on the host.
pub fn attachments_elsewhere(call: &Call) -> BTreeSet<(String, String)> {
    Elsewhere::read(call, &Configured::read(call)).attachments
}

/// The attachments of other networks.
#[derive(Default)]
pub(super) struct Elsewhere {
    attachments: BTreeSet<(String, String)>,
    addresses: BTreeSet<IpAddr>,
}

impl Elsewhere {
    pub(super) fn read(call: &Call, configured: &Configured) -> Self {
        let mut elsewhere = Self::default();
        elsewhere.add_recorded(call);
        elsewhere.add_cached(call);
        elsewhere.add_leased(call, configured);
        elsewhere
    }

    /// Returns whether another network has an attachment of this container and interface.
    pub(super) fn knows(&self, endpoint: &Endpoint) -> bool {
        self.attachments.contains(&(endpoint.container.to_string(), endpoint.ifname.to_string()))
    }

    /// Returns the addresses that others have: those that are written down, and those that the kernel knows by way of a pair
    /// that is no port of `bridge`.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub(super) fn addresses(&self, bridge: Option<&IfName>) -> Result<BTreeSet<IpAddr>, Cause> {
        let mut addresses = Kernel::open(None)?.addresses_behind_pairs(bridge)?;
        addresses.extend(&self.addresses);
        Ok(addresses)
    }

    fn add_recorded(&mut self, call: &Call) {
        for records in [Records::new(&call.root), Records::of_plugin(&call.root, "tuning")] {
            for record in records.all() {
                if record.endpoint.network == call.conf.name {
                    continue;
                }
                let Endpoint { container, ifname, .. } = &record.endpoint;
                self.attachments.insert((container.to_string(), ifname.to_string()));
                self.addresses.extend(record.addresses.iter().map(|address| address.ip()));
            }
            // Whose these are is not known.
            let damaged = records.all_damaged().into_iter();
            self.attachments.extend(damaged.map(|(id, ifname)| (id.to_string(), ifname.to_string())));
        }
    }

    fn add_cached(&mut self, call: &Call) {
        let cache = Cache::new(call.root.cni_results_dir());
        for cached in cache.everybody() {
            if cached.network == call.conf.name.as_str() {
                continue;
            }
            let (container, ifname) = (cached.id.container_id, cached.id.ifname);
            let endpoint = || {
                let network = cached.network.parse().ok()?;
                Some(Endpoint { network, container: container.parse().ok()?, ifname: ifname.parse().ok()? })
            };
            let result = endpoint().and_then(|endpoint| cache.result(&endpoint));
            let result = result.and_then(|result| NetworkResult::from_value(&result, Version::LATEST).ok());
            let result = result.unwrap_or_default();
            self.addresses.extend(result.ips.iter().map(|ip| ip.address.ip()));
            self.attachments.insert((container, ifname));
        }
    }

    fn add_leased(&mut self, call: &Call, configured: &Configured) {
        let own = call.conf.name.as_str();
        let dirs = configured.lease_dirs(call);
        let networks = dirs.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        for network in networks.filter(|entry| entry.file_name() != own) {
            let leases = fs::read_dir(network.path()).into_iter().flatten().flatten();
            for lease in leases.filter_map(|entry| read(&entry.path())) {
                self.addresses.extend(lease.address);
                self.attachments.extend(lease.ifname.map(|ifname| (lease.container, ifname)));
            }
        }
    }
}
