//! What goes wrong while a plan is made, taken apart or compared.

use std::error::Error;
use std::fmt;
use std::io;

use ipnetwork::IpNetwork;
use weft_firewall::FirewallError;
use weft_model::IfName;
use weft_netlink as netlink;
use weft_netns::NetnsError;
use weft_state::StateError;

use crate::{Kind, Over, Place, Resource, Step};

/// Why a step cannot be made, removed or observed.
///
/// CNI: the texts of the typed causes are those of the reference plugins, which runtimes show to people.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A link of that name is something else.
    #[error("\"{name}\" already exists but is not a {wanted}")]
    OtherKind {
        /// The link's name.
        name: IfName,
        /// What it should be.
        wanted: &'static str,
    },
    /// The container has an interface of that name.
    #[error("container veth name (\"{peer}\") peer provided (\"{name}\") already exists")]
    NameTaken {
        /// The host's end.
        name: IfName,
        /// The interface's name in the container.
        peer: IfName,
    },
    /// There is a link of that name.
    #[error("failed to create {kind}: file exists: the {place} has an interface {name}")]
    Taken {
        /// What should have been made.
        kind: &'static str,
        /// Where.
        place: Place,
        /// Under which name.
        name: IfName,
    },
    /// The lower link has such a link already, in whatever namespace that is.
    #[error("failed to create {}: file exists: {} interface {} has another {kind}", .kind.name(), .over.place, .over.name)]
    Again {
        /// What should have been made.
        kind: Kind,
        /// The lower link.
        over: Over,
    },
    /// The container's interface is none that the host has lent.
    #[error("failed to find original ifname for {:?} (alias is not set)", .0.as_str())]
    NotLent(IfName),
    /// A link cannot come back under its own name.
    #[error("the container's interface {ifname} cannot be {name} in the host again: there is one")]
    HomeTaken {
        /// Its name in the container.
        ifname: IfName,
        /// Its name in the host.
        name: IfName,
    },
    /// The kernel has no such links.
    #[error(
        "this kernel has no links of type {kind}: it was built without {option}, or the module is missing"
    )]
    NoKind {
        /// The kind, as ip-link(8) names it.
        kind: &'static str,
        /// The option of the kernel's configuration.
        option: &'static str,
    },
    /// The host's end carries traffic of another namespace.
    #[error("interface \"{name}\" exists already and its other end is up in another namespace")]
    InUse {
        /// The host's end.
        name: IfName,
    },
    /// The bridge has no room.
    #[error("bridge \"{0}\" has 1023 ports, as many as a bridge takes")]
    BridgeFull(IfName),
    /// The kernel has no VXLAN.
    #[error("this kernel has no VXLAN: CONFIG_VXLAN is not set, or its module is not loaded")]
    NoVxlan,
    /// Another VXLAN device has the identifier.
    #[error("VNI {vni} on UDP port {port} is taken by {}", holder.as_deref().map_or_else(
        || "a VXLAN device in another namespace".into(), |holder| format!("VXLAN device {holder}")))]
    VniTaken {
        /// The identifier.
        vni: u32,
        /// The port.
        port: u16,
        /// The other device's name, if it is in the host's namespace.
        holder: Option<String>,
    },
    /// A process, or a VXLAN device with other checksums, has the port.
    #[error("UDP port {port}, which {name} needs, is taken")]
    PortTaken {
        /// The device.
        name: IfName,
        /// The port.
        port: u16,
    },
    /// The kernel was built without.
    #[error("this kernel has no {feature}: it was built without {option}")]
    Lacks {
        /// What it lacks.
        feature: &'static str,
        /// The option of its configuration.
        option: &'static str,
    },
    /// The interface is no end of a pair.
    #[error("container interface {name} has no veth peer")]
    NoPeer {
        /// The interface's name in the container.
        name: IfName,
    },
    /// The other end of the pair is elsewhere.
    #[error("veth peer with index {index} is not in host ns")]
    NotInHost {
        /// The other end's index.
        index: u32,
    },
    /// The link belongs to another one already.
    #[error("interface {name} has already a master set: {master}")]
    HasMaster {
        /// The link.
        name: IfName,
        /// What it belongs to.
        master: String,
    },
    /// A domain of that name routes by another table.
    #[error("VRF {name} already exist with different routing table {table}")]
    OtherTable {
        /// The domain.
        name: IfName,
        /// Its table.
        table: u32,
    },
    /// Every routing table is in use.
    #[error("every routing table is in use")]
    NoTable,
    /// The link has another address.
    #[error("\"{dev}\" already has an IP address different from {address}")]
    AddressConflict {
        /// The link.
        dev: IfName,
        /// The address it should have.
        address: IpNetwork,
    },
    /// Another station has the address.
    #[error("link {dev} has address {address} in DADFAILED state")]
    Duplicate {
        /// The link.
        dev: IfName,
        /// The address.
        address: IpNetwork,
    },
    /// There is no such link.
    #[error("there is no interface \"{name}\" in the {place}")]
    NoLink {
        /// Where it should be.
        place: Place,
        /// The link's name.
        name: IfName,
    },
    /// The step is in a container, and none was given.
    #[error("the container's network namespace is not there")]
    NoContainer,
    /// A sysctl's name leads out of `/proc/sys/net`.
    #[error("\"{0}\" is not a sysctl of a network namespace")]
    BadKey(String),
    /// A sysctl cannot be read or written.
    #[error("cannot {action} /proc/sys/{key}")]
    Sysctl {
        /// Whether it was read or written.
        action: &'static str,
        /// The sysctl.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// A file that keeps what was before cannot be read, written or removed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The firewall refused.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

impl Cause {
    /// Returns whether we lack the right to do it.
    pub fn is_not_permitted(&self) -> bool {
        match self {
            Self::Netlink(error) => error.is_not_permitted(),
            Self::Sysctl { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    /// Returns what the user can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OtherKind { name, wanted: "bridge" } => {
                Some(format!("delete {name}, or set \"bridge\" to a free name"))
            }
            Self::OtherKind { name, .. } => Some(format!("delete {name}, or give it another name")),
            Self::HomeTaken { name, .. } => Some(format!("rename or remove {name}, then DEL again")),
            Self::NoKind { option, .. } => Some(format!("load the module, or use a kernel with {option}")),
            Self::Lacks { option, .. } => Some(format!("use a kernel with {option}")),
            Self::NoVxlan => Some("modprobe vxlan".into()),
            Self::VniTaken { holder: Some(holder), .. } => {
                Some(format!("ip link delete {holder} if nobody uses it, or give the network another VNI"))
            }
            Self::VniTaken { port, .. } => Some(format!(
                "ip -all netns exec ip -details link show type vxlan finds it; docker's overlay has port {port}, too"
            )),
            Self::PortTaken { port, .. } => Some(format!("ss --udp --listening --processes sport = {port}")),
            Self::BridgeFull(_) => Some("spread the containers over several networks".into()),
            Self::AddressConflict { dev, .. } => {
                Some(format!("remove the address from {dev}, or set \"forceAddress\" to true"))
            }
            Self::Firewall(error) => error.hint(),
            error if error.is_not_permitted() => Some("run it as root, or with CAP_NET_ADMIN".into()),
            _ => None,
        }
    }

    /// Whether the cause names the object itself, so that naming the step would only repeat it.
    fn speaks_for_itself(&self) -> bool {
        !matches!(self, Self::Netlink(_) | Self::Netns(_) | Self::NoContainer)
    }
}

/// A step that could not be made.
#[derive(Debug)]
pub struct ApplyError {
    /// The step.
    pub step: Box<Step>,
    /// Why not.
    pub cause: Cause,
}

/// Something that could not be removed.
#[derive(Debug)]
pub struct Problem {
    /// What should have gone.
    pub resource: Resource,
    /// Why it did not.
    pub cause: Cause,
}

/// Something that should not be the way it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(pub(crate) String);

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause.speaks_for_itself() {
            true => self.cause.fmt(out),
            false => write!(out, "cannot make {}", self.step.resource),
        }
    }
}

impl Error for ApplyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if self.cause.speaks_for_itself() { self.cause.source() } else { Some(&self.cause) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot remove {}", self.resource)
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}
