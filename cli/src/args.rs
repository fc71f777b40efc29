//! What a person may type.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::builder::OsStringValueParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ipnetwork::IpNetwork;
use weft_cni::address;
use weft_model::port::PublishSpec;
use weft_model::{IfName, Mac};

use crate::later::Later;

/// Container networks without a daemon
///
/// A container is a network namespace: a name made with `ip netns add`, the path of a namespace file, or pid:NUMBER.
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, infer_long_args = false, max_term_width = 100)]
pub(crate) struct Cli {
    /// Keep all state below this directory
    // An empty WEFT_ROOT is none, which clap's own parser of paths would refuse.
    #[arg(long, global = true, env = "WEFT_ROOT", value_name = "DIR", value_parser = OsStringValueParser::new())]
    pub(crate) root: Option<OsString>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create and remove networks, connect containers
    #[command(subcommand)]
    Network(Later<Network>),
    /// Publish ports of connected containers
    #[command(subcommand)]
    Port(Later<Port>),
    /// List every attachment: container, network, addresses, ports
    Ps(Later<Ps>),
    /// Say what is out of step, why, and the command that mends it
    Doctor(Later<Doctor>),
    /// Show drivers and their options
    #[command(subcommand)]
    Plugin(Later<Plugin>),
    /// Join hosts, so that containers on them share networks
    #[command(subcommand)]
    Overlay(Later<Overlay>),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Create a network and print its id
    Create(Later<Box<Create>>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Later<Ls>),
    /// Show everything about networks, as JSON
    Inspect(Later<Inspect>),
    /// Connect a container to a network
    Connect(Later<Box<Connect>>),
    /// Disconnect a container from a network
    Disconnect(Later<Disconnect>),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Later<Rm>),
    /// Remove all networks no container is connected to
    Prune(Later<Prune>),
    /// Write the rules of a network again, or of all: whoever took them away
    Reload {
        /// Name or id
        network: Option<String>,
    },
    /// Tell by the exit code whether a network exists
    Exists {
        /// Name or id
        network: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The network's name
    pub(crate) name: String,
    /// The driver (see `weft plugin ls`)
    #[arg(short, long)]
    pub(crate) driver: Option<String>,
    /// A subnet; a free one is chosen otherwise
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub(crate) subnet: Vec<IpNetwork>,
    /// The gateway of the subnet that contains it
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = ip)]
    pub(crate) gateway: Vec<IpAddr>,
    /// The part of a subnet that addresses are allocated from
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub(crate) ip_range: Vec<IpNetwork>,
    /// An address that is never allocated
    #[arg(long, value_name = "NAME=IP", value_delimiter = ',', value_parser = named_ip)]
    pub(crate) aux_address: Vec<(String, IpAddr)>,
    /// Give containers IPv4 addresses; unless only IPv6 subnets are given, they get them anyway
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv4: Option<bool>,
    /// Give containers IPv6 addresses, from a private /64 unless a subnet is given
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) ipv6: Option<bool>,
    /// Cut the network off from the outside
    #[arg(long)]
    pub(crate) internal: bool,
    /// A label
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// An option of the driver (see `weft plugin describe`)
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) opt: Vec<(String, String)>,
    /// A name server for the containers
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = ip)]
    pub(crate) dns: Vec<IpAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only those that match: name, id, driver, label, label!, scope, type, dangling, until
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
    /// `table`, `json`, a template such as '{{.Name}}', or `table` and a template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Show whole ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
    /// `json`, or a template such as '{{.Name}}'
    #[arg(short, long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The network's name or id
    pub(crate) network: String,
    /// The container: a name made with `ip netns add`, a path, or pid:NUMBER
    pub(crate) netns: String,
    /// The container's id, if not the one that follows from NETNS
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// The container's name on the network; whoever comes back by it gets its address back
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// One more name
    #[arg(long)]
    pub(crate) alias: Vec<String>,
    /// The IPv4 address
    #[arg(long, value_parser = ipv4)]
    pub(crate) ip: Option<Ipv4Addr>,
    /// The IPv6 address
    #[arg(long, value_parser = ipv6)]
    pub(crate) ip6: Option<Ipv6Addr>,
    /// The MAC address
    #[arg(long, visible_alias = "mac-address")]
    pub(crate) mac: Option<Mac>,
    /// The interface's name inside the container; eth0, eth1 ... otherwise
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<IfName>,
    /// A port to publish: [[IP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp|sctp][,from=CIDR]...
    #[arg(short, long, value_name = "PUBLISH")]
    pub(crate) publish: Vec<PublishSpec>,
    /// The network with the highest number provides the default gateway
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "NUMBER")]
    pub(crate) gw_priority: i64,
    /// A setting of the interface, such as net.ipv4.conf.IFNAME.forwarding=1
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) sysctl: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// The network's name or id
    pub(crate) network: String,
    /// The container, or its name on the network
    pub(crate) netns: String,
    /// The container's id, if not the one that follows from NETNS
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Forget the connection even if a plugin fails
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
    /// Disconnect containers first; a network that does not exist is no error
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Only those that match: label, label!, until
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) filter: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// `table`, `json`, a template such as '{{.Container}}', or `table` and a template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Show container ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Port {
    /// Publish ports of a connected container, and print what was chosen
    Publish(Later<Ports>),
    /// Publish ports no more; a container port alone means every port of the host that leads to it
    Unpublish(Later<Ports>),
    /// List published ports
    Ls(Later<PortLs>),
}

