//! `weft network inspect`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use weft_cni::json::get;
use weft_model::Endpoint;
use weft_state::attachment::Record;

use crate::attachments::name_of;
use crate::filter::shown_driver;
use crate::network::{Network, hash};
use crate::overlay::protocol::BlockUsage;
use crate::{Error, Manager, Port};

/// A network in docker's words.
///
/// DOCKER: the keys and their order are those of `docker network inspect`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    containers: BTreeMap<String, Container>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    /// Who has which part of the subnets, where hosts share them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    blocks: Vec<Block>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Block {
    block: String,
    state: String,
    host: String,
    #[serde(rename = "HostID")]
    host_id: String,
    /// Unknown of hosts that have not told yet.
    used: Option<u64>,
    size: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: &'static str,
    options: BTreeMap<String, String>,
    config: Vec<IpamConfig>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamConfig {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary_addresses: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFrom {
    network: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Container {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    #[serde(rename = "MacAddress")]
    mac: String,
    #[serde(rename = "IPv4Address")]
    v4: String,
    #[serde(rename = "IPv6Address")]
    v6: String,
    /// DOCKER: as in a container's `NetworkSettings`, but that a range is one entry.
    #[serde(rename = "Ports", skip_serializing_if = "BTreeMap::is_empty")]
    ports: BTreeMap<String, Vec<PortBinding>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct PortBinding {
    #[serde(rename = "HostIp")]
    host: String,
    #[serde(rename = "HostPort")]
    port: String,
    #[serde(rename = "From", skip_serializing_if = "Vec::is_empty")]
    from: Vec<String>,
}

/// What every attachment publishes.
type Ports = BTreeMap<Endpoint, Vec<Port>>;

impl Manager {
    /// Returns everything about a network.
    ///
    /// # Errors
    ///
    /// When there is no such network, its file is damaged or its containers' records must not be read.
    pub fn inspect(&self, reference: &str) -> Result<Inspected, Error> {
        let name = self.store.find(reference)?;
        let network = match self.store.load(&name)? {
            Some(stored) => stored.network,
            None => self.imagined(&name),
        };
        let mut records = self.records.list()?;
        records.retain(|record| record.endpoint.network == name);
        let blocks = self.blocks(&network).into_iter().map(Block::of).collect();
        Ok(Inspected { blocks, ..Inspected::of(&network, &records, &self.ports_by_endpoint()?) })
    }
}

impl Inspected {
    fn of(network: &Network, records: &[Record], ports: &Ports) -> Self {
        let about = &network.about;
        let container = |record: &Record| {
            let id = record.endpoint.container.to_string();
            let ports = ports.get(&record.endpoint).map(Vec::as_slice).unwrap_or_default();
            (id, Container::of(network, record, ports))
        };
        Self {
            name: network.name.to_string(),
            id: about.id.to_string(),
            created: about.created.clone(),
            scope: network.scope(),
            driver: shown_driver(&about.driver).into(),
            enable_ipv4: network.has_family(true),
            enable_ipv6: network.has_family(false),
            ipam: Ipam {
                driver: if about.ipam.subnets.is_empty() { "null" } else { "default" },
                options: BTreeMap::new(),
                config: about.ipam.subnets.iter().map(IpamConfig::of).collect(),
            },
            internal: about.internal,
            attachable: false,
            ingress: false,
            config_from: ConfigFrom { network: "" },
            config_only: false,
            containers: records.iter().map(container).collect(),
            options: about.options.clone(),
            labels: about.labels.clone(),
            blocks: Vec::new(),
        }
    }
}

impl Block {
    fn of(usage: BlockUsage) -> Self {
        Self {
            block: usage.block.to_string(),
            state: usage.state,
            host: usage.host_name,
            host_id: usage.host,
            used: usage.used,
            size: usage.size,
        }
    }
}

impl IpamConfig {
    fn of(subnet: &weft_cni::ComposedSubnet) -> Self {
        Self {
            subnet: subnet.subnet.to_string(),
            ip_range: subnet.range.map(|range| range.to_string()).unwrap_or_default(),
            gateway: subnet.gateway.to_string(),
            auxiliary_addresses: subnet.aux.iter().map(|(name, ip)| (name.clone(), ip.to_string())).collect(),
        }
    }
}

impl Container {
    fn of(network: &Network, record: &Record, ports: &[Port]) -> Self {
        let address = |v4: bool| {
            let first = record.addresses.iter().find(|address| address.is_ipv4() == v4);
            first.map(ToString::to_string).unwrap_or_default()
        };
        Self {
            name: name_of(record).into(),
            endpoint_id: endpoint_id(network, &record.endpoint),
            mac: mac_of(record).unwrap_or_default().into(),
            v4: address(true),
            v6: address(false),
            ports: bindings(ports),
        }
    }
}

/// Returns published ports under the container's ports they lead to.
fn bindings(ports: &[Port]) -> BTreeMap<String, Vec<PortBinding>> {
    let mut bindings: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
    for port in ports {
        let one = &port.publication;
        let (host, ports) = (one.host.to_string(), one.host_ports.to_string());
        let binding = PortBinding {
            host: if port.translated { host } else { String::new() },
            port: if port.translated { ports } else { String::new() },
            from: one.from.iter().map(ToString::to_string).collect(),
        };
        bindings.entry(format!("{}/{}", one.target_ports, one.protocol)).or_default().push(binding);
    }
    bindings
}

/// Returns the MAC address of the container's end, as the plugins reported it.
pub(crate) fn mac_of(record: &Record) -> Option<&str> {
    let interfaces = get(record.result.as_ref()?, "interfaces")?.as_array()?;
    let inside = |interface: &&Value| {
        let text = |key: &str| get(interface, key).and_then(Value::as_str).unwrap_or_default();
        text("name") == record.endpoint.ifname.as_str() && !text("sandbox").is_empty()
    };
    get(interfaces.iter().find(inside)?, "mac")?.as_str()
}

fn endpoint_id(network: &Network, endpoint: &Endpoint) -> String {
    let id = network.about.id.to_string();
    let digest = hash(&["endpoint", &id, endpoint.container.as_str(), endpoint.ifname.as_str()]);
    hex::encode(digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_cni::ComposedSubnet;

    use super::*;
    use crate::predefined;

    #[test]
    fn the_keys_are_dockers() {
        let mut network = predefined::network(&"bridge".parse().unwrap());
        network.about.ipam.subnets = vec![ComposedSubnet {
            subnet: "172.17.0.0/16".parse().unwrap(),
            gateway: "172.17.0.1".parse().unwrap(),
            range: None,
            aux: BTreeMap::new(),
        }];
        let endpoint = Endpoint {
            network: network.name.clone(),
            container: "red".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut record = Record::intent(endpoint, None, "bridge").unwrap();
        record.addresses = vec!["172.17.0.2/16".parse().unwrap()];
        record.attach = json!({"name": "web"});
        record.result = Some(json!({"interfaces": [
            {"name": "weft0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/red"},
        ]}));
        let publication = weft_model::port::Publication {
            protocol: weft_model::port::Protocol::Tcp,
            host: [0; 4].into(),
            host_ports: "8080".parse().unwrap(),
            target: [172, 17, 0, 2].into(),
            target_ports: "80".parse().unwrap(),
            from: vec!["192.0.2.0/24".parse().unwrap()],
        };
        let ports = [(record.endpoint.clone(), vec![Port { publication, translated: true }])].into();
        let mut shown = serde_json::to_value(Inspected::of(&network, &[record], &ports)).unwrap();
        let id = shown["Containers"]["red"]["EndpointID"].take();
        assert_eq!(id.as_str().unwrap().len(), 64);
        shown["Id"] = json!("id");
        assert_eq!(
            shown,
            json!({
                "Name": "bridge", "Id": "id", "Created": "0001-01-01T00:00:00Z", "Scope": "local", "Driver": "bridge",
                "EnableIPv4": true, "EnableIPv6": false,
                "IPAM": {"Driver": "default", "Options": {},
                         "Config": [{"Subnet": "172.17.0.0/16", "IPRange": "", "Gateway": "172.17.0.1"}]},
                "Internal": false, "Attachable": false, "Ingress": false,
                "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
                "Containers": {"red": {"Name": "web", "EndpointID": null, "MacAddress": "02:00:00:00:00:02",
                                       "IPv4Address": "172.17.0.2/16", "IPv6Address": "",
                                       "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080",
                                                             "From": ["192.0.2.0/24"]}]}}},
                "Options": {"com.docker.network.bridge.name": "weft0"}, "Labels": {},
            })
        );
    }
}
