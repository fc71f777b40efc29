//! What the manager asks a driver for: a network as people describe it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_model::{NetworkId, NetworkName};

use crate::Dns;

/// A network to be written as a list of plugin configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeRequest {
    /// The network's name.
    pub name: NetworkName,
    /// The network's id.
    pub id: NetworkId,
    /// Whether the network is cut off from the outside.
    #[serde(default)]
    pub internal: bool,
    /// The subnets, each with its gateway.
    #[serde(default)]
    pub subnets: Vec<ComposedSubnet>,
    /// The name service of the containers.
    #[serde(default)]
    pub dns: Dns,
    /// The driver's options under the names its description gives them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposedSubnet {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The subnet's gateway.
    pub gateway: IpAddr,
    /// The part of the subnet that addresses are allocated from, when not all of it.
    #[serde(default)]
    pub range: Option<IpNetwork>,
    /// Addresses that are never allocated, by name.
    #[serde(default)]
    pub aux: BTreeMap<String, IpAddr>,
}
