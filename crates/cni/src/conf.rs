//! The network configuration a plugin reads from stdin.

use std::borrow::Cow;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;
use weft_model::{IdError, NetworkName};

use crate::version::Written;
use crate::{Code, Dns, Failure, NetworkResult, Verb, Version, json, result};

/// One plugin's configuration: the keys every plugin has, and the document for its own.
#[derive(Clone, Debug, PartialEq)]
pub struct NetConf {
    /// The spec version to speak.
    pub version: Version,
    /// The network's name.
    pub name: NetworkName,
    /// The plugin's name: the key `type`.
    pub kind: String,
    /// The delegate for addresses.
    pub ipam: Option<Value>,
    /// The name service, as written.
    pub dns: Dns,
    /// What the plugins before this one made; on CHECK and DEL, what all of them made.
    pub prev_result: Option<Value>,
    /// What the runtime says about this attachment; null when there is nothing.
    pub runtime_config: Value,
    /// What others say about this attachment; null when there is nothing.
    pub args: Value,
    /// On GC, the attachments to keep. `None` when the key is absent, which means nobody said.
    pub valid_attachments: Option<Vec<AttachmentId>>,
    /// The whole document.
    pub raw: Value,
}

/// An attachment as GC names it.
///
/// Both parts are plain text: an id that we would refuse may still be somebody's, and must not be collected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct AttachmentId {
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name inside the container.
    pub ifname: String,
}

/// The keys every plugin has, as written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ipam: Option<Value>,
    dns: Dns,
    prev_result: Option<Value>,
    runtime_config: Value,
    args: Value,
}

impl NetConf {
    /// Reads a configuration of any version we know.
    ///
    /// # Errors
    ///
    /// Code 6 when `bytes` is no configuration, 7 when the network has no or a bad name, 1 when the version is unknown.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        Self::parse_for(bytes, Verb::Add, &Version::ALL)
    }

    /// Reads a configuration for `verb` on a plugin of `supported` versions.
    ///
    /// # Errors
    ///
    /// As [`NetConf::parse`], and code 1 when the plugin or the verb does not go with the configuration's version.
    pub fn parse_for(bytes: &[u8], verb: Verb, supported: &[Version]) -> Result<Self, Failure> {
        // The spelling is upstream's; callers match it.
        let decode = |error| Failure::new(Code::Decode, error).while_doing("error unmarshall network config");
        let raw = json::parse(bytes).map_err(decode)?;
        let keys: Keys = json::from_value(&raw).map_err(decode)?;
        let name = network_name(&keys.name)?;
        let written = Written::of(&raw)?;
        written.allows(verb, supported)?;
        Ok(Self {
            version: written.negotiate(supported)?,
            name,
            kind: keys.kind,
            ipam: keys.ipam.map(check_ipam).transpose()?,
            dns: keys.dns,
            prev_result: keys.prev_result,
            runtime_config: keys.runtime_config,
            args: keys.args,
            valid_attachments: valid_attachments(&raw).map_err(decode)?,
            raw,
        })
    }

    /// Reads the version out of a document that may be bad otherwise: for the error that says so.
    pub fn version_of(bytes: &[u8]) -> Option<Version> {
        Written::of(&json::parse(bytes).ok()?).ok()?.negotiate(&Version::ALL).ok()
    }

    /// Returns the name of the delegate for addresses. `None` when there is no `ipam` object or no `type` in it.
    pub fn ipam_type(&self) -> Option<&str> {
        let kind = json::get(self.ipam.as_ref()?, "type")?.as_str()?;
        (!kind.is_empty()).then_some(kind)
    }

    /// Returns what the plugins before this one made.
    ///
    /// # Errors
    ///
    /// Code 999 when it is of another class of versions than the configuration, and those of
    /// [`NetworkResult::from_value`].
    pub fn prev_result(&self) -> Result<Option<NetworkResult>, Failure> {
        let Some(value) = &self.prev_result else { return Ok(None) };
        let read = || {
            result::require_class(value, self.version)?;
            NetworkResult::from_value(value, self.version).map(Some)
        };
        read().map_err(|failure| failure.while_doing("could not parse prevResult"))
    }

    /// Returns what the plugins before this one made, for verbs that cannot do without.
    ///
    /// # Errors
    ///
    /// Code 7 when there is none, and those of [`NetConf::prev_result`].
    pub fn required_prev_result(&self) -> Result<NetworkResult, Failure> {
        let missing = || Failure::text(Code::InvalidConfig, "Required prevResult missing");
        self.prev_result()?.ok_or_else(missing)
    }

    /// Reads a plugin's own keys.
    ///
    /// # Errors
    ///
    /// Code 7 with the path to the bad key.
    pub fn conf<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        json::from_value(&self.raw).map_err(invalid)
    }

    /// Reads the `ipam` object: an address plugin's own keys.
    ///
    /// # Errors
    ///
    /// Code 7 when there is none, and with the path to the bad key.
    pub fn ipam<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        let missing = || Failure::text(Code::InvalidConfig, "IPAM config missing 'ipam' key");
        let ipam = self.ipam.as_ref().ok_or_else(missing)?;
        json::from_value(ipam).map_err(|error| invalid(error.under("ipam")))
    }

    /// Reads `runtimeConfig.<capability>`.
    ///
    /// # Errors
    ///
    /// Code 7 with the path to the bad key.
    pub fn capability<'a, T: Deserialize<'a>>(&'a self, capability: &str) -> Result<Option<T>, Failure> {
        let value = json::get(&self.runtime_config, capability);
        let under = |error: json::JsonError| invalid(error.under(capability).under("runtimeConfig"));
        value.map(json::from_value).transpose().map_err(under)
    }

    /// Reads `args.cni.<key>`.
    ///
    /// # Errors
    ///
    /// Code 7 with the path to the bad key.
    pub fn cni_arg<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<Option<T>, Failure> {
        let value = json::get(&self.args, "cni").and_then(|cni| json::get(cni, key));
        let under = |error: json::JsonError| invalid(error.under(key).under("cni").under("args"));
        value.map(json::from_value).transpose().map_err(under)
    }

    /// Returns the attachments GC keeps.
    ///
    /// # Errors
    ///
    /// Code 7 when nobody said which: that must never be taken for "none of them".
    pub fn required_valid_attachments(&self) -> Result<&[AttachmentId], Failure> {
        let missing = "cni.dev/valid-attachments is missing, so nothing can be collected";
        let missing = || Failure::text(Code::InvalidConfig, missing);
        self.valid_attachments.as_deref().ok_or_else(missing)
    }

    /// Refuses several addresses of a family in versions whose results have room for one.
    ///
    /// # Errors
    ///
    /// Code 7 when there are.
    pub fn allows_addresses(&self, addresses: impl IntoIterator<Item = IpNetwork>) -> Result<(), Failure> {
        let mut seen = [0_usize; 2];
        for address in addresses {
            seen[usize::from(address.is_ipv6())] += 1;
        }
        if self.version <= Version::V0_2_0 && seen.into_iter().any(|count| count > 1) {
            let msg = format!("CNI version {} does not support more than 1 address per family", self.version);
            return Err(Failure::text(Code::InvalidConfig, msg));
        }
        Ok(())
    }
}

