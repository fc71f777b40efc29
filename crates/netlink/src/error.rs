//! What the kernel, or the way to it, refuses.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

/// Why a request had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel refused the request.
    #[error("{}", refusal(*errno, message.as_deref()))]
    Refused {
        /// The error number.
        errno: Errno,
        /// The kernel's own words, where it has any (NLMSGERR_ATTR_MSG).
        message: Option<String>,
    },
    /// The netlink socket cannot be used.
    #[error("cannot {action} a netlink socket: {}", lower(errno.desc()))]
    Socket {
        /// What was attempted.
        action: &'static str,
        /// The error number.
        errno: Errno,
    },
    /// What came back is no netlink message, or lacks what it must have.
    #[error("the kernel's answer is malformed: {0}")]
    Malformed(&'static str),
    /// A program that had to do the work did not.
    #[error("ip tuntap: {0}")]
    Program(String),
    /// What was waited for did not happen.
    #[error("{state}, even after {limit:?}")]
    Timeout {
        /// How things stand instead.
        state: String,
        /// How long was waited.
        limit: Duration,
    },
}

impl Error {
    pub(crate) fn socket(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::Socket { action, errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()) }
    }

    pub(crate) fn refused(errno: Errno) -> Self {
        Self::Refused { errno, message: None }
    }

    /// Returns the kernel's error number, if it is the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Returns what the kernel says beside its error number, if it does.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => message.as_deref(),
            _ => None,
        }
    }

    /// Returns whether the thing is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Returns whether the thing, or what it belongs to, is not there.
    pub fn is_missing(&self) -> bool {
        // ENODEV and ENXIO: no such link; ESRCH: no such route; EADDRNOTAVAIL: no such address; ENOENT: no such entry.
        let missing = [Errno::ENODEV, Errno::ENXIO, Errno::ESRCH, Errno::EADDRNOTAVAIL, Errno::ENOENT];
        self.errno().is_some_and(|errno| missing.contains(&errno))
    }

    /// Returns whether we lack the right to ask.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self.errno(), Some(Errno::EPERM | Errno::EACCES))
    }

    /// Returns whether the kernel does not know the kind of link that was asked for.
    ///
    /// KERNEL: it says so when it has no driver for it (`rtnl_newlink`, net/core/rtnetlink.c). The same number with
    /// other words is a driver's: a lower link that carries no VLANs, say.
    pub fn is_unknown_kind(&self) -> bool {
        match self {
            Self::Refused { errno: Errno::EOPNOTSUPP, message } => {
                message.as_deref().is_none_or(|message| message.starts_with("Unknown device type"))
            }
            _ => false,
        }
    }

    /// Returns whether the kernel lacks the feature.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT))
    }
}

fn refusal(errno: Errno, message: Option<&str>) -> String {
    let plain = lower(errno.desc());
    match message {
        Some(message) => format!("{plain}: {}", message.trim_end_matches('.')),
        None => plain,
    }
}

/// Our errors start in lower case; the C library's do not.
fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
