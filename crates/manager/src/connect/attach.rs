//! What the plugins are told about one connection.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};
use weft_cni::Conflist;
use weft_cni::json::get;
use weft_model::IfName;
use weft_runtime::Attachment;

use super::metric::metric;
use super::{Job, declares};
use crate::network::Network;
use crate::{Error, ports};

/// One connection, with everything chosen.
pub(super) struct Plan<'a> {
    /// The interface's name.
    pub(super) ifname: IfName,
    /// The addresses asked for; the driver chooses the others.
    addresses: Vec<IpAddr>,
    /// Addresses that are only given out when nothing else is left.
    avoid: &'a [IpAddr],
    /// What the record keeps.
    pub(super) attach: Value,
}

impl<'a> Plan<'a> {
    /// Chooses everything for a connection that also asks for the addresses in `sticky`.
    pub(super) fn of(job: &Job<'_>, sticky: &[IpAddr], avoid: &'a [IpAddr]) -> Result<Self, Error> {
        let request = job.asked.request;
        check_addresses(&job.stored.network, &request.addresses)?;
        let ifname = match &request.interface {
            Some(ifname) => free(ifname, job)?,
            None => next(job),
        };
        let mut sysctls = BTreeMap::new();
        for (key, value) in &request.sysctls {
            if !key.starts_with("net.") {
                return Err(Error::Sysctl(key.clone()));
            }
            sysctls.insert(key.replacen("IFNAME", ifname.as_str(), 1), value.clone());
        }
        let attach = json!({
            "name": job.asked.name,
            "aliases": request.aliases,
            "mac": request.mac,
            "gatewayPriority": request.priority,
            "gatewayMetric": metric(request.priority, job.others)?,
            "sysctl": sysctls,
            "namespace": job.asked.identity,
        });
        let addresses = request.addresses.iter().chain(sticky).copied().collect();
        Ok(Self { ifname, addresses, avoid, attach })
    }

    /// Returns the conflist with the addresses to avoid in it.
    pub(super) fn list(&self, list: &Conflist) -> Conflist {
        let mut list = list.clone();
        if self.avoid.is_empty() {
            return list;
        }
        for plugin in &mut list.plugins {
            let ours = get(plugin, "ipam").and_then(|ipam| get(ipam, "type")?.as_str()) == Some("host-local");
            if let Some(ipam) = plugin.get_mut("ipam").and_then(Value::as_object_mut).filter(|_| ours) {
                ipam.insert("avoid".into(), json!(self.avoid));
            }
        }
        list
    }

    /// Returns the attachment to ask the plugins for.
    ///
    /// Addresses go the way the network's plugins declare; those that declare none may still read the
    /// older `args.cni`.
    pub(super) fn attachment(&self, job: &Job<'_>) -> Attachment {
        let (container, request) = (&job.asked.container, job.asked.request);
        let mut attachment =
            Attachment::new(container.id.clone(), Some(container.path.clone()), self.ifname.clone());
        let list = &job.stored.list;
        let mut older = Map::new();
        let mut ask = |capability: &str, value: Value| match declares(list, capability) {
            true => attachment.capability_args.insert(capability.into(), value),
            false => older.insert(capability.into(), value),
        };
        if !self.addresses.is_empty() {
            ask("ips", json!(self.addresses));
        }
        if let Some(mac) = request.mac {
            ask("mac", json!(mac));
        }
        if !job.ports.is_empty() {
            ask(ports::CAPABILITY, json!(job.ports));
        }
        if declares(list, "aliases") && !request.aliases.is_empty() {
            ask("aliases", json!(request.aliases));
        }
        if !older.is_empty() {
            attachment.conf_args.insert("cni".into(), Value::Object(older));
        }
        attachment.conf_args.insert("weft".into(), self.attach.clone());
        attachment
    }
}

/// Refuses addresses that no subnet of the network has, or has twice.
fn check_addresses(network: &Network, addresses: &[IpAddr]) -> Result<(), Error> {
    let outside = |ip: &&IpAddr| !network.subnets().any(|subnet| subnet.contains(**ip));
    match addresses.iter().find(outside) {
        Some(ip) => Err(Error::OutsideSubnets(*ip)),
        None => Ok(()),
    }
}

/// Returns the name given, unless the container has such an interface from us.
fn free(ifname: &IfName, job: &Job<'_>) -> Result<IfName, Error> {
    match job.others.iter().find(|other| other.endpoint.ifname == *ifname) {
        None => Ok(ifname.clone()),
        Some(other) => Err(Error::InterfaceTaken {
            ifname: ifname.to_string(),
            container: job.asked.container.id.clone(),
            network: other.endpoint.network.clone(),
        }),
    }
}

/// Returns the first `eth` the container does not have from us.
fn next(job: &Job<'_>) -> IfName {
    let taken = |ifname: &IfName| job.others.iter().any(|other| other.endpoint.ifname == *ifname);
    let mut names = (0_u32..).filter_map(|nth| format!("eth{nth}").parse::<IfName>().ok());
    names.find(|ifname| !taken(ifname)).unwrap_or_else(IfName::loopback)
}
