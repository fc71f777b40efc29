//! Why a request was not carried out, and what to type next.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use weft_cni::{Code, Failure, Finding};
use weft_model::port::{PortRange, Protocol};
use weft_model::{ContainerId, NetworkName};
use weft_runtime::exec::ExecError;
use weft_runtime::find::FindError;
use weft_runtime::load::LoadError;
use weft_runtime::{CallError, ChainError, Problem};
use weft_state::StateError;

use crate::overlay::AgentError;
use crate::predefined;
use crate::routes::Route;
use crate::subnets::SubnetErrors;

const OTHER_INTERFACE: &str = "give another name with --interface";

/// The kinds of failure a script can tell apart by the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request was understood and could not be carried out.
    Failed,
    /// The request makes no sense.
    Usage,
    /// The thing does not exist.
    NotFound,
    /// Something else is in the way: in use, overlapping, taken.
    Conflict,
}

/// Why a request was not carried out.
///
/// DOCKER: where the engine has a text for it, the text begins as the engine's does; scripts match those.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such network.
    #[error("network {0} not found")]
    NoNetwork(String),
    /// An id prefix fits several networks.
    #[error("network {prefix} is ambiguous ({matches} matches found based on ID prefix)")]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// How many networks it fits.
        matches: usize,
    },
    /// A name that cannot be one.
    #[error("invalid {what} {name:?}: {why}")]
    BadName {
        /// What it should name.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The name is in use.
    #[error("network with name {0} already exists")]
    NameTaken(NetworkName),
    /// The name is one of ours.
    #[error("operation is not permitted on predefined {0} network")]
    Reserved(String),
    /// The network is one of ours.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Permanent(NetworkName),
    /// Containers are connected.
    #[error("network {network} has active endpoints ({})", Holders(holders))]
    InUse {
        /// The network.
        network: NetworkName,
        /// The containers and their names.
        holders: Vec<(ContainerId, String)>,
    },
    /// Containers are connected that another runtime connected.
    #[error("network {network} has active endpoints of another container runtime ({})", containers.join(", "))]
    Leased {
        /// The network.
        network: NetworkName,
        /// The containers' ids.
        containers: Vec<String>,
    },
    /// A network that is not ours was removed.
    #[error("network {0} is not weft's: what its plugins made on the host (a bridge, firewall rules) stays")]
    Foreign(NetworkName),
    /// A network was removed of which nothing is known.
    #[error(
        "nothing is known about network {network}: its bridge, its firewall rules and leases in {} may be left",
        leases.display()
    )]
    Unknown {
        /// The network.
        network: NetworkName,
        /// Where its leases are, if it has any.
        leases: PathBuf,
    },
    /// The subnets do not fit together.
    #[error("invalid network config: {0}")]
    Subnets(#[from] SubnetErrors),
    /// The subnet belongs to another network.
    #[error(
        "invalid pool request: Pool overlaps with other one on this address space: {subnet} conflicts with network {network} ({existing})"
    )]
    Overlap {
        /// The subnet asked for.
        subnet: IpNetwork,
        /// The network in the way.
        network: NetworkName,
        /// Its subnet.
        existing: IpNetwork,
    },
    /// The host reaches something else there.
    #[error("subnet {subnet} overlaps the host's route {route}")]
    Routed {
        /// The subnet asked for.
        subnet: IpNetwork,
        /// The route in the way.
        route: Route,
    },
    /// A part of a subnet, or an address of it, was set aside on a network whose hosts have blocks of it.
    #[error(
        "network {0}: each host of the cluster has its own part of the subnet, with a gateway of its own: --gateway, --ip-range and --aux-address have no place"
    )]
    SharedRange(NetworkName),
    /// Both families were refused.
    #[error("IPv4 or IPv6 must be enabled")]
    NoFamily,
    /// A subnet of a family that was refused.
    #[error("subnet {0} is given, but its family is refused (--{family}=false)", family = family(.0))]
    RefusedFamily(IpNetwork),
    /// The bridge belongs to another network.
    #[error("bridge {bridge} belongs to network {network}")]
    BridgeTaken {
        /// The bridge.
        bridge: String,
        /// The network.
        network: NetworkName,
    },
    /// No subnet is left.
    #[error("all predefined address pools have been fully subnetted")]
    Exhausted,
    /// There is no such driver.
    #[error("plugin {kind:?} not found: {why}")]
    NoDriver {
        /// The driver.
        kind: String,
        /// Where it was looked for.
        why: FindError,
    },
    /// A plugin that is no driver of networks.
    #[error("plugin {kind:?} cannot create networks: {why}")]
    NotADriver {
        /// The plugin.
        kind: String,
        /// Why not.
        why: &'static str,
    },
    /// A plugin that did not answer a question.
    #[error("plugin {kind}: {why}")]
    Plugin {
        /// The plugin.
        kind: String,
        /// What it did instead.
        why: String,
    },
    /// The driver refuses the network.
    #[error("driver {kind}: {failure}")]
    Refused {
        /// The driver.
        kind: String,
        /// What it said.
        failure: Failure,
    },
    /// The driver allows no further network.
    #[error("only one instance of {0:?} network is allowed")]
    SingleInstance(String),
    /// There is no such container.
    #[error("no such container: {what}: {why}")]
    NoContainer {
        /// The argument.
        what: String,
        /// What was looked for.
        why: String,
    },
    /// The container cannot be connected to this network.
    #[error("{why}")]
    Unattachable {
        /// The driver's reason.
        why: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The container is connected already.
    #[error("endpoint with name {name} already exists in network {network}")]
    Connected {
        /// The container's name.
        name: String,
        /// The network.
        network: NetworkName,
    },
    /// The container is not connected.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// The container.
        container: String,
        /// The network.
        network: NetworkName,
    },
    /// The interface's name is in use.
    #[error("interface {ifname} of container {container} is connected to network {network} already")]
    InterfaceTaken {
        /// The interface.
        ifname: String,
        /// The container.
        container: ContainerId,
        /// The network it belongs to.
        network: NetworkName,
    },
    /// A container that wants to be alone, and another network.
    #[error(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
    )]
    Private,
    /// The address is not one of the network's.
    #[error("invalid endpoint settings: no configured subnet contains IP address {0}")]
    OutsideSubnets(IpAddr),
    /// The container is connected to nothing.
    #[error("container {0} is not connected to any network")]
    Unconnected(String),
    /// No port can be published on the network.
    #[error("network {network} publishes no ports: {why}")]
    Unpublishable {
        /// The network.
        network: NetworkName,
        /// Why not.
        why: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// An address of the host where ports are not translated.
    #[error(
        "cannot publish {ports}: network {network} is routed: its ports are the container's own, at every address"
    )]
    RoutedHost {
        /// The ports.
        ports: String,
        /// The network.
        network: NetworkName,
    },
    /// The ports lead to no address of the container.
    #[error("cannot publish {ports}: container {container} has no address of that family")]
    Unreachable {
        /// The container.
        container: ContainerId,
        /// The ports as typed.
        ports: String,
    },
    /// One request has a port twice.
    #[error("cannot publish {0}: the same port of the host is asked for twice")]
    PublishedTwice(String),
    /// More ports of the host are left to be chosen than there are.
    #[error("cannot publish {ports}: that is {wanted} ports of the host to choose, and {among} has {there}")]
    NoRoom {
        /// The ports as typed.
        ports: String,
        /// How many are to be chosen, with what the request says before.
        wanted: usize,
        /// How many there are.
        there: usize,
        /// Which the kernel hands out.
        among: PortRange,
    },
    /// The container publishes the port already.
    #[error("port {ports}/{protocol} of {host} is published by {container} on {network}")]
    PortTaken {
        /// The ports that are published.
        ports: PortRange,
        /// Their protocol.
        protocol: Protocol,
        /// The host's address.
        host: IpAddr,
        /// Who publishes them.
        container: ContainerId,
        /// On which network.
        network: NetworkName,
    },
    /// Ports could not be published where the container's packets go out now.
    #[error("{0}")]
    Stranded(String),
    /// The container does not publish the port.
    #[error("container {container} {}", unpublished(ports, *whole))]
    NotPublished {
        /// The container.
        container: String,
        /// The ports as typed.
        ports: String,
        /// The ports that were published as a whole, and these among them.
        whole: Option<PortRange>,
    },
    /// A setting that no interface has.
    #[error("unrecognised network interface sysctl {0:?}")]
    Sysctl(String),
    /// A gateway priority outside the range.
    #[error("gateway priority {0} is not between -9999 and 9999")]
    Priority(i64),
    /// A filter that is none.
    #[error("invalid filter {0}")]
    Filter(String),
    /// The settings file is wrong.
    #[error("{}: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A network's file is wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A network's file has no room for what we keep in it.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A chain of plugins failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// What could not be put back.
    #[error("{0}")]
    Unmended(Finding),
    /// Several things did not work; the rest was done.
    #[error("{}", joined(.0))]
    Problems(Vec<Problem>),
    /// The agent of the cluster did not do it.
    #[error(transparent)]
    Agent(#[from] Box<AgentError>),
    /// A file could not be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The kernel's source of randomness could not be read.
    #[error("cannot make up a network id: {0}")]
    Random(std::io::Error),
}

