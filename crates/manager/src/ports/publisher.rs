//! The plugin of a network that publishes ports.

use serde_json::Value;
use weft_cni::Conflist;
use weft_cni::json::get;
use weft_model::port::{HostPorts, PublishSpec};
use weft_model::{Endpoint, NetworkName};

use super::CAPABILITY;
use crate::store::Stored;
use crate::{Error, Manager};

/// The part of a network that publishes ports.
pub(super) struct Publisher {
    pub(super) list: Conflist,
    pub(super) plugin: Value,
}

impl Manager {
    /// Returns the plugin that publishes an attachment's ports.
    pub(super) fn publisher_at(&self, endpoint: &Endpoint) -> Result<Publisher, Error> {
        let network = &endpoint.network;
        let stored = self.store.load(network)?.ok_or_else(|| Error::NoNetwork(network.to_string()))?;
        self.publisher(&stored)
    }

    /// Returns the plugin that publishes ports on a network.
    ///
    /// # Errors
    ///
    /// When there is none, with the reason and what to do about it.
    pub(super) fn publisher(&self, stored: &Stored) -> Result<Publisher, Error> {
        let (network, list) = (&stored.network, &stored.list);
        let refuse = |why: &str, hint: Option<String>| Error::Unpublishable {
            network: network.name.clone(),
            why: why.into(),
            hint,
        };
        if network.about.internal {
            return Err(refuse("it is internal, so nothing from outside reaches its containers", None));
        }
        let takes = |plugin: &&Value| {
            get(plugin, "capabilities").and_then(|declared| get(declared, CAPABILITY))
                == Some(&Value::Bool(true))
        };
        if let Some(plugin) = list.plugins.iter().find(takes) {
            return Ok(Publisher { list: list.clone(), plugin: plugin.clone() });
        }
        let path = self.store.path(&network.name);
        let hint = format!(
            "append {{\"type\": \"portmap\", \"capabilities\": {{\"{CAPABILITY}\": true}}}} to the plugins in {}",
            path.display()
        );
        let hint = network.subnets().next().map(|_| hint);
        Err(refuse("none of its plugins publishes ports", hint))
    }

    /// Refuses what only our own plugin understands where the network has another one: it would open the port
    /// to everybody, or another port. Ports of a container that is connected can only be changed by ours, too.
    pub(super) fn check_understood(
        &self,
        network: &NetworkName,
        publisher: &Publisher,
        specs: &[PublishSpec],
        connected: bool,
    ) -> Result<(), Error> {
        let plain = |spec: &PublishSpec| {
            spec.from.is_empty() && spec.ports.is_single() && matches!(spec.host_ports, HostPorts::These(_))
        };
        if !connected && specs.iter().all(plain) {
            return Ok(());
        }
        let kind = get(&publisher.plugin, "type").and_then(Value::as_str).unwrap_or_default();
        if self.drivers.describe(kind)?.is_some() {
            return Ok(());
        }
        let what = match connected {
            true => "changes no ports while a container is connected",
            false => "knows neither sources nor ranges nor free ports",
        };
        let why = format!("its plugin {kind} is not weft's and {what}");
        Err(Error::Unpublishable { network: network.clone(), why, hint: None })
    }
}