fn invalid(error: json::JsonError) -> Failure {
    Failure::new(Code::InvalidConfig, error)
}

/// Refuses an `ipam` that names no plugin because it is written wrongly: a container without an address is not
/// what its author meant.
fn check_ipam(ipam: Value) -> Result<Value, Failure> {
    #[derive(Deserialize)]
    struct Ipam {
        #[serde(rename = "type")]
        _kind: Option<String>,
    }
    json::from_value::<Ipam>(&ipam).map_err(|error| invalid(error.under("ipam")))?;
    Ok(ipam)
}

/// Reads a network's name with the texts a plugin refuses a bad one with.
pub(crate) fn network_name(text: &str) -> Result<NetworkName, Failure> {
    let refuse = |msg: Cow<'static, str>| Failure::text(Code::InvalidConfig, msg);
    text.parse().map_err(|error: IdError| match error {
        IdError::Empty => refuse("missing network name".into()),
        IdError::Invalid(name) => {
            refuse("invalid characters found in network name".into()).with_details(name)
        }
        IdError::TooLong(_) => refuse(format!("network name {error}").into()),
    })
}

/// CNI: the spec names the first key; libcni has always sent the second as well (containernetworking/cni#1101).
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

fn valid_attachments(raw: &Value) -> Result<Option<Vec<AttachmentId>>, json::JsonError> {
    // Go prints an empty list that was never made as null: here null is not absent but "nothing is valid".
    let found = VALID_ATTACHMENTS.into_iter().find_map(|key| Some((key, json::entry(raw, key)?)));
    match found {
        None => Ok(None),
        Some((_, Value::Null)) => Ok(Some(Vec::new())),
        Some((key, value)) => json::from_value(value).map(Some).map_err(|error| error.under(key)),
    }
}

#[cfg(test)]
mod tests;
