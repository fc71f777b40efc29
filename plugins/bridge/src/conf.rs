//! The configuration as written, then as meant.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_firewall::Backend;
use weft_model::{Gateways, IfName, Mac, Mtu, NetworkName, VlanId};
use weft_plugin::{Call, Verb, masquerade_backend};

/// The bridge configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    bridge: Option<String>,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    ip_masq_source: Vec<String>,
    mtu: i64,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Vec<Trunk>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    isolate: bool,
    internal: bool,
    gateway_mode: Option<Gateways>,
    #[serde(rename = "allowForeignHostIP")]
    allow_foreign_host_ip: bool,
}

/// One entry of `vlanTrunk`: a range, a single id, or both.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Trunk {
    #[serde(rename = "minID")]
    min: Option<i64>,
    #[serde(rename = "maxID")]
    max: Option<i64>,
    id: Option<i64>,
}

/// What the plugin will do. Every value is chosen and every combination is legal.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The network's name, which the firewall's records carry.
    pub network: NetworkName,
    /// The bridge.
    pub bridge: IfName,
    /// Whether the bridge is the containers' gateway.
    pub gateway: Gateway,
    /// Whether a conflicting address of the bridge is replaced.
    pub force_address: bool,
    /// Who masquerades outgoing traffic; absent means that packets leave with the container's address.
    pub masquerade: Option<Backend>,
    /// Which addresses of the host they get, at most one for each family; others get those of the interface
    /// they leave by.
    pub sources: Vec<IpAddr>,
    /// Whether these may be addresses that the host does not have (yet).
    pub foreign_sources: bool,
    /// How the host lets connections in, for each family.
    pub gateways: Gateways,
    /// Who sees to it that nothing else gets in; absent means that whoever has a route gets in.
    pub guard: Option<Backend>,
    /// Where the firewall keeps its ownership records.
    pub claims: PathBuf,
    /// The links' MTU; absent means the uplink's, and without an uplink Ethernet's.
    pub mtu: Option<Mtu>,
    /// Whether a port sends frames back where they came from.
    pub hairpin: bool,
    /// Whether ports reach only the bridge itself, not each other.
    pub port_isolation: bool,
    /// What the host routes nowhere; absent means that it routes everything.
    pub isolation: Option<Isolation>,
    /// Whether the bridge is promiscuous.
    pub promisc: bool,
    /// The VLANs of the container's port.
    pub vlans: Vlans,
    /// Whether frames with another source address than the container's are dropped.
    pub spoof_check: bool,
    /// Whether IPv6 addresses are checked for duplicates.
    pub dad: bool,
    /// Whether the container's interface is raised.
    pub container_up: bool,
    /// The container's Ethernet address, when somebody asked for one.
    pub mac: Option<Mac>,
    /// Whether there is an IPAM plugin to ask.
    pub addressed: bool,
}

/// What the host does not route from and to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isolation {
    /// Whether that is everything, and not only what comes from or goes to other isolated networks.
    pub internal: bool,
    /// Who sees to it.
    pub backend: Backend,
}

/// Whether the bridge is the containers' gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// The bridge has no address of ours.
    None,
    /// The bridge has the gateway's address.
    Address,
    /// The bridge has the gateway's address, and default routes lead there.
    DefaultRoute,
}

/// The VLANs of a bridge port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlans {
    /// The bridge does not look at tags on our account.
    Off,
    /// The port is in these VLANs.
    Port {
        /// The VLAN of untagged frames.
        untagged: Option<VlanId>,
        /// The VLANs of tagged frames.
        tagged: BTreeSet<VlanId>,
        /// Whether the port stays in VLAN 1, where the kernel puts new ports.
        keep_default: bool,
    },
}

/// Why a configuration is not legal. The texts are those of the reference plugin, which its users
/// and tests search for.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// Packets would leave with an address that no answer comes back to.
    #[error("ipMasqSource {0} is not an address of this host")]
    ForeignSource(IpAddr),
    /// The bridge's name is no interface name.
    #[error("bridge {0:?}: {1}")]
    Bridge(String, weft_model::IfNameError),
    /// The MTU is out of range.
    #[error("{0}")]
    Mtu(weft_model::NumberError),
    /// The VLAN id is out of range.
    #[error("invalid VLAN ID {0} (must be between 0 and 4094)")]
    Vlan(i64),
    /// A trunk's lower bound is out of range.
    #[error("incorrect trunk minID parameter")]
    TrunkMin,
    /// A trunk's upper bound is out of range.
    #[error("incorrect trunk maxID parameter")]
    TrunkMax,
    /// A trunk's bounds are reversed.
    #[error("minID is greater than maxID in trunk parameter")]
    TrunkReversed,
    /// A trunk has an upper bound alone.
    #[error("minID and maxID should be configured simultaneously, minID is missing")]
    TrunkMinMissing,
    /// A trunk has a lower bound alone.
    #[error("minID and maxID should be configured simultaneously, maxID is missing")]
    TrunkMaxMissing,
    /// A trunk's single id is out of range.
    #[error("incorrect trunk id parameter")]
    TrunkId,
    /// Hairpin mode and promiscuous mode exclude each other.
    #[error("cannot set hairpin mode and promiscuous mode at the same time")]
    HairpinAndPromisc,
    /// A link that stays down cannot carry addresses.
    #[error("cannot use IPAM when DisableContainerInterface flag is set")]
    AddressesOnDisabled,
    /// The VLAN's gateway link would have too long a name.
    #[error("bridge {bridge} is too long a name for its gateway in VLAN {vlan}: {cause}")]
    VlanGateway {
        /// The bridge.
        bridge: IfName,
        /// The VLAN.
        vlan: VlanId,
        /// What is wrong with the name.
        cause: weft_model::IfNameError,
    },
    /// The masquerading backend is unknown.
    #[error("{0}")]
    Backend(weft_firewall::FirewallError),
    /// An address that packets should leave with is none.
    #[error("ipMasqSource: {0:?} is no address")]
    Source(String),
    /// Two such addresses of one family.
    #[error("ipMasqSource: {0} and {1} are of the same family")]
    Sources(IpAddr, IpAddr),
}