#[derive(Debug, Args)]
pub(crate) struct Ports {
    /// The container, or its name on a network
    pub(crate) netns: String,
    /// [[IP:][HOSTPORT[-END]]:]PORT[-END][/tcp|udp|sctp][,from=CIDR]...
    #[arg(required = true, value_name = "PUBLISH")]
    pub(crate) ports: Vec<PublishSpec>,
    /// The container's id, if not the one that follows from NETNS
    #[arg(long)]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PortLs {
    /// The container, or its name on a network; all otherwise
    pub(crate) netns: Option<String>,
    /// The container's id, if not the one that follows from NETNS
    #[arg(long, requires = "netns")]
    pub(crate) id: Option<String>,
    /// `table`, `json`, a template such as '{{.Port}}', or `table` and a template
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Show the ports only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Mend what can be mended without a decision, and say what is left
    #[arg(long)]
    pub(crate) fix: bool,
    /// Look at a node instead whose runtimes call weft's plugins in this folder (docs/drop-in.md)
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "/opt/cni/bin", conflicts_with = "fix")]
    pub(crate) drop_in: Option<PathBuf>,
    /// Where these runtimes have their networks
    #[arg(long, value_name = "FOLDER", default_value = "/etc/cni/net.d", requires = "drop_in")]
    pub(crate) networks: PathBuf,
    /// `table`, `json`, a template such as '{{.Mend}}', or `table` and a template
    #[arg(long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// List the plugins found
    Ls {
        /// `table`, `json`, a template such as '{{.Type}}', or `table` and a template
        #[arg(long)]
        format: Option<String>,
    },
    /// Show what a plugin is for and its options
    Describe {
        /// The plugin's type
        #[arg(value_name = "TYPE")]
        kind: String,
        /// `json`
        #[arg(short, long, value_parser = ["json"])]
        format: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Overlay {
    /// Make this host one of a cluster; the first one to join makes the cluster
    ///
    /// The hosts meet in etcd, which is told what each host has and never what its containers do. `weftd agent`
    /// must run on this host. What is given here is kept for its next starts.
    Join(Later<Box<Join>>),
    /// Make this host leave its cluster
    Leave {
        /// Leave although containers are connected, or etcd cannot be told
        #[arg(short, long)]
        force: bool,
    },
    /// Show how the agent, the cluster and its networks are
    Status {
        /// Show what Prometheus reads
        #[arg(long, conflicts_with = "format")]
        metrics: bool,
        /// `json`, or a template
        #[arg(long)]
        format: Option<String>,
    },
    /// List the other hosts
    Peers {
        /// Compare with the kernel, and fail if something is missing or left over
        #[arg(long)]
        verify: bool,
        /// `table`, `json`, or a template
        #[arg(long)]
        format: Option<String>,
    },
    /// Give up what a host has that will not come back; its blocks can be claimed after a quarantine
    Forget {
        /// Id, the start of it, or name
        #[arg(value_name = "HOST")]
        host: String,
        /// Forget it although it is alive
        #[arg(short, long)]
        force: bool,
    },
    /// Walk the way to a container's address, and name the link that is broken and the command that mends it
    Diag {
        /// An address on an overlay network
        #[arg(value_parser = ip)]
        address: IpAddr,
        /// The network, where several have the address
        #[arg(long)]
        network: Option<String>,
        /// `table`, `json`, or a template
        #[arg(long)]
        format: Option<String>,
    },
    /// Bring the kernel in step now, also without an agent
    Apply,
    /// Replace this host's keys while traffic flows
    Rotate,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Where etcd is, such as https://192.0.2.250:2379
    #[arg(long, value_name = "URL", value_delimiter = ',', required_unless_present = "dir")]
    pub(crate) etcd: Vec<String>,
    /// A directory in place of etcd, for hosts that are namespaces of one machine
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["etcd", "ca", "cert", "key"])]
    pub(crate) dir: Option<PathBuf>,
    /// Certificate of the authority that signed etcd's certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// This host's certificate
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The interface with the addresses that other hosts reach this one under
    #[arg(long, value_name = "INTERFACE", conflicts_with = "underlay_ip")]
    pub(crate) underlay_if: Option<String>,
    /// These addresses themselves, at most one for each family
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = ip)]
    pub(crate) underlay_ip: Vec<IpAddr>,
    /// This host's name; what `hostname` says otherwise
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A file with the secret that all hosts of the cluster have and etcd never gets
    #[arg(long, value_name = "FILE")]
    pub(crate) secret: Option<PathBuf>,
    /// Where the subnets of new networks come from; only the first host of a cluster decides
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub(crate) pool: Vec<IpNetwork>,
    /// Take over the underlay address of a host that is dead
    #[arg(long)]
    pub(crate) takeover: bool,
}

