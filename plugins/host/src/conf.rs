//! The configuration as written, then as meant.

use serde_json::Value;
use weft_cni::{Code, Failure};
use weft_plugin::Call;

/// What the plugin will do. There is nothing to choose.
#[derive(Debug, PartialEq)]
pub struct Settings;

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration asks for what a container without a namespace of its own cannot have:
    /// addresses, published ports, another interface beside the host's.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        if let Some(ipam) = call.conf.ipam_type() {
            let text = format!("the host driver gives no addresses, but ipam.type is {ipam:?}");
            return Err(refused(&text, "remove \"ipam\""));
        }
        let ports: Option<Vec<Value>> = call.conf.capability("portMappings")?;
        if ports.is_some_and(|ports| !ports.is_empty()) {
            let text = "the host driver publishes no ports: the container's ports are the host's";
            return Err(refused(text, "connect without port mappings, or use a bridge network"));
        }
        if call.conf.prev_result()?.is_some_and(|result| !result.interfaces.is_empty()) {
            let text = "the host driver cannot follow a plugin that made an interface";
            return Err(refused(text, "a container is on the host's network or on others, not on both"));
        }
        Ok(Self)
    }
}

fn refused(text: &str, hint: &str) -> Failure {
    Failure::text(Code::InvalidConfig, text).with_hint(Some(hint.into()))
}
