//! What an ADD to an overlay reads, and no more: one small file a network, written by whoever reconciles.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_model::{IfName, Mtu, NetworkName};
use weft_state::atomic::Durability;
use weft_state::{Root, StateError, boot, document};

use crate::ids::{HostId, NetworkId, Vni};
use crate::records::{Egress, Fastpath, Underlay};

/// A network on this host: `/run/weft/overlay/<network>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalNetwork {
    /// [`LocalNetwork::SCHEMA`].
    pub schema: u64,
    /// The kernel's boot id ([`boot::id`]): what another boot wrote is void.
    pub boot: String,
    /// The network's id.
    pub id: NetworkId,
    /// Its name.
    pub name: NetworkName,
    /// Its generation, to tell that it changed.
    pub generation: u64,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// This host.
    pub host: HostId,
    /// The bridge its containers are on.
    pub bridge: IfName,
    /// The VXLAN device.
    pub vxlan: IfName,
    /// The MTU of both and of containers.
    pub mtu: Mtu,
    /// All subnets of the network, on all hosts.
    pub subnets: Vec<IpNetwork>,
    /// This host's blocks.
    pub blocks: Vec<LocalBlock>,
    /// Single addresses this host has besides.
    pub borrowed: Vec<IpAddr>,
    /// Addresses of its blocks that other hosts have, or have asked for.
    #[serde(default)]
    pub lent: Vec<IpAddr>,
    /// How its packets travel between hosts.
    pub outer: Outer,
    /// Whether it runs inside the mesh.
    pub secure: bool,
    /// Whether it lives in a namespace of its own.
    pub isolated: bool,
    /// How containers reach what is not the network.
    pub egress: Egress,
    /// Whether packets within it pass by the firewall.
    #[serde(flatten)]
    pub fastpath: Fastpath,
    /// This host's addresses outside.
    pub underlay: Underlay,
    /// Whether this host lets go of the network: somebody is about to remove it.
    #[serde(default)]
    pub closing: bool,
}

/// How a network's packets travel between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// The address that this host's outer packets have: its underlay address, or its address in the mesh.
    pub local: IpAddr,
    /// The UDP port.
    pub port: u16,
}

/// A block of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalBlock {
    /// Its addresses.
    pub cidr: IpNetwork,
    /// The bridge's address in it, containers' gateway.
    pub gateway: IpAddr,
}

impl LocalNetwork {
    /// The schema to fill in.
    pub const SCHEMA: u64 = document::SCHEMA;

    /// Returns where the file of a network is.
    pub fn path(root: &Root, name: &NetworkName) -> PathBuf {
        root.overlay_run_dir().join(format!("{name}.json"))
    }

    /// Reads what this host knows of a network in this boot.
    ///
    /// # Errors
    ///
    /// Says that the file cannot be read, is damaged, or comes from a newer version.
    pub fn load(root: &Root, name: &NetworkName) -> Result<Option<Self>, StateError> {
        let found: Option<Self> = document::read(&Self::path(root, name))?;
        let boot = boot::id()?;
        Ok(found.filter(|network| network.boot == boot && network.name == *name))
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn save(&self, root: &Root) -> Result<(), StateError> {
        document::write(&Self::path(root, &self.name), self, Durability::Boot)
    }

    /// Removes the file of a network; no file is as well.
    ///
    /// # Errors
    ///
    /// Names the path and the reason.
    pub fn remove(root: &Root, name: &NetworkName) -> Result<(), StateError> {
        let path = Self::path(root, name);
        match std::fs::remove_file(&path).map_err(StateError::io("remove", &path)) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A network of a cluster's.
    pub(crate) fn network() -> LocalNetwork {
        LocalNetwork {
            schema: LocalNetwork::SCHEMA,
            boot: boot::id().unwrap(),
            id: NetworkId::new([1; 16]),
            name: "blue".parse().unwrap(),
            generation: 1,
            vni: 4096.try_into().unwrap(),
            host: HostId::new([2; 16]),
            bridge: "ovb1000".parse().unwrap(),
            vxlan: "ov1000".parse().unwrap(),
            mtu: 1450.try_into().unwrap(),
            subnets: vec!["10.1.0.0/16".parse().unwrap()],
            blocks: vec![LocalBlock {
                cidr: "10.1.0.0/26".parse().unwrap(),
                gateway: "10.1.0.1".parse().unwrap(),
            }],
            borrowed: vec!["10.1.9.9".parse().unwrap()],
            lent: vec!["10.1.0.9".parse().unwrap()],
            outer: Outer { local: [192, 0, 2, 1].into(), port: 4789 },
            secure: false,
            isolated: false,
            egress: Egress::Nat,
            fastpath: Fastpath::Never,
            underlay: Underlay { v4: Some([192, 0, 2, 1].into()), v6: None },
            closing: false,
        }
    }

    /// A plugin of another version reads it, or has written it.
    #[test]
    fn the_fast_path_is_written_as_older_versions_read_it() {
        for (fastpath, switch, gated) in [
            (Fastpath::Never, false, None),
            (Fastpath::Auto, false, Some(true)),
            (Fastpath::Always, true, None),
        ] {
            let network = LocalNetwork { fastpath, ..network() };
            let mut written = serde_json::to_value(&network).unwrap();
            assert_eq!(written["fastpath"], switch);
            assert_eq!(written.get("gated").and_then(serde_json::Value::as_bool), gated);
            assert_eq!(serde_json::from_value::<LocalNetwork>(written.clone()).unwrap(), network);
            written.as_object_mut().unwrap().remove("fastpath");
            let read: LocalNetwork = serde_json::from_value(written).unwrap();
            assert_eq!(read.fastpath == fastpath, fastpath != Fastpath::Always);
        }
    }

    #[test]
    fn what_another_boot_wrote_is_void() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(Some(dir.path().into()));
        let (mut network, name) = (network(), "blue".parse().unwrap());
        assert_eq!(LocalNetwork::load(&root, &name).unwrap(), None);
        network.save(&root).unwrap();
        assert_eq!(LocalNetwork::load(&root, &name).unwrap().as_ref(), Some(&network));
        network.boot = "another".into();
        network.save(&root).unwrap();
        assert_eq!(LocalNetwork::load(&root, &name).unwrap(), None);
        assert!(LocalNetwork::path(&root, &name).exists());
        LocalNetwork::remove(&root, &name).unwrap();
        LocalNetwork::remove(&root, &name).unwrap();
        assert!(!LocalNetwork::path(&root, &name).exists());
    }
}
