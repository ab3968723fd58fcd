//! Why the journal cannot be opened, and why a record was not taken.

use std::io;
use std::path::{Path, PathBuf};

use super::frame::HeaderError;

/// Why a record was not taken. After `Full` and `Unavailable` a crash may still bring it back, so retry with a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The disk, or the journal's share of it, is full. A retry succeeds once there is space.
    #[error("no room: {0}")]
    Full(String),
    /// The disk failed; the journal repairs itself. A retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// The draft of that index has a line longer than [`crate::message::LINE_BYTES_MAX`]. Nothing of the append was
    /// taken; a retry fails.
    #[error("the message is too long to be kept")]
    TooLong(usize),
    /// The draft of that index has a key that was used before with other content. Nothing of the append was taken; a
    /// retry fails.
    #[error("the key was used before with other content")]
    KeyConflict(usize),
}

impl AppendError {
    /// What a refusal is counted as, by [`AppendError::reason`].
    pub const REASONS: [&'static str; 4] = ["full", "unavailable", "too_long", "key_conflict"];

    /// Its index in [`AppendError::REASONS`].
    #[must_use]
    pub fn reason(&self) -> usize {
        match self {
            Self::Full(_) => 0,
            Self::Unavailable(_) => 1,
            Self::TooLong(_) => 2,
            Self::KeyConflict(_) => 3,
        }
    }

    /// The journal's folder is not where it was.
    pub(super) fn moved(folder: &Path) -> Self {
        let folder = folder.display();
        Self::Unavailable(format!(
            "{folder} was moved away, replaced or unmounted; put it back, or restart chatkeep to begin anew there"
        ))
    }

    /// What an error of the disk means for an append.
    pub(super) fn from_io(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(e.to_string()),
            _ => Self::Unavailable(format!("the journal cannot be written: {e}")),
        }
    }
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("{} is locked by another chatkeep (process {holder}); stop it, or use another --data", path.display())]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// The process id in the lock's file.
        holder: String,
    },
    /// A later version wrote it.
    #[error("{}: {source}", path.display())]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its version, or that of a record in it.
        source: HeaderError,
    },
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Adds the path to an error of the disk, or to a walk's that met a record of a later version.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |source| {
        let path = path.to_owned();
        match source.get_ref().and_then(|inner| inner.downcast_ref::<HeaderError>()) {
            Some(newer) => OpenError::Newer { path, source: *newer },
            None => OpenError::Io { path, source },
        }
    }
}