/// What is not in the configuration and yet decides about it.
pub struct Surroundings {
    /// The network's name.
    pub network: NetworkName,
    /// Whether there is an IPAM plugin to ask.
    pub addressed: bool,
    /// The container's Ethernet address.
    pub mac: Option<Mac>,
    /// Where the firewall keeps its ownership records.
    pub claims: PathBuf,
    /// Whether things are taken apart: then `ipMasq` may have been true when they were built, and what no
    /// ADD accepts was never built.
    pub dismantles: bool,
}

impl Surroundings {
    fn of(call: &Call, mac: Option<Mac>) -> Self {
        Self {
            network: call.conf.name.clone(),
            addressed: call.conf.ipam_type().is_some(),
            mac,
            claims: call.root.masquerade_dir(),
            dismantles: call.dismantles(),
        }
    }

    /// Who carries a network's rules when nobody says.
    fn usual(&self) -> Backend {
        Backend::usual_of(&self.network, &self.claims)
    }
}

impl Conf {
    /// Says what was meant.
    ///
    /// # Errors
    ///
    /// If a value or a combination of values is not legal.
    pub fn settle(self, around: Surroundings) -> Result<Settings, ConfError> {
        let text = self.bridge.as_deref().filter(|name| !name.is_empty()).unwrap_or("cni0");
        let bridge: IfName = text.parse().map_err(|error| ConfError::Bridge(text.into(), error))?;
        let dismantles = around.dismantles;
        forgive(dismantles, self.agree(&around), ())?;
        let masquerade = self.masquerade(&around)?;
        let isolated = self.isolate || self.internal || dismantles;
        let guarded = self.gateway_mode.is_some() || dismantles;
        let fence = (isolated || guarded).then(|| self.fence(masquerade, &around));
        let settings = Settings {
            gateway: match (self.is_gateway, self.is_default_gateway) {
                (_, true) => Gateway::DefaultRoute,
                (true, false) => Gateway::Address,
                (false, false) => Gateway::None,
            },
            force_address: self.force_address,
            masquerade,
            sources: forgive(dismantles, self.sources(), Vec::new())?,
            foreign_sources: self.allow_foreign_host_ip,
            gateways: self.gateway_mode.unwrap_or_default(),
            guard: fence.filter(|_| guarded),
            isolation: fence
                .filter(|_| isolated)
                .map(|backend| Isolation { internal: self.internal, backend }),
            mtu: forgive(dismantles, Mtu::written(self.mtu).map_err(ConfError::Mtu), None)?,
            hairpin: self.hairpin_mode,
            port_isolation: self.port_isolation,
            promisc: self.promisc_mode,
            vlans: forgive(dismantles, self.vlans(), Vlans::Off)?,
            spoof_check: self.macspoofchk || around.dismantles,
            dad: self.enabledad,
            container_up: !self.disable_container_interface,
            addressed: around.addressed,
            mac: around.mac,
            network: around.network,
            claims: around.claims,
            bridge,
        };
        forgive(dismantles, settings.vlan_gateway_name().map(drop), ())?;
        Ok(settings)
    }

    /// Refuses what excludes each other.
    fn agree(&self, around: &Surroundings) -> Result<(), ConfError> {
        if self.hairpin_mode && self.promisc_mode {
            return Err(ConfError::HairpinAndPromisc);
        }
        if self.disable_container_interface && around.addressed {
            return Err(ConfError::AddressesOnDisabled);
        }
        Ok(())
    }

    fn masquerade(&self, around: &Surroundings) -> Result<Option<Backend>, ConfError> {
        let asked = self.ip_masq_backend.as_deref();
        masquerade_backend(asked, self.ip_masq, around.addressed, around.dismantles, || around.usual())
            .map_err(ConfError::Backend)
    }

