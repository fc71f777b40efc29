//! One container's connection to one network.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ContainerId, IfName, NetworkName};

/// The key of an attachment: what was connected, to what, under which interface name.
///
/// CNI: the pair (container id, interface name) is unique in a host (SPEC 1.1.0, section 2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: NetworkName,
    /// The container's id.
    pub container: ContainerId,
    /// The interface's name inside the container.
    pub ifname: IfName,
}

impl Endpoint {
    /// Returns the name of the host's end of the container's interface: `veth` and 11 hex digits.
    ///
    /// It is derived from (container, interface) alone, so that DEL finds the link when the
    /// namespace, the result and our records are gone.
    pub fn host_ifname(&self) -> IfName {
        IfName::derived(&[self.container.as_str(), self.ifname.as_str()])
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of {} on {}", self.ifname, self.container, self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(network: &str, container: &str, ifname: &str) -> Endpoint {
        Endpoint {
            network: network.parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        }
    }

    #[test]
    fn the_host_name_depends_on_container_and_interface_alone() {
        let name = endpoint("a", "c1", "eth0").host_ifname();
        assert_eq!(name.as_str().len(), 15);
        assert!(name.as_str().starts_with("veth"));
        assert_eq!(name, endpoint("b", "c1", "eth0").host_ifname());
        assert_ne!(name, endpoint("a", "c1", "eth1").host_ifname());
        assert_ne!(name, endpoint("a", "c1e", "th0").host_ifname());
    }
}
