//! A list of plugin configurations: what describes one network.

use serde::Deserialize;
use serde_json::Value;
use weft_model::NetworkName;

use crate::conf::network_name;
use crate::json::{self, JsonError};
use crate::version::Written;
use crate::{Code, Failure, Version};

/// A network as a list of plugins to run in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflist {
    /// The network's name.
    pub name: NetworkName,
    /// The spec version to speak with the plugins.
    pub version: Version,
    /// Whether CHECK does nothing.
    pub disable_check: bool,
    /// Whether GC does nothing.
    pub disable_gc: bool,
    /// Whether plugins in files beside the list are left out.
    pub load_only_inlined_plugins: bool,
    /// The plugins' configurations, each an object with a `type`.
    pub plugins: Vec<Value>,
    /// The whole document.
    pub raw: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    name: String,
    cni_version: String,
    cni_versions: Option<Vec<String>>,
    disable_check: Switch,
    #[serde(rename = "disableGC")]
    disable_gc: Switch,
    load_only_inlined_plugins: Switch,
    plugins: Option<Vec<Value>>,
}

/// A boolean that people may write in quotes.
#[derive(Default, Deserialize)]
#[serde(try_from = "Value")]
struct Switch(bool);

impl TryFrom<Value> for Switch {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::Bool(on) => Ok(Self(on)),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Self(true)),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Self(false)),
            _ => Err("true or false is expected"),
        }
    }
}

impl Conflist {
    /// Reads a list.
    ///
    /// # Errors
    ///
    /// Code 6 when `bytes` is no list (says where), 7 when the name or a plugin is missing or bad, 1 when the version
    /// is unknown.
    pub fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let decode =
            |error| Failure::new(Code::Decode, error).while_doing("error parsing configuration list");
        let raw = json::parse(bytes).map_err(decode)?;
        let keys: Keys = json::from_value(&raw).map_err(decode)?;
        let name = network_name(&keys.name)?;
        Ok(Self {
            version: version(&keys).map_err(|failure| failure.while_doing(format!("network {name}")))?,
            disable_check: keys.disable_check.0,
            disable_gc: keys.disable_gc.0,
            load_only_inlined_plugins: keys.load_only_inlined_plugins.0,
            plugins: plugins(keys).map_err(|error| {
                Failure::new(Code::InvalidConfig, error).while_doing(format!("network {name}"))
            })?,
            name,
            raw,
        })
    }
}

/// Returns the newest of the versions written that we know.
///
/// Those we do not know are passed over when there is a choice: that is what `cniVersions` is for.
fn version(keys: &Keys) -> Result<Version, Failure> {
    let mut newest = None;
    for text in keys.cni_versions.iter().flatten() {
        newest = newest.max(Written::parse(text)?.negotiate(&Version::ALL).ok());
    }
    let single = Written::parse(&keys.cni_version)?.negotiate(&Version::ALL);
    match newest {
        None => single,
        Some(newest) if keys.cni_version.is_empty() => Ok(newest),
        Some(newest) => Ok(single.map_or(newest, |single| single.max(newest))),
    }
}

