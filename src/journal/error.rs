//! Why the journal cannot be opened, and why a record was not taken.

use std::io;
use std::path::{Path, PathBuf};

use super::frame::HeaderError;

/// Why a record was not taken. To its sender this means "unknown": it may be there after a crash, so retry with a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The disk, or the journal's share of it, is full: room must be made.
    #[error("no room: {0}")]
    Full(String),
    /// The disk failed; the journal tries to go on by itself.
    #[error("{0}")]
    Unavailable(String),
    /// The draft of that index has a line beyond [`crate::message::LINE_BYTES_MAX`]. Nothing of the append was taken.
    #[error("the message is too long to be kept")]
    TooLong(usize),
    /// The draft of that index brings a key that came before with other content. Nothing of the append was taken.
    #[error("the key came before with other content")]
    KeyConflict(usize),
}

impl AppendError {
    /// The journal's folder is not where it was.
    pub(super) fn moved(folder: &Path) -> Self {
        let folder = folder.display();
        Self::Unavailable(format!(
            "{folder} was moved away, replaced or unmounted; put it back, or restart chatkeep to begin anew there"
        ))
    }

    /// What the disk's error means to who appends.
    pub(super) fn from_io(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(e.to_string()),
            _ => Self::Unavailable(format!("the journal cannot be written: {e}")),
        }
    }
}

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