/// Containers as docker lists them.
struct Holders<'a>(&'a [(ContainerId, String)]);

impl std::fmt::Display for Holders<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut comma = "";
        for (id, name) in self.0 {
            write!(out, "{comma}name:{name:?} id:\"{id}\"")?;
            comma = ", ";
        }
        Ok(())
    }
}

fn family(subnet: &IpNetwork) -> &'static str {
    if subnet.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn unpublished(ports: &str, whole: Option<PortRange>) -> String {
    match whole {
        None => format!("does not publish {ports}"),
        Some(whole) => format!("publishes {ports} as part of {whole}"),
    }
}

fn joined(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl Error {
    /// Returns what kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoNetwork(_)
            | Self::NoDriver { .. }
            | Self::NoContainer { .. }
            | Self::NotConnected { .. }
            | Self::Unconnected(_)
            | Self::NotPublished { .. } => Kind::NotFound,
            Self::Load(error) if error.is_missing() => Kind::NotFound,
            Self::NameTaken(_)
            | Self::InUse { .. }
            | Self::Leased { .. }
            | Self::Overlap { .. }
            | Self::Routed { .. }
            | Self::SingleInstance(_)
            | Self::BridgeTaken { .. }
            | Self::Reserved(_)
            | Self::Connected { .. }
            | Self::InterfaceTaken { .. }
            | Self::PortTaken { .. }
            | Self::NoRoom { .. }
            | Self::Private => Kind::Conflict,
            Self::BadName { .. }
            | Self::Ambiguous { .. }
            | Self::Subnets(_)
            | Self::OutsideSubnets(_)
            | Self::Unpublishable { .. }
            | Self::RoutedHost { .. }
            | Self::Unreachable { .. }
            | Self::PublishedTwice(_)
            | Self::NoFamily
            | Self::SharedRange(_)
            | Self::RefusedFamily(_)
            | Self::Sysctl(_)
            | Self::Priority(_)
            | Self::Filter(_) => Kind::Usage,
            Self::Refused { failure, .. } => refusal(failure),
            Self::Agent(error) => error.kind(),
            Self::Chain(ChainError::Plugin { problem, .. }) if is_missing(problem) => Kind::NotFound,
            Self::Chain(ChainError::Plugin { problem, .. }) => match problem.cause.failure() {
                // The network's configuration may be wrong: what was typed was right.
                Some(failure) if failure.code == Code::InvalidConfig => Kind::Failed,
                Some(failure) => refusal(failure),
                None => Kind::Failed,
            },
            _ => Kind::Failed,
        }
    }

    /// Returns the next command to type, where one helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoNetwork(_) => Some("weft network ls".into()),
            Self::NoDriver { .. } | Self::NotADriver { .. } => Some("weft plugin ls".into()),
            Self::InUse { network, holders } => {
                let (id, _) = holders.first()?;
                Some(format!("weft network disconnect {network} {id}, or weft network rm -f {network}"))
            }
            Self::Leased { .. } => {
                Some("disconnect them with the program that connected them, or delete stale leases".into())
            }
            Self::Overlap { network, .. } => {
                Some(format!("weft network inspect {network}, or leave --subnet out to get a free one"))
            }
            Self::Routed { .. } => Some("leave --subnet out to get a free one, or see `ip route`".into()),
            Self::Exhausted => Some("give a --subnet, or add a [[pool]] to weft.toml".into()),
            Self::NoContainer { what, .. } if what.parse::<ContainerId>().is_ok() => {
                Some(format!("ip netns add {what}"))
            }
            Self::Unattachable { hint, .. } | Self::Unpublishable { hint, .. } => hint.clone(),
            Self::RoutedHost { .. } => {
                Some("leave the host's address out, or say who may come in: -p PORT,from=CIDR".into())
            }
            Self::Unconnected(container) => Some(format!("weft network connect NETWORK {container}")),
            Self::NotPublished { container, .. } => Some(format!("weft port ls {container}")),
            Self::NoRoom { .. } => Some("say which ports of the host: -p FIRST-LAST:FIRST-LAST".into()),
            Self::PortTaken { ports, .. } => {
                Some(format!("weft port ls, or leave the host's port {ports} out to get a free one"))
            }
            Self::Connected { .. } | Self::NotConnected { .. } => Some("weft ps".into()),
            Self::Refused { failure, .. } => failure.details.clone(),
            Self::Agent(error) => error.hint(),
            Self::Unmended(finding) => Some(finding.mend.clone()),
            Self::InterfaceTaken { .. } => Some(OTHER_INTERFACE.into()),
            Self::Chain(ChainError::Plugin { problem, .. }) if is_missing(problem) => {
                Some("weft plugin ls".into())
            }
            Self::Chain(ChainError::Plugin { problem, .. }) => {
                let failure = problem.cause.failure()?;
                // CNI: the text of the reference plugins.
                let taken = failure.msg.starts_with("container veth name");
                failure.details.clone().or_else(|| taken.then(|| OTHER_INTERFACE.into()))
            }
            Self::Reserved(_) => Some("give the network another name".into()),
            Self::BridgeTaken { .. } => Some("give another name, or leave the option out to get one".into()),
            Self::State(StateError::Io { cause, .. }) => as_root(cause),
            Self::Load(LoadError::Read { source, .. }) => as_root(source),
            Self::Load(error) => damaged(error.path()),
            Self::Damaged { path, .. } => damaged(path),
            _ => None,
        }
    }
}

