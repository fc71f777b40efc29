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

/// Returns the default routes of a network whose gateway is not the host, for the families it has subnets of.
///
/// `metric` tells them apart from those of a container's other networks.
pub fn default_routes(request: &ComposeRequest, metric: Option<u32>) -> Value {
    let route = |(dst, v4): (&str, bool)| {
        let there = request.subnets.iter().any(|subnet| subnet.subnet.is_ipv4() == v4);
        let mut route = json!({"dst": dst});
        if let Some(metric) = metric {
            route["priority"] = json!(metric);
        }
        there.then_some(route)
    };
    [("0.0.0.0/0", true), ("::/0", false)].into_iter().filter_map(route).collect()
}
