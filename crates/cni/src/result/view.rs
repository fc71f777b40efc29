//! Printing results in every version.
//!
//! Go prints a struct in the order of its fields and a map in the order of its keys. Results of 0.x are structs,
//! those of 1.x go through a map on their way out, so the order of the fields below is the wire format.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::{Dns, Interface, IpConfig, NetworkResult, Route};
use crate::{Code, Failure, Version};

/// A result as one version has it.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum View<'a> {
    Sorted(Sorted<'a>),
    Ordered(Ordered<'a>),
    Paired(Paired<'a>),
}

impl<'a> View<'a> {
    pub(super) fn new(result: &'a NetworkResult, version: Version) -> Result<Self, Failure> {
        Ok(match version {
            Version::V0_1_0 | Version::V0_2_0 => Self::Paired(Paired::new(result, version)?),
            Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => {
                Self::Ordered(Ordered::new(result, version))
            }
            Version::V1_0_0 | Version::V1_1_0 => Self::Sorted(Sorted::new(result, version)),
        })
    }
}

fn some<T: AsRef<str>>(text: &Option<T>) -> Option<&str> {
    text.as_ref().map(AsRef::as_ref).filter(|text| !text.is_empty())
}

fn list(texts: &Option<Vec<String>>) -> &[String] {
    texts.as_deref().unwrap_or_default()
}

fn positive(number: Option<u32>) -> Option<u32> {
    number.filter(|number| *number != 0)
}

/// 1.0.0 and 1.1.0: every level in alphabetical order.
#[derive(Serialize)]
pub(super) struct Sorted<'a> {
    #[serde(rename = "cniVersion")]
    version: Version,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<SortedDns<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<SortedInterface<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<SortedIp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<SortedRoute>,
}

#[derive(Serialize)]
struct SortedDns<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    nameservers: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    options: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    search: &'a [String],
}

#[derive(Serialize)]
struct SortedInterface<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    name: &'a str,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pci_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
    #[serde(rename = "socketPath", skip_serializing_if = "Option::is_none")]
    socket_path: Option<&'a str>,
}

#[derive(Serialize)]
struct SortedIp {
    address: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
}

#[derive(Serialize)]
struct SortedRoute {
    #[serde(skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    dst: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
}

impl<'a> Sorted<'a> {
    fn new(result: &'a NetworkResult, version: Version) -> Self {
        let dns = &result.dns;
        let dns = (!dns.is_empty()).then(|| SortedDns {
            domain: some(&dns.domain),
            nameservers: list(&dns.nameservers),
            options: list(&dns.options),
            search: list(&dns.search),
        });
        let interfaces = result.interfaces.iter().map(|interface| SortedInterface {
            mac: some(&interface.mac),
            mtu: positive(interface.mtu),
            name: &interface.name,
            pci_id: some(&interface.pci_id),
            sandbox: some(&interface.sandbox),
            socket_path: some(&interface.socket_path),
        });
        let ips = result.ips.iter().map(|ip| SortedIp {
            address: ip.address,
            gateway: ip.gateway,
            interface: ip.interface,
        });
        let routes = result.routes.iter().map(|route| SortedRoute {
            advmss: positive(route.advmss),
            dst: route.dst,
            gw: route.gw,
            mtu: positive(route.mtu),
            priority: positive(route.priority),
            scope: route.scope,
            table: route.table,
        });
        Self { version, dns, interfaces: interfaces.collect(), ips: ips.collect(), routes: routes.collect() }
    }
}

/// 0.3.0 to 0.4.0.
#[derive(Serialize)]
pub(super) struct Ordered<'a> {
    #[serde(rename = "cniVersion")]
    version: Version,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<OrderedInterface<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<OrderedIp>,
    // The fields 1.1.0 brought are printed in 0.3.0 as well: the reference implementation has one type for all.
    #[serde(skip_serializing_if = "<[Route]>::is_empty")]
    routes: &'a [Route],
    // 0.x prints this object even when there is nothing in it.
    dns: &'a Dns,
}

#[derive(Serialize)]
struct OrderedInterface<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
}

#[derive(Serialize)]
struct OrderedIp {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

impl<'a> OrderedInterface<'a> {
    fn new(interface: &'a Interface) -> Self {
        Self { name: &interface.name, mac: some(&interface.mac), sandbox: some(&interface.sandbox) }
    }
}

impl OrderedIp {
    fn new(ip: &IpConfig) -> Self {
        let version = if ip.address.is_ipv4() { "4" } else { "6" };
        Self { version, interface: ip.interface, address: ip.address, gateway: ip.gateway }
    }
}

impl<'a> Ordered<'a> {
    fn new(result: &'a NetworkResult, version: Version) -> Self {
        Self {
            version,
            interfaces: result.interfaces.iter().map(OrderedInterface::new).collect(),
            ips: result.ips.iter().map(OrderedIp::new).collect(),
            routes: &result.routes,
            dns: &result.dns,
        }
    }
}

/// 0.1.0 and 0.2.0: one address of each family.
#[derive(Serialize)]
pub(super) struct Paired<'a> {
    #[serde(rename = "cniVersion")]
    version: Version,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<Block>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Block>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct Block {
    ip: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Hop>,
}

#[derive(Serialize)]
struct Hop {
    dst: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
}

impl Block {
    /// Takes the family's first address and all its routes.
    fn new(result: &NetworkResult, v4: bool) -> Option<Self> {
        let ip = result.ips.iter().find(|ip| ip.address.is_ipv4() == v4)?;
        let routes = result.routes.iter().filter(|route| route.dst.is_ipv4() == v4);
        let routes = routes.map(|route| Hop { dst: route.dst, gw: route.gw }).collect();
        Some(Self { ip: ip.address, gateway: ip.gateway, routes })
    }
}

impl<'a> Paired<'a> {
    fn new(result: &'a NetworkResult, version: Version) -> Result<Self, Failure> {
        let (ip4, ip6) = (Block::new(result, true), Block::new(result, false));
        if ip4.is_none() && ip6.is_none() {
            return Err(Failure::text(Code::Internal, "cannot convert: no valid IP addresses"));
        }
        Ok(Self { version, ip4, ip6, dns: &result.dns })
    }
}