fn is_missing(problem: &Problem) -> bool {
    matches!(problem.cause, CallError::Missing(FindError::Missing { .. } | FindError::NoPaths))
}

fn as_root(cause: &std::io::Error) -> Option<String> {
    (cause.kind() == std::io::ErrorKind::PermissionDenied).then(|| "run it as root".into())
}

/// Returns what to do about a network's file that cannot be used.
fn damaged(path: &Path) -> Option<String> {
    let name: NetworkName = path.file_stem()?.to_str()?.parse().ok()?;
    Some(match predefined::is(&name) {
        true => format!("delete {}: it is made again when it is needed", path.display()),
        false => format!("mend the file, or weft network rm -f {name}"),
    })
}

/// Returns what kind of failure a plugin's error object stands for.
fn refusal(failure: &Failure) -> Kind {
    match failure.code {
        Code::InvalidConfig | Code::UNFIT => Kind::Usage,
        Code::UnknownContainer => Kind::NotFound,
        Code::TAKEN => Kind::Conflict,
        _ => Kind::Failed,
    }
}

impl Error {
    /// Returns the error of a plugin that did not run to its end.
    pub(crate) fn exec(kind: &str, error: &ExecError) -> Self {
        let why = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::Plugin { kind: kind.into(), why }
    }
}
