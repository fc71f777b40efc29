//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use weft_model::IfName;
use weft_nft::{Family, Table};
use weft_state::StateError;
use weft_state::ports::PortsError;

/// A firewall change that was not made.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `ipMasqBackend` is none of the known names.
    #[error("unknown ipmasq backend {0:?}")]
    UnknownBackend(String),
    /// The kernel refused a change to its nf_tables ruleset.
    #[error("cannot change table {table}")]
    Nft {
        /// The table.
        table: Table,
        /// What the kernel said.
        source: weft_nft::Error,
    },
    /// The kernel lacks a part of nf_tables that a table needs.
    #[error("this kernel has not all of nf_tables that table {table} needs")]
    Unsupported {
        /// The table.
        table: Table,
        /// What the kernel does not know.
        source: weft_nft::Error,
    },
    /// A table of our name belongs to someone else.
    #[error("table {table} is not ours: its comment is {comment:?}")]
    NotOurs {
        /// The table.
        table: Table,
        /// Its comment.
        comment: String,
    },
    /// The spoof check was asked for without the container's address.
    #[error("no MAC address given for the spoof check of {0}")]
    NoMac(IfName),
    /// An iptables program ran and did not do what it was told.
    #[error("{program}: {problem}")]
    Refused {
        /// The program, `iptables-restore` for example.
        program: String,
        /// The first thing it said.
        problem: String,
    },
    /// An iptables program is missing or cannot be started.
    #[error("{program}: {problem}")]
    Iptables {
        /// The program, `iptables-restore` for example.
        program: String,
        /// Why.
        problem: String,
    },
    /// Another program is missing or failed.
    #[error("{program}: {problem}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it said.
        problem: String,
    },
    /// firewalld refused.
    #[error("firewalld: {problem}")]
    Firewalld {
        /// What it said.
        problem: String,
    },
    /// firewalld was asked for and is not running.
    #[error("firewalld is not running: nobody has its name on the system's D-Bus")]
    NoFirewalld,
    /// Ports that cannot be had, or books that cannot be kept.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A link is not there.
    #[error("no interface {0}: {desc}", desc = .1.desc())]
    NoLink(IfName, Errno),
    /// The host's links cannot be listed.
    #[error("cannot list the interfaces of this host")]
    Links(#[source] weft_netlink::Error),
    /// A route cannot be made or removed.
    #[error("cannot route ::1 by {link}")]
    Route {
        /// The link.
        link: IfName,
        /// What the kernel said.
        source: weft_netlink::Error,
    },
    /// A link's switch cannot be turned.
    #[error("cannot set {key}")]
    Switch {
        /// The sysctl.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// What is on record could not be written again.
    #[error("{what} could not be restored")]
    Unrestored {
        /// What it is: an attachment, a table, a chain.
        what: String,
        /// Why.
        source: Box<Self>,
    },
    /// An ownership record cannot be read or written.
    #[error("cannot keep the claim {path}")]
    Claim {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<StateError> for FirewallError {
    fn from(error: StateError) -> Self {
        Self::Ports(error.into())
    }
}

impl FirewallError {
    /// Returns the error for something on record that could not be written again.
    pub(crate) fn unrestored(what: impl ToString, source: Self) -> Self {
        Self::Unrestored { what: what.to_string(), source: source.into() }
    }

    /// Returns what the user can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownBackend(_) => {
                Some("leave \"ipMasqBackend\" out, or set it to \"nftables\" or \"iptables\"".into())
            }
            Self::Nft { source, .. } => source.hint().map(str::to_owned),
            Self::NotOurs { table, .. } => {
                Some(format!("rename it, or remove it with: nft delete table {table}"))
            }
            Self::Unsupported { table, .. } if table.family == Family::Bridge => {
                Some("load nf_tables_bridge (CONFIG_NF_TABLES_BRIDGE), or leave \"macspoofchk\" out".into())
            }
            Self::Unsupported { .. } => {
                Some("nat for the inet family needs Linux 5.2; set \"ipMasqBackend\" to \"iptables\"".into())
            }
            Self::Iptables { program, .. } => {
                Some(format!("install iptables so that {program} is in PATH, or use nftables"))
            }
            Self::Refused { program, .. } => Some(format!(
                "see that it knows the chains and conditions that the configuration names, and what it has: {}",
                program.replace("-restore", "-save")
            )),
            Self::Program { program, .. } => Some(format!(
                "see that {program} is in PATH and that it understands the conditions, or leave \"backend\" and \
                 conditions out"
            )),
            Self::NoFirewalld => {
                Some("start it (systemctl start firewalld), or choose another \"backend\"".into())
            }
            Self::Unrestored { source, .. } => source.hint(),
            Self::Firewalld { .. } => Some("see what it is up to: firewall-cmd --get-active-zones".into()),
            Self::Ports(PortsError::Taken { .. }) => Some("see who publishes what: weft port ls".into()),
            Self::Ports(_)
            | Self::NoLink(..)
            | Self::Links(_)
            | Self::Route { .. }
            | Self::Switch { .. }
            | Self::NoMac(_)
            | Self::Claim { .. } => None,
        }
    }
}

/// Writes all of this at once. Where that is refused, each half of it, and so on down to what is refused by itself, which is
/// returned: everything else is written, in no more steps than twice the doublings to all of it for each that is refused.
pub(crate) fn all_but_refused<'a, T>(
    all: &'a [T],
    write: &mut dyn FnMut(&[T]) -> Result<(), FirewallError>,
) -> Vec<(&'a T, FirewallError)> {
    if all.is_empty() {
        return Vec::new();
    }
    let Err(error) = write(all) else { return Vec::new() };
    if let [one] = all {
        return vec![(one, error)];
    }
    let (first, second) = all.split_at(all.len() / 2);
    let mut refused = all_but_refused(first, write);
    refused.extend(all_but_refused(second, write));
    refused
}

/// Returns whether the kernel said that it has no such feature.
pub(crate) fn is_lacking(errno: Errno) -> bool {
    matches!(errno, Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_costs_the_others_little() {
        let all: Vec<usize> = (0..1000).collect();
        for bad in [&[][..], &[999], &[17, 500, 501]] {
            let (mut steps, mut written): (_, Vec<usize>) = (0, Vec::new());
            let refused = all_but_refused(&all, &mut |some| {
                steps += 1;
                match some.iter().find(|one| bad.contains(one)) {
                    Some(one) => Err(FirewallError::UnknownBackend(one.to_string())),
                    None => {
                        written.extend(some);
                        Ok(())
                    }
                }
            });
            assert_eq!(refused.iter().map(|(one, _)| **one).collect::<Vec<_>>(), bad);
            assert!(refused.iter().all(|(one, error)| error.to_string().contains(&one.to_string())));
            assert_eq!(written.len(), all.len() - bad.len());
            assert!(steps <= 1 + 2 * 10 * bad.len(), "{steps} for {}", bad.len());
        }
    }
}
