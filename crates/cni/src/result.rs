//! What a plugin says it made.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Failure, Version, address, json};

mod read;
mod view;

pub(crate) use read::require_class;

/// The outcome of an ADD, independent of any spec version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkResult {
    /// The interfaces made, in the container and outside.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes.
    pub routes: Vec<Route>,
    /// The name service.
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// The hardware address.
    #[serde(deserialize_with = "read::text", skip_serializing_if = "blank")]
    pub mac: Option<String>,
    /// The MTU in bytes.
    #[serde(deserialize_with = "read::number", skip_serializing_if = "zero")]
    pub mtu: Option<u32>,
    /// The namespace the interface is in; none for the host's.
    #[serde(deserialize_with = "read::text", skip_serializing_if = "blank")]
    pub sandbox: Option<String>,
    /// The socket of a userspace interface.
    #[serde(rename = "socketPath", deserialize_with = "read::text", skip_serializing_if = "blank")]
    pub socket_path: Option<String>,
    /// The PCI address of a device.
    #[serde(rename = "pciID", deserialize_with = "read::text", skip_serializing_if = "blank")]
    pub pci_id: Option<String>,
}

/// An address of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with its subnet's prefix length.
    #[serde(deserialize_with = "address::deserialize_cidr")]
    pub address: IpNetwork,
    /// The subnet's gateway.
    #[serde(
        default,
        deserialize_with = "address::deserialize_optional_ip",
        skip_serializing_if = "Option::is_none"
    )]
    pub gateway: Option<IpAddr>,
    /// The position in the result's interfaces of the one with the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route of a result or of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    #[serde(deserialize_with = "address::deserialize_cidr")]
    pub dst: IpNetwork,
    /// The next hop; none means the gateway of the route's family.
    #[serde(
        default,
        deserialize_with = "address::deserialize_optional_ip",
        skip_serializing_if = "Option::is_none"
    )]
    pub gw: Option<IpAddr>,
    /// The largest packet on the way, in bytes.
    #[serde(default, deserialize_with = "read::number", skip_serializing_if = "zero")]
    pub mtu: Option<u32>,
    /// The largest TCP segment announced, in bytes.
    #[serde(default, deserialize_with = "read::number", skip_serializing_if = "zero")]
    pub advmss: Option<u32>,
    /// The metric: lower wins.
    #[serde(default, deserialize_with = "read::number", skip_serializing_if = "zero")]
    pub priority: Option<u32>,
    /// The routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The scope, as the kernel numbers them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// Returns a route with nothing but a destination and perhaps a next hop.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Name service settings of a result or of a configuration.
///
/// A list that is there and empty is not the same as none: `"nameservers": []` in a configuration means that
/// whatever IPAM says is not wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// The servers, most preferred first.
    #[serde(skip_serializing_if = "nothing")]
    pub nameservers: Option<Vec<String>>,
    /// The local domain.
    #[serde(deserialize_with = "read::text", skip_serializing_if = "blank")]
    pub domain: Option<String>,
    /// The domains tried for short names.
    #[serde(skip_serializing_if = "nothing")]
    pub search: Option<Vec<String>>,
    /// The resolver's options.
    #[serde(skip_serializing_if = "nothing")]
    pub options: Option<Vec<String>>,
}

/// Go leaves out what is empty or zero, so it means the same as nothing.
fn nothing(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn blank(text: &Option<String>) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

fn zero(number: &Option<u32>) -> bool {
    number.is_none_or(|number| number == 0)
}

impl Dns {
    /// Returns whether anything was written, be it an empty list.
    pub fn is_set(&self) -> bool {
        self.nameservers.is_some() || !blank(&self.domain) || self.search.is_some() || self.options.is_some()
    }

    /// Returns whether there is nothing to print.
    pub fn is_empty(&self) -> bool {
        blank(&self.domain) && [&self.nameservers, &self.search, &self.options].into_iter().all(nothing)
    }
}

impl NetworkResult {
    /// Reads a result in the version it says it has, or else in the configuration's. Null is an empty result.
    ///
    /// # Errors
    ///
    /// Code 1 when the result's version is none we know, code 6 when it is malformed.
    pub fn from_value(value: &Value, config: Version) -> Result<Self, Failure> {
        read::result(value, config)
    }

    /// Prints the result as `version` has it, without a newline at the end.
    ///
    /// # Errors
    ///
    /// Code 999 when `version` is 0.1.0 or 0.2.0 and there is no address: their results are made of addresses.
    pub fn to_json(&self, version: Version) -> Result<String, Failure> {
        Ok(json::pretty(&view::View::new(self, version)?))
    }

    /// Returns what is written where the result goes, as `version` has it.
    ///
    /// # Errors
    ///
    /// As [`NetworkResult::to_json`].
    pub fn shown(&self, version: Version) -> Result<impl Serialize, Failure> {
        view::View::new(self, version)
    }

    /// Returns the result as `version` has it.
    ///
    /// # Errors
    ///
    /// As [`NetworkResult::to_json`].
    pub fn to_value(&self, version: Version) -> Result<Value, Failure> {
        let view = view::View::new(self, version)?;
        serde_json::to_value(view).map_err(|error| Failure::new(crate::Code::Internal, error))
    }
}

#[cfg(test)]
mod tests;
