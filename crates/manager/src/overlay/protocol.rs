//! What is said on the agent's socket: one JSON object a line, in both directions.
//!
//! Whoever asks sends one [`Question`] and reads [`Answer`]s until one is not [`Answer::Progress`]. A number says which
//! form the lines have; both sides refuse one they do not know, and neither reads a line beyond its limit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Kind;

/// The form of the lines.
pub const VERSION: u32 = 1;
/// The longest question, in bytes: nobody has more to ask.
pub const LONGEST_QUESTION: u64 = 64 * 1024;
/// The longest answer, in bytes: a thousand hosts on a hundred networks, told one by one.
pub const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// A line to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The form of the line.
    pub version: u32,
    /// What is asked for.
    pub request: Request,
}

/// What the agent is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How it is; answered with [`Status`].
    Status,
    /// The same as Prometheus reads it; answered with a text.
    Metrics,
    /// Become a host of a cluster; answered with [`Status`].
    Join(Box<Join>),
    /// Stop being one.
    Leave(Leave),
    /// The other hosts; answered with a list of [`Peer`].
    Peers,
    /// What the kernel should have and has not, or has and should not; answered with a list of [`Difference`].
    Verify,
    /// Give up what a host has that will not come back.
    Forget(Forget),
    /// The way to an address, link by link; answered with a list of [`Link`].
    Diag {
        /// A container's address on an overlay network.
        address: IpAddr,
        /// The network, where several have that address.
        network: Option<String>,
    },
    /// Bring the kernel in step now; answered with the number of things that were not.
    Apply,
    /// Replace the host's keys.
    Rotate,
    /// Create a network on all hosts; answered with [`Made`].
    Create(Box<NewNetwork>),
    /// Remove a network from all hosts.
    Remove {
        /// Its name.
        network: String,
        /// Whether hosts that do not answer count as not using it.
        force: bool,
    },
    /// A network's blocks, and how full they are; answered with a list of [`BlockUsage`].
    Blocks {
        /// Its name.
        network: String,
    },
    /// Take single addresses out of blocks of others, for a container here.
    Borrow {
        /// The network's name.
        network: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// Who is to have them.
        container: String,
    },
    /// Claim another block: those there are will not do.
    NeedBlock {
        /// The network's name.
        network: String,
    },
}

/// A cluster to join.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Join {
    /// Where etcd is: `https://host:2379`, or `http://` on this machine only.
    pub endpoints: Vec<String>,
    /// The directory that all hosts of the cluster have the store in, in place of etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Certificate of the authority that signed etcd's.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The interface with the addresses that other hosts reach us under.
    pub underlay_interface: Option<String>,
    /// These addresses themselves, at most one for each family.
    pub underlay: Vec<IpAddr>,
    /// The host's name; what `hostname` says otherwise.
    pub name: Option<String>,
    /// A file with the secret that all hosts of the cluster have.
    pub secret: Option<PathBuf>,
    /// Subnets are taken from here: only the first host of a cluster is asked.
    pub pools: Vec<IpNetwork>,
    /// Whether to take the underlay address from a host that is not alive.
    pub takeover: bool,
}

impl Join {
    /// Returns where the store is.
    pub fn places(&self) -> Vec<String> {
        let dir = self.dir.iter().map(|dir| dir.display().to_string());
        self.endpoints.iter().cloned().chain(dir).collect()
    }
}

/// How to leave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leave {
    /// Whether to leave although containers are connected, or the store cannot be told.
    pub force: bool,
}

/// A host to forget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forget {
    /// Its id, the start of it, or its name.
    pub host: String,
    /// Whether to forget a host that is alive.
    #[serde(default)]
    pub force: bool,
}

/// A network to create on all hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// The subnets asked for.
    pub subnets: Vec<IpNetwork>,
    /// Whether containers get IPv4 addresses.
    pub ipv4: bool,
    /// Whether containers get IPv6 addresses.
    pub ipv6: bool,
    /// Whether it is cut off from the outside.
    pub internal: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options, under the driver's names for them.
    pub options: BTreeMap<String, String>,
    /// What this host uses otherwise, which free subnets keep clear of.
    pub avoid: Vec<IpNetwork>,
}

/// A network that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// Its name, under which it has a file now.
    pub network: String,
}

/// A line from the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What it is doing meanwhile, for people.
    Progress(String),
    /// It is done.
    Done(Value),
    /// It cannot be done.
    Refused(Refusal),
}

/// Why something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// What kind of failure it is.
    pub kind: Kind,
    /// The reason.
    pub why: String,
    /// The next command to type.
    pub hint: Option<String>,
}

impl Refusal {
    /// Returns a refusal without a hint.
    pub fn new(kind: Kind, why: impl ToString) -> Self {
        Self { kind, why: why.to_string(), hint: None }
    }

