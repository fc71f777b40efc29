//! Parts of conflists that drivers with addresses share.

use serde_json::{Map, Value, json};
use weft_cni::ComposeRequest;

/// Returns the `ipam` object of a network whose addresses `host-local` gives.
///
/// `requestable` and `reserved` are our extensions of `host-local`; the reference plugin ignores them.
pub fn host_local(request: &ComposeRequest) -> Value {
    let range = |subnet: &weft_cni::ComposedSubnet| {
        let mut range = Map::new();
        range.insert("subnet".into(), json!(subnet.subnet.to_string()));
        range.insert("gateway".into(), json!(subnet.gateway));
        if let Some(part) = subnet.range {
            // A bound that is the subnet's own is left to host-local, which spares the network's
            // and the broadcast address unless told otherwise.
            if part.network() != subnet.subnet.network() {
                range.insert("rangeStart".into(), json!(part.network()));
            }
            if part.broadcast() != subnet.subnet.broadcast() {
                range.insert("rangeEnd".into(), json!(part.broadcast()));
            }
        }
        json!([range])
    };
    let reserved: Vec<_> = request.subnets.iter().flat_map(|subnet| subnet.aux.values()).collect();
    let mut ipam = json!({
        "type": "host-local",
        "ranges": request.subnets.iter().map(range).collect::<Vec<_>>(),
        "requestable": "subnet",
    });
    if !reserved.is_empty() {
        ipam["reserved"] = json!(reserved);
    }
    ipam
}
