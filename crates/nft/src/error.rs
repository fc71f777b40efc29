//! What the kernel may answer.

use nix::errno::Errno;

/// A transaction or a question the kernel did not accept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netfilter socket could be opened: the kernel has no nfnetlink, or a limit was hit.
    #[error("cannot open a netfilter socket: {}", .0.desc())]
    Open(Errno),
    /// The kernel does not tell us what becomes of the ruleset.
    #[error("cannot listen to changes of the ruleset: {}", .0.desc())]
    Subscribe(Errno),
    /// The socket failed.
    #[error("netfilter socket: {}", .0.desc())]
    Socket(Errno),
    /// The kernel refused one object of the transaction, and with it the transaction.
    #[error("{object}: {}", .errno.desc())]
    Refused {
        /// The object, as `nft` writes it: `chain inet weft postrouting`.
        object: String,
        /// Why.
        errno: Errno,
    },
    /// The kernel answered with something else than was asked for.
    #[error("unexpected answer to {0}")]
    Answer(String),
}

impl Error {
    /// Returns the kernel's reason, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open(errno)
            | Self::Subscribe(errno)
            | Self::Socket(errno)
            | Self::Refused { errno, .. } => Some(*errno),
            Self::Answer(_) => None,
        }
    }

    /// Returns what the user can do about it, if we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self.errno()? {
            Errno::EPERM | Errno::EACCES => Some("run as root or with CAP_NET_ADMIN"),
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP => Some(
                "this kernel lacks nf_tables for this family (CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_BRIDGE)",
            ),
            _ => None,
        }
    }
}
