//! What a plugin reads: its part of the conflist, completed for one call.

use std::path::PathBuf;

use serde_json::{Map, Value, json};
use weft_cni::{AttachmentId, Conflist};
use weft_model::{ContainerId, IfName};

use crate::call::Target;

/// One container's connection, as a runtime asks for it.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// The container's id.
    pub container: ContainerId,
    /// Its network namespace; may be gone or unknown for DEL.
    pub netns: Option<PathBuf>,
    /// The interface's name inside.
    pub ifname: IfName,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// Values for the capabilities the plugins declare.
    pub capability_args: Map<String, Value>,
    /// Members added to each plugin's `args` object.
    pub conf_args: Map<String, Value>,
}

impl Attachment {
    /// Returns an attachment with no arguments.
    pub fn new(container: ContainerId, netns: Option<PathBuf>, ifname: IfName) -> Self {
        Self {
            container,
            netns,
            ifname,
            args: Vec::new(),
            capability_args: Map::new(),
            conf_args: Map::new(),
        }
    }

    /// Returns `CNI_ARGS` as the environment has it.
    pub(crate) fn joined_args(&self) -> String {
        let pairs: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    }

    /// Returns it as the environment carries it; `args` is its joined `CNI_ARGS`.
    pub(crate) fn target<'a>(&'a self, args: &'a str) -> Target<'a> {
        Target {
            container: Some(&self.container),
            netns: self.netns.as_deref(),
            ifname: Some(&self.ifname),
            args,
        }
    }
}

/// What is added to a plugin's configuration for one call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra<'a> {
    pub(crate) prev_result: Option<&'a Value>,
    pub(crate) attachment: Option<&'a Attachment>,
    pub(crate) valid: Option<&'a [AttachmentId]>,
}

/// Returns the type of a plugin of a conflist.
pub(crate) fn kind(plugin: &Value) -> &str {
    weft_cni::json::get(plugin, "type").and_then(Value::as_str).unwrap_or_default()
}

/// Returns what one plugin of `list` reads.
///
/// CNI: SPEC 1.1.0, section 3 "Deriving request configuration from execution configuration".
pub(crate) fn derive(list: &Conflist, plugin: &Value, extra: Extra<'_>) -> Vec<u8> {
    let mut conf = named(list, plugin);
    if let Some(prev) = extra.prev_result {
        put(&mut conf, "prevResult", prev.clone());
    }
    if let Some(attachment) = extra.attachment {
        let granted = granted(plugin, &attachment.capability_args);
        if !granted.is_empty() {
            put(&mut conf, "runtimeConfig", Value::Object(granted));
        }
        if !attachment.conf_args.is_empty() {
            let mut args = match weft_cni::json::get(plugin, "args") {
                Some(Value::Object(args)) => args.clone(),
                _ => Map::new(),
            };
            args.extend(attachment.conf_args.clone());
            put(&mut conf, "args", Value::Object(args));
        }
    }
    if let Some(valid) = extra.valid {
        let valid: Vec<Value> =
            valid.iter().map(|id| json!({"containerID": id.container_id, "ifname": id.ifname})).collect();
        // CNI: the reference library sends both keys (containernetworking/cni#1101).
        put(&mut conf, "cni.dev/valid-attachments", json!(valid));
        put(&mut conf, "cni.dev/attachments", json!(valid));
    }
    Value::Object(conf).to_string().into_bytes()
}

/// Returns one plugin's part of a network as it reads it when no container is meant.
pub fn configuration(list: &Conflist, plugin: &Value) -> Value {
    Value::Object(named(list, plugin))
}

fn named(list: &Conflist, plugin: &Value) -> Map<String, Value> {
    let mut conf = plugin.as_object().cloned().unwrap_or_default();
    put(&mut conf, "name", json!(list.name));
    put(&mut conf, "cniVersion", json!(list.version.as_str()));
    conf
}

/// Sets a key, whatever its spelling was before.
fn put(conf: &mut Map<String, Value>, key: &str, value: Value) {
    conf.retain(|known, _| known == key || !known.eq_ignore_ascii_case(key));
    conf.insert(key.into(), value);
}

/// Returns those of `given` whose capability the plugin declares.
fn granted(plugin: &Value, given: &Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Object(declared)) = weft_cni::json::get(plugin, "capabilities") else {
        return Map::new();
    };
    let declares = |name: &str| declared.get(name) == Some(&Value::Bool(true));
    given
        .iter()
        .filter(|(name, _)| declares(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