fn plugins(keys: Keys) -> Result<Vec<Value>, JsonError> {
    let error = |what: &str| <JsonError as serde::de::Error>::custom(what).under("plugins");
    let Some(plugins) = keys.plugins else {
        // Every plugin may come from a file beside the list.
        return if keys.load_only_inlined_plugins.0 {
            Err(error("the list is missing"))
        } else {
            Ok(Vec::new())
        };
    };
    if plugins.is_empty() {
        return Err(error("the list is empty"));
    }
    for (index, plugin) in plugins.iter().enumerate() {
        let error = |key: &str, what: &str| {
            let error = <JsonError as serde::de::Error>::custom(what);
            let error = if key.is_empty() { error } else { error.under(key) };
            error.at(index).under("plugins")
        };
        if !plugin.is_object() {
            return Err(error("", "an object is expected"));
        }
        match json::get(plugin, "type") {
            Some(Value::String(kind)) if !kind.is_empty() => {}
            None | Some(Value::String(_)) => return Err(error("type", "is missing")),
            Some(_) => return Err(error("type", "a string is expected")),
        }
    }
    Ok(plugins)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Conflist, (u32, String)> {
        Conflist::parse(text.as_bytes()).map_err(|failure| (failure.code.number(), failure.msg))
    }

    #[test]
    fn a_list_is_read() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"n","disableCheck":true,"disableGC":"True","weft":{"id":"x"},
                "loadOnlyInlinedPlugins":"false","Plugins":[{"type":"bridge","mtu":1400},{"Type":"portmap"}]}"#,
        );
        let list = list.unwrap();
        assert_eq!((list.name.as_str(), list.version), ("n", Version::V1_0_0));
        assert_eq!(
            (list.disable_check, list.disable_gc, list.load_only_inlined_plugins),
            (true, true, false)
        );
        assert_eq!(list.plugins.len(), 2);
        assert_eq!(list.plugins[0]["mtu"], 1400);
        assert_eq!(list.raw["weft"]["id"], "x");
    }

    #[test]
    fn the_newest_known_version_is_chosen() {
        for (keys, expected) in [
            ("", Version::V0_1_0),
            (r#""cniVersion":"0.4.0","#, Version::V0_4_0),
            (r#""cniVersions":["0.3.1","1.1.0","1.0.0"],"#, Version::V1_1_0),
            (r#""cniVersions":["0.3.1","9.9.9"],"#, Version::V0_3_1),
            (r#""cniVersions":["0.3.1"],"cniVersion":"0.4.0","#, Version::V0_4_0),
            (r#""cniVersions":["0.3.1"],"cniVersion":"9.9.9","#, Version::V0_3_1),
            (r#""cniVersions":["1.0.0"],"cniVersion":"0.4.0","#, Version::V1_0_0),
            (r#""cniVersions":[],"cniVersion":"1.0.0","#, Version::V1_0_0),
        ] {
            let list = parse(&format!(r#"{{{keys}"name":"n","plugins":[{{"type":"x"}}]}}"#));
            assert_eq!(list.unwrap().version, expected, "{keys}");
        }
    }

    #[test]
    fn a_bad_list_is_refused_with_the_place() {
        let prefix = "error parsing configuration list: ";
        for (text, code, msg) in [
            (r#"{"plugins":[]}"#, 7, "missing network name".into()),
            (r#"{"name":"a b","plugins":[]}"#, 7, "invalid characters found in network name".into()),
            (r#"{"name":1}"#, 6, format!("{prefix}name: invalid type: integer `1`, expected a string")),
            ("", 6, format!("{prefix}EOF while parsing a value at line 1 column 0")),
            ("[]", 6, format!("{prefix}an object is expected")),
            (
                r#"{"name":"n","plugins":{}}"#,
                6,
                format!("{prefix}plugins: invalid type: map, expected a sequence"),
            ),
            (
                r#"{"name":"n","disableGC":"maybe"}"#,
                6,
                format!("{prefix}disableGC: true or false is expected"),
            ),
            (
                r#"{"name":"n","disableCheck":1}"#,
                6,
                format!("{prefix}disableCheck: true or false is expected"),
            ),
            (r#"{"name":"n","plugins":[]}"#, 7, "network n: plugins: the list is empty".into()),
            (
                r#"{"name":"n","loadOnlyInlinedPlugins":true}"#,
                7,
                "network n: plugins: the list is missing".into(),
            ),
            (
                r#"{"name":"n","plugins":[{"type":"a"},{}]}"#,
                7,
                "network n: plugins[1].type: is missing".into(),
            ),
            (r#"{"name":"n","plugins":[{"type":""}]}"#, 7, "network n: plugins[0].type: is missing".into()),
            (
                r#"{"name":"n","plugins":[{"type":3}]}"#,
                7,
                "network n: plugins[0].type: a string is expected".into(),
            ),
            (r#"{"name":"n","plugins":["a"]}"#, 7, "network n: plugins[0]: an object is expected".into()),
            (r#"{"name":"n","cniVersion":"9.9.9"}"#, 1, "network n: incompatible CNI versions".into()),
        ] {
            assert_eq!(parse(text).unwrap_err(), (code, msg), "{text}");
        }
        assert_eq!(parse(r#"{"name":"n","cniVersion":"x"}"#).unwrap_err().0, 6);
        assert_eq!(parse(r#"{"name":"n","cniVersions":["x"]}"#).unwrap_err().0, 6);
        assert_eq!(parse(r#"{"name":"n"}"#).unwrap().plugins, Vec::<Value>::new());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(Conflist::parse(&bytes));
        }

        #[test]
        fn any_keys_are_read_or_refused(
            name in r#""[a-z%]{0,3}"|1|null"#,
            version in r#""[0-9.]{0,5}"|1|null"#,
            plugins in r#"\[(\{"type":("[a-z]?"|1|null)\}|3)?\]|null|\{\}"#,
            switch in r#"true|"true"|"False"|0|null"#,
        ) {
            let text = format!(
                r#"{{"name":{name},"cniVersion":{version},"cniVersions":[{version}],"plugins":{plugins},"disableGC":{switch}}}"#
            );
            drop(Conflist::parse(text.as_bytes()));
        }
    }
}
