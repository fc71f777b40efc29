//! The plugin of a network that publishes ports.

use std::fmt::Display;
use std::net::IpAddr;

use serde_json::Value;
use weft_cni::Conflist;
use weft_cni::json::get;
use weft_model::port::{HostPorts, PublishSpec};
use weft_model::{Endpoint, GatewayMode, Gateways, NetworkName};

use super::CAPABILITY;
use crate::store::Stored;
use crate::{Error, Manager};

/// The part of a network that publishes ports.
pub(super) struct Publisher {
    pub(super) list: Conflist,
    pub(super) plugin: Value,
}

impl Publisher {
    /// Returns the network's gateway modes, as the plugin is told.
    fn gateways(&self) -> Gateways {
        let told = get(&self.plugin, "gatewayMode").cloned();
        told.and_then(|told| serde_json::from_value(told).ok()).unwrap_or_default()
    }

    /// Refuses an address of the host where it means nothing: the port would be open at every address.
    pub(super) fn check_reach(&self, host: IpAddr, ports: &dyn Display) -> Result<(), Error> {
        let network = self.list.name.clone();
        match self.gateways().of(host) {
            GatewayMode::Routed if !host.is_unspecified() => {
                Err(Error::RoutedHost { ports: ports.to_string(), network })
            }
            GatewayMode::Isolated => {
                let family = if host.is_ipv4() { "IPv4" } else { "IPv6" };
                let why = format!(
                    "its gateway mode for {family} is isolated, so nothing from outside reaches its containers"
                );
                Err(Error::Unpublishable { network, why, hint: None })
            }
            _ => Ok(()),
        }
    }

    /// Refuses ports as typed that the network would publish nowhere, or elsewhere than they say. `families` has
    /// an unspecified address for each family that is theirs.
    pub(super) fn check_spec(&self, spec: &PublishSpec, families: &[IpAddr]) -> Result<(), Error> {
        let reach = |any: &IpAddr| self.check_reach(spec.host.unwrap_or(*any), spec);
        let mut outcomes = families.iter().map(reach);
        let first = outcomes.next().unwrap_or(Ok(()));
        first.or_else(|error| if outcomes.any(|outcome| outcome.is_ok()) { Ok(()) } else { Err(error) })
    }

    /// Returns how many ports of the host are left to be chosen: none where they are the container's own.
    pub(super) fn chooses(&self, spec: &PublishSpec, families: &[IpAddr]) -> usize {
        let translated = |any: &IpAddr| self.gateways().of(spec.host.unwrap_or(*any)).translates();
        match spec.host_ports {
            HostPorts::Any if families.iter().any(translated) => spec.ports.len().into(),
            _ => 0,
        }
    }
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
