//! What can go wrong with a file.

use std::io;
use std::path::{Path, PathBuf};

/// A file could not be used. The text always names the path and the reason.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried: `write`, `lock`, ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system answered.
        cause: io::Error,
    },

    /// The content makes no sense.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The content was written by a later version.
    #[error("{} has schema {found}, and this version reads schemas up to {known}: a newer weft wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The schema it claims.
        found: u64,
        /// The newest schema understood here.
        known: u64,
    },
}

impl StateError {
    /// Returns a closure for `map_err` that adds what was tried on which path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { action, path: path.into(), cause }
    }

    /// Returns whether a file or one of its directories does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    }
}