fn cidr(text: &str) -> Result<IpNetwork, String> {
    if text.is_empty() {
        return Err("a subnet is expected, such as 10.1.0.0/16".into());
    }
    address::parse_cidr(text).map_err(|error| error.to_string())
}

fn ip(text: &str) -> Result<IpAddr, String> {
    if text.is_empty() {
        return Err("an address is expected".into());
    }
    address::parse_ip(text).map_err(|error| error.to_string())
}

fn ipv4(text: &str) -> Result<Ipv4Addr, String> {
    match ip(text)? {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err("an IPv4 address is expected; --ip6 takes the other kind".into()),
    }
}

fn ipv6(text: &str) -> Result<Ipv6Addr, String> {
    match ip(text)? {
        IpAddr::V6(ip) => Ok(ip),
        IpAddr::V4(_) => Err("an IPv6 address is expected; --ip takes the other kind".into()),
    }
}

/// DOCKER: a key alone has an empty value.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    match key.is_empty() {
        true => Err("key=value is expected".into()),
        false => Ok((key.into(), value.into())),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = pair(text).map_err(|_| format!("invalid label '{text}': empty name"))?;
    match key.contains(char::is_whitespace) {
        true => Err(format!("label '{key}' contains whitespaces")),
        false => Ok((key, value)),
    }
}

fn named_ip(text: &str) -> Result<(String, IpAddr), String> {
    let (name, address) = pair(text).map_err(|_| "name=address is expected")?;
    Ok((name, ip(&address)?))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_are_checked_where_they_are_typed() {
        let parse = |args: &[&str]| Cli::try_parse_from(["weft"].iter().chain(args));
        assert!(parse(&["network", "create", "--subnet", "10.1.0.0/24,fd01::/64", "-o", "a", "n1"]).is_ok());
        assert!(parse(&["network", "connect", "--gw-priority", "-3", "n1", "red"]).is_ok());
        assert!(
            parse(&["network", "connect", "-p", "80", "-p", "[::1]:8080:80/udp,from=::1", "n1", "red"])
                .is_ok()
        );
        assert!(parse(&["port", "publish", "red", "8080:80", "90-99"]).is_ok());
        assert!(
            parse(&["overlay", "join", "--etcd", "https://a:2379,https://b:2379", "--underlay-if", "eth0"])
                .is_ok()
        );
        for bad in [
            &["network", "create", "--subnet", "10.1.0.0", "n1"][..],
            &["network", "create", "--subnet", "10.1.0.0/33", "n1"],
            &["network", "create", "--label", "=x", "n1"],
            &["network", "create", "--label", "a b=x", "n1"],
            &["network", "create", "--aux-address", "router", "n1"],
            &["network", "create"],
            &["network", "connect", "--ip", "fd01::1", "n1", "red"],
            &["network", "connect", "--mac", "02:00", "n1", "red"],
            &["network", "connect", "--interface", "a/b", "n1", "red"],
            &["network", "ls", "extra"],
            &["network", "connect", "-p", "8080:0", "n1", "red"],
            &["port", "publish", "red"],
            &["port", "publish", "red", "80/icmp"],
            &["port", "unpublish", "red", "90-80"],
            &["port", "ls", "--id", "x"],
            &["overlay", "join"],
            &["overlay", "join", "--etcd", "https://h:2379", "--cert", "c"],
            &["overlay", "diag", "10.1.0.2/16"],
            &["overlay", "status", "--metrics", "--format", "json"],
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }
}
