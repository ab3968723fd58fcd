//! Why the journal cannot be opened.

use std::io;
use std::path::{Path, PathBuf};

use super::frame::HeaderError;

/// Why the journal cannot be opened; the caller names the fault and ends.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is locked by another chatkeep (process {holder}); stop it, or use another --data", path.display())]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// What the lock says of its holder.
        holder: String,
    },
    /// A later version wrote it.
    #[error("{}: {source}", path.display())]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its version.
        source: HeaderError,
    },
    /// The disk refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was to be read or written.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The disk's error, with where it happened.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |source| OpenError::Io { path: path.to_owned(), source }
}
