//! A network as the manager knows it, and its file.

use std::collections::BTreeMap;
use std::path::Path;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weft_cni::json::get;
use weft_cni::{ComposedSubnet, Conflist, Dns, Version, address};
use weft_model::{NetworkId, NetworkName};
use weft_state::document::SCHEMA;

use crate::Error;

/// The time of what was never created.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// A network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// What we keep about it.
    pub about: About,
}

/// What the manager keeps about a network, under the key `weft` of its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The form of this object.
    pub schema: u64,
    /// The network's id.
    pub id: NetworkId,
    /// When it was created, in RFC 3339.
    pub created: String,
    /// The driver that made its plugins.
    pub driver: String,
    /// Whether it is cut off from the outside.
    #[serde(default)]
    pub internal: bool,
    /// Whether it is a network of all hosts of a cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clustered: bool,
    /// The user's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The driver's options as the user gave them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Its subnets.
    #[serde(default)]
    pub ipam: Ipam,
    /// The name service of its containers.
    #[serde(default)]
    pub dns: Dns,
}

/// A network's addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ipam {
    /// The subnets, in the order they were asked for.
    #[serde(default)]
    pub subnets: Vec<ComposedSubnet>,
}

impl Network {
    /// Returns the network a conflist describes.
    ///
    /// A conflist that somebody else wrote has no `weft` key: its id comes from its name then, and its
    /// subnets from its IPAM configuration.
    ///
    /// # Errors
    ///
    /// When the `weft` key is there and is not what we write.
    pub fn of(list: &Conflist, path: &Path) -> Result<Self, Error> {
        let damaged = |why: String| Error::Damaged { path: path.into(), why };
        let about = match get(&list.raw, "weft") {
            None => foreign(list, path),
            Some(written) => weft_cni::json::from_value::<About>(written)
                .map_err(|error| damaged(error.under("weft").to_string()))?,
        };
        if about.schema > SCHEMA {
            return Err(damaged(format!("weft.schema {} is newer than this weft", about.schema)));
        }
        Ok(Self { name: list.name.clone(), about })
    }

    /// Returns the network's file.
    pub fn file(&self, plugins: &[Value]) -> String {
        let list = json!({
            "cniVersion": Version::V1_1_0.as_str(),
            "name": self.name,
            "plugins": plugins,
            "weft": self.about,
        });
        weft_cni::json::pretty(&list) + "\n"
    }

    /// Returns how far the network reaches, in docker's words.
    pub fn scope(&self) -> &'static str {
        if self.about.clustered { "global" } else { "local" }
    }

    /// Returns the subnets.
    pub fn subnets(&self) -> impl Iterator<Item = IpNetwork> {
        self.about.ipam.subnets.iter().map(|subnet| subnet.subnet)
    }

    /// Returns whether containers get addresses of a family.
    pub fn has_family(&self, v4: bool) -> bool {
        // DOCKER: host and none are IPv4 networks without a subnet.
        self.subnets().any(|subnet| subnet.is_ipv4() == v4) || (v4 && self.about.ipam.subnets.is_empty())
    }
}

/// Returns what can be known about a conflist that somebody else wrote.
fn foreign(list: &Conflist, path: &Path) -> About {
    let driver = list.plugins.first().and_then(|plugin| get(plugin, "type")?.as_str());
    let created = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    About {
        schema: SCHEMA,
        id: derived_id(&["conflist", list.name.as_str()]),
        created: created.map_or_else(|| NEVER.into(), crate::filter::time::rfc3339),
        driver: driver.unwrap_or_default().into(),
        internal: false,
        clustered: false,
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
        ipam: Ipam { subnets: list.plugins.first().map(ranges).unwrap_or_default() },
        dns: Dns::default(),
    }
}

/// Returns the subnets of host-local's configuration, in both of its forms.
fn ranges(plugin: &Value) -> Vec<ComposedSubnet> {
    let Some(ipam) = get(plugin, "ipam") else { return Vec::new() };
    let sets = get(ipam, "ranges").and_then(Value::as_array).into_iter().flatten();
    let ranges = sets.filter_map(Value::as_array).flatten();
    std::iter::once(ipam).chain(ranges).filter_map(range).collect()
}

fn range(range: &Value) -> Option<ComposedSubnet> {
    let text = |key: &str| get(range, key).and_then(Value::as_str);
    let subnet = crate::pools::first(&address::parse_cidr(text("subnet")?).ok()?);
    let first = || crate::pools::address(crate::pools::bounds(&subnet).0 + 1, subnet.is_ipv4());
    let gateway = text("gateway").and_then(|text| address::parse_ip(text).ok()).unwrap_or_else(first);
    Some(ComposedSubnet { subnet, gateway, range: None, aux: BTreeMap::new() })
}

/// Returns the id that is always the same for the same parts.
pub(crate) fn derived_id(parts: &[&str]) -> NetworkId {
    NetworkId::new(hash(parts))
}

/// Returns a digest of the parts and the borders between them.
pub(crate) fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_survives_its_file() {
        let subnet = ComposedSubnet {
            subnet: "10.1.0.0/16".parse().unwrap(),
            gateway: "10.1.0.1".parse().unwrap(),
            range: Some("10.1.2.0/24".parse().unwrap()),
            aux: [("router".to_string(), "10.1.0.5".parse().unwrap())].into(),
        };
        let about = About {
            schema: SCHEMA,
            id: derived_id(&["x"]),
            created: "2026-01-02T03:04:05Z".into(),
            driver: "bridge".into(),
            internal: true,
            clustered: false,
            labels: [("k".to_string(), "v".to_string())].into(),
            options: [("mtu".to_string(), "1400".to_string())].into(),
            ipam: Ipam { subnets: vec![subnet] },
            dns: Dns { nameservers: Some(vec!["10.1.0.9".into()]), ..Dns::default() },
        };
        let network = Network { name: "n1".parse().unwrap(), about };
        let list = Conflist::parse(network.file(&[json!({"type": "bridge"})]).as_bytes()).unwrap();
        assert_eq!(list.version, Version::V1_1_0);
        assert_eq!(Network::of(&list, Path::new("/nonexistent")).unwrap(), network);
    }

    #[test]
    fn other_peoples_conflists_are_networks_too() {
        let text = r#"{"cniVersion":"1.0.0","name":"podman","plugins":[{"type":"bridge","ipam":
            {"type":"host-local","ranges":[[{"subnet":"10.88.0.0/16"}],[{"subnet":"fd01::/64","gateway":"fd01::9"}]]}}]}"#;
        let network =
            Network::of(&Conflist::parse(text.as_bytes()).unwrap(), Path::new("/nonexistent")).unwrap();
        assert_eq!(network.about.driver, "bridge");
        assert_eq!(network.about.created, NEVER);
        let shown: Vec<String> = network
            .about
            .ipam
            .subnets
            .iter()
            .map(|subnet| format!("{} {}", subnet.subnet, subnet.gateway))
            .collect();
        assert_eq!(shown, ["10.88.0.0/16 10.88.0.1", "fd01::/64 fd01::9"]);
    }

    #[test]
    fn a_damaged_key_is_named() {
        let text = r#"{"cniVersion":"1.1.0","name":"n1","plugins":[{"type":"bridge"}],"weft":{"schema":1,"id":"abc"}}"#;
        let list = Conflist::parse(text.as_bytes()).unwrap();
        let error = Network::of(&list, Path::new("/x/n1.conflist")).unwrap_err().to_string();
        assert!(error.starts_with("/x/n1.conflist: weft.id: "), "{error}");
    }
}