    /// Returns who keeps others out. Where things are taken apart, the network may have had that when it was built.
    fn fence(&self, masquerade: Option<Backend>, around: &Surroundings) -> Backend {
        let asked = self.ip_masq_backend.as_deref().and_then(|name| name.parse().ok());
        if asked == Some(Backend::Iptables) {
            return Backend::Iptables;
        }
        // Whether the kernel has nf_tables is asked once. The reference plugins keep nobody out, so their layout
        // of nf_tables says nothing about this.
        masquerade.filter(|backend| *backend == Backend::Weft).unwrap_or_else(|| around.usual())
    }

    fn sources(&self) -> Result<Vec<IpAddr>, ConfError> {
        let mut sources: Vec<IpAddr> = Vec::new();
        for text in &self.ip_masq_source {
            let source = weft_cni::address::parse_ip(text).map_err(|_| ConfError::Source(text.clone()))?;
            if let Some(other) = sources.iter().find(|other| other.is_ipv4() == source.is_ipv4()) {
                return Err(ConfError::Sources(*other, source));
            }
            sources.push(source);
        }
        Ok(sources)
    }

    fn vlans(&self) -> Result<Vlans, ConfError> {
        let untagged = match self.vlan {
            0 => None,
            id => Some(VlanId::try_from(id).map_err(|_| ConfError::Vlan(id))?),
        };
        let mut tagged = BTreeSet::new();
        for trunk in &self.vlan_trunk {
            trunk.collect(&mut tagged)?;
        }
        if untagged.is_none() && tagged.is_empty() {
            return Ok(Vlans::Off);
        }
        // A trunk without `vlan` leaves untagged frames in the kernel's default VLAN.
        let keep_default = self.preserve_default_vlan || untagged.is_none();
        Ok(Vlans::Port { untagged, tagged, keep_default })
    }
}

/// Returns what was written. Where things are only taken apart, what no ADD accepts is no error.
fn forgive<T>(dismantles: bool, written: Result<T, ConfError>, instead: T) -> Result<T, ConfError> {
    if dismantles { Ok(written.unwrap_or(instead)) } else { written }
}

impl Trunk {
    fn collect(&self, ids: &mut BTreeSet<VlanId>) -> Result<(), ConfError> {
        let id = |value: i64, error| VlanId::try_from(value).map_err(|_| error);
        let min = self.min.map(|min| id(min, ConfError::TrunkMin)).transpose()?;
        let max = self.max.map(|max| id(max, ConfError::TrunkMax)).transpose()?;
        match (min, max) {
            (Some(min), Some(max)) if min > max => return Err(ConfError::TrunkReversed),
            (Some(min), Some(max)) => {
                ids.extend((min.get()..=max.get()).filter_map(|id| VlanId::try_from(i64::from(id)).ok()));
            }
            (None, Some(_)) => return Err(ConfError::TrunkMinMissing),
            (Some(_), None) => return Err(ConfError::TrunkMaxMissing),
            (None, None) => {}
        }
        ids.extend(self.id.map(|single| id(single, ConfError::TrunkId)).transpose()?);
        Ok(())
    }
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let settled = Self::written(call);
        match (settled, call.verb) {
            // What DEL takes apart has names that follow from the endpoint. A configuration that nobody
            // could have used for an ADD is no reason to leave it.
            (Err(_), Verb::Del) => Conf::default()
                .settle(Surroundings::of(call, None))
                .map_err(|error| Failure::new(Code::InvalidConfig, error)),
            (settled, _) => settled,
        }
    }

    fn written(call: &Call) -> Result<Self, Failure> {
        let conf: Conf = call.conf.conf()?;
        let mac = match (call.requested_mac()?, call.verb) {
            (None, Verb::Add) => Some(Mac::random()),
            (requested, _) => requested,
        };
        conf.settle(Surroundings::of(call, mac)).map_err(|error| Failure::new(Code::InvalidConfig, error))
    }

    /// Returns whether a rule of the firewall keeps the ports apart, besides their being isolated.
    pub(crate) fn keeps_apart(&self) -> bool {
        self.port_isolation && self.guard.is_some_and(|backend| backend != Backend::Iptables)
    }

    /// Returns the interface that carries the gateway's address inside a VLAN: `<bridge>.<vlan>`.
    ///
    /// # Errors
    ///
    /// If that is too long for an interface name.
    pub fn vlan_gateway_name(&self) -> Result<Option<(IfName, VlanId)>, ConfError> {
        let Vlans::Port { untagged: Some(vlan), .. } = self.vlans else { return Ok(None) };
        if self.gateway == Gateway::None {
            return Ok(None);
        }
        let name = format!("{}.{vlan}", self.bridge).parse();
        let name =
            name.map_err(|cause| ConfError::VlanGateway { bridge: self.bridge.clone(), vlan, cause })?;
        Ok(Some((name, vlan)))
    }
}

#[cfg(test)]
mod tests;
