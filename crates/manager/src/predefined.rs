//! The networks that always exist: `bridge`, `host` and `none`.
//!
//! They have no file until a container is connected to them, so that a host where weft was only looked
//! at is left as it was.

use std::collections::BTreeMap;

use weft_cni::Dns;
use weft_model::{NetworkId, NetworkName};
use weft_state::document::SCHEMA;

use crate::host;
use crate::network::{About, Ipam, NEVER, Network, derived_id};

/// The names, in the order they are listed.
pub const NAMES: [&str; 3] = ["bridge", "host", "none"];

/// Names that no other network may have. DOCKER: `default` stands for the first network.
pub const RESERVED: [&str; 4] = ["bridge", "host", "none", "default"];

/// The network that is the host itself.
pub const HOST: &str = "host";

/// The network a container cannot share with any other.
pub const PRIVATE: &str = "none";

/// The Linux bridge of the network `bridge`.
pub(crate) const BRIDGE: &str = "weft0";

/// Returns whether a network is one of ours.
pub fn is(name: &NetworkName) -> bool {
    NAMES.contains(&name.as_str())
}

/// Returns the id of a predefined network, which is always the same on the same host.
pub fn id(name: &NetworkName) -> NetworkId {
    derived_id(&["predefined", name.as_str(), &host::machine_id()])
}

/// Returns a predefined network as it is before anybody used it: without subnets.
pub fn network(name: &NetworkName) -> Network {
    let options = match name.as_str() {
        // DOCKER: the default bridge shows its options under these names.
        "bridge" => vec![("com.docker.network.bridge.name", BRIDGE)],
        _ => Vec::new(),
    };
    let options: BTreeMap<String, String> =
        options.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    let about = About {
        schema: SCHEMA,
        id: id(name),
        created: NEVER.into(),
        driver: name.as_str().into(),
        internal: false,
        clustered: false,
        labels: BTreeMap::new(),
        options,
        ipam: Ipam::default(),
        dns: Dns::default(),
    };
    Network { name: name.clone(), about }
}
