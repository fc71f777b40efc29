//! What can be wrong with a network namespace.

use std::io;
use std::path::{Path, PathBuf};

/// Why a network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is nothing at the path.
    #[error("network namespace {} does not exist", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The path names something else.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
    },
    /// The namespace's file cannot be opened.
    #[error("cannot open network namespace {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error("cannot enter network namespace {}", path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no thread to enter it with.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A new namespace cannot be made.
    #[error("cannot {action}")]
    Create {
        /// What was refused.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// The path is taken.
    #[error("{} exists already", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
}

impl NetnsError {
    pub(crate) fn open(path: &Path, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing { path },
            _ => Self::Open { path, source },
        }
    }

    pub(crate) fn create(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Create { action: action.into(), source: source.into() }
    }
}