    /// Returns the refusal with the next command to type.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// How the agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// `unjoined`, `starting`, `ready`, `stale` (the kernel goes by what was known before the start) or `degraded`.
    pub state: String,
    /// Why, if there is anything to say.
    pub why: Option<String>,
    /// The agent's version.
    pub version: String,
    /// Whether the program was replaced since the agent started, as by an upgrade.
    pub replaced: bool,
    /// Its process.
    pub pid: u32,
    /// What carries packets of encrypted networks, by slot, where that is a program of ours.
    pub carriers: BTreeMap<String, String>,
    /// The cluster's id.
    pub cluster: Option<String>,
    /// This host.
    pub host: Option<Peer>,
    /// The store.
    pub store: StoreStatus,
    /// The other hosts that are alive.
    pub alive: usize,
    /// The other hosts that nobody has heard of lately; their routes stay.
    pub suspect: usize,
    /// The networks.
    pub networks: Vec<NetworkStatus>,
    /// Records that could not be used.
    pub bad: Vec<Bad>,
    /// What somebody should look at.
    pub alarms: Vec<String>,
    /// Things that were out of step in the kernel and were mended since the start.
    pub mended: u64,
}

/// How the connection with the store is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StoreStatus {
    /// Where it is: etcd's endpoints, or a directory.
    pub endpoints: Vec<String>,
    /// Whether it answers.
    pub connected: bool,
    /// The revision that is known.
    pub revision: i64,
    /// Seconds since it was last heard of.
    pub silent: Option<u64>,
    /// What was wrong last.
    pub error: Option<String>,
}

/// A network on this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// Its id in the cluster.
    pub id: String,
    /// Its number on the wire.
    pub vni: u32,
    /// Its subnets.
    pub subnets: Vec<IpNetwork>,
    /// Whether what leaves the host is encrypted.
    pub encrypted: bool,
    /// Whether packets within it pass by the firewalls of its hosts, always or as long as nobody else has a say.
    pub fastpath: bool,
    /// Whether they do as long as nobody else has a say.
    pub gated: bool,
    /// Why they do not on this host, if they do not.
    pub slow: Option<String>,
    /// Who has a say on this host, so that they do not.
    pub shut: Vec<String>,
    /// This host's blocks, and addresses it borrowed.
    pub blocks: Vec<IpNetwork>,
    /// Addresses of these blocks that are in use.
    pub used: u64,
    /// Addresses of these blocks that can be given out.
    pub size: u64,
    /// Why the network is not to be had on this host, if it is not.
    pub refused: Option<String>,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Peer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `alive`, `suspect`, or `self`.
    pub state: String,
    /// Where it is reached.
    pub underlay: Vec<IpAddr>,
    /// What fits through its underlay, in bytes.
    pub mtu: u32,
    /// Its blocks, by network.
    pub blocks: BTreeMap<String, Vec<IpNetwork>>,
    /// The tunnels to it, if there are encrypted networks.
    pub tunnels: Vec<Tunnel>,
    /// Its version of weft.
    pub version: String,
}

/// A tunnel to a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tunnel {
    /// The slot, `A` or `B`.
    pub slot: String,
    /// The peer's public key.
    pub key: String,
    /// Seconds since the last handshake.
    pub handshake: Option<u64>,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// A record of the store that could not be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bad {
    /// Its key.
    pub key: String,
    /// Why.
    pub why: String,
}

/// What the kernel should have and has not, or has and should not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The thing.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// One link of the way to an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// What it is: `network`, `route`, `neighbour`, `fdb`, `underlay`, `tunnel`, `handshake`.
    pub link: String,
    /// Whether it holds.
    pub sound: bool,
    /// What was found.
    pub found: String,
    /// The command that mends it.
    pub mend: Option<String>,
}

/// A block, and how full it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockUsage {
    /// The block.
    pub block: IpNetwork,
    /// `active`, `borrowed`, `quarantine` or `reserved`.
    pub state: String,
    /// Whose it is.
    pub host: String,
    /// The host's name.
    pub host_name: String,
    /// Addresses in use; nothing when its host is not heard of. Other hosts say it within half a minute.
    pub used: Option<u64>,
    /// Addresses that can be given out.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let requests = [
            Request::Status,
            Request::Join(Box::new(Join {
                endpoints: vec!["https://192.0.2.250:2379".into()],
                ..Join::default()
            })),
            Request::Diag { address: "10.1.0.2".parse().unwrap(), network: None },
            Request::Create(Box::new(NewNetwork {
                name: "blue".into(),
                ipv4: true,
                ..NewNetwork::default()
            })),
        ];
        for request in requests {
            let line =
                serde_json::to_string(&Question { version: VERSION, request: request.clone() }).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Question>(&line).unwrap().request, request);
        }
        assert_eq!(
            serde_json::to_string(&Request::NeedBlock { network: "n1".into() }).unwrap(),
            r#"{"need-block":{"network":"n1"}}"#
        );
    }
}
