//! Reading results of every version.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Dns, Interface, IpConfig, NetworkResult, Route};
use crate::{Code, Failure, Version, address, json};

/// Go prints no empty strings where it means none; reading one as none keeps the two the same.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// Like [`text`] for numbers whose zero means none.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.filter(|number| *number != 0))
}

/// A result since 0.3.0. The address family 0.x writes beside each address says nothing the address does not.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Listed {
    interfaces: Vec<Interface>,
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

/// A result of 0.1.0 or 0.2.0.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Paired {
    ip4: Option<Block>,
    ip6: Option<Block>,
    dns: Dns,
}

#[derive(Deserialize)]
struct Block {
    #[serde(deserialize_with = "address::deserialize_cidr")]
    ip: IpNetwork,
    #[serde(default, deserialize_with = "address::deserialize_optional_ip")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

pub(super) fn result(value: &Value, config: Version) -> Result<NetworkResult, Failure> {
    if value.is_null() {
        return Ok(NetworkResult::default());
    }
    let version = version(value, config)?;
    let decode = |error| Failure::new(Code::Decode, error);
    if version <= Version::V0_2_0 {
        json::from_value::<Paired>(value).map(NetworkResult::from).map_err(decode)
    } else {
        json::from_value::<Listed>(value).map(NetworkResult::from).map_err(decode)
    }
}

/// Returns the version the result says it has, or `config` when it says nothing.
fn version(value: &Value, config: Version) -> Result<Version, Failure> {
    match json::get(value, "cniVersion") {
        None => Ok(config),
        Some(Value::String(text)) if text.is_empty() => Ok(config),
        Some(Value::String(text)) => text.parse().map_err(|_| {
            Failure::text(Code::IncompatibleVersion, format!("unsupported CNI result version {text:?}"))
        }),
        Some(_) => Err(Failure::text(Code::Decode, "cniVersion: a string is expected")),
    }
}

/// Refuses a result whose version has another shape than `config`'s.
pub(crate) fn require_class(value: &Value, config: Version) -> Result<(), Failure> {
    let version = version(value, config)?;
    if version.same_result().contains(&config) {
        return Ok(());
    }
    let class: Vec<&str> = config.same_result().iter().map(|version| version.as_str()).collect();
    let class = class.join(" ");
    let msg = format!("result type supports [{class}] but unmarshalled CNIVersion is \"{version}\"");
    Err(Failure::text(Code::Internal, msg))
}

impl From<Listed> for NetworkResult {
    fn from(listed: Listed) -> Self {
        let Listed { interfaces, ips, routes, dns } = listed;
        Self { interfaces, ips, routes, dns }
    }
}

impl From<Paired> for NetworkResult {
    fn from(paired: Paired) -> Self {
        let mut result = Self { dns: paired.dns, ..Self::default() };
        for block in [paired.ip4, paired.ip6].into_iter().flatten() {
            result.ips.push(IpConfig { address: block.ip, gateway: block.gateway, interface: None });
            result.routes.extend(block.routes);
        }
        result
    }
}
