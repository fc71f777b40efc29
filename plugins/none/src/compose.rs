//! The conflist of a network of the manager.

use serde_json::{Value, json};
use weft_cni::{Code, Failure};
use weft_plugin::ComposeRequest;

/// Returns the plugins of the network's conflist.
pub(crate) fn compose(request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
    if let Some(option) = request.options.keys().next() {
        let text = format!("the none driver has no option {option:?}");
        return Err(
            Failure::text(Code::InvalidConfig, text).with_hint(Some("it has no options at all".into()))
        );
    }
    if let Some(subnet) = request.subnets.first() {
        let text = format!("the none driver gives no addresses, but subnet {} was asked for", subnet.subnet);
        return Err(Failure::text(Code::InvalidConfig, text));
    }
    Ok(vec![json!({"type": "none"})])
}
