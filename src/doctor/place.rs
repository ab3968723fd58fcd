//! Where the data is, why it cannot be examined, and the messages of its journal.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::Config;
use crate::disk::Disk;
use crate::journal::{Journal, ReadProgress};
use crate::layout;
use crate::message::{Clock, Expiry, Id, Timestamp};
use crate::transcript::{Provenance, Take};

/// Bytes of one read of the journal.
const READ_BYTES: usize = 1 << 20;

/// Where the data is.
#[derive(Clone, Debug)]
pub struct DataLocation {
    /// The folder that `data/` means.
    pub data: PathBuf,
    /// The configuration.
    pub config: Config,
}

impl DataLocation {
    pub(super) fn journal(&self) -> &Path {
        &self.config.journal.path
    }

    pub(super) fn transcripts(&self) -> &Path {
        &self.config.mongo.cache.disk_path
    }

    /// The file of messages that a repair took out of the quarantine.
    pub(super) fn recovered(&self) -> PathBuf {
        layout::recovered(self.journal())
    }

    /// Messages with ids before this one have expired.
    pub(super) fn oldest_shown(&self, now: Timestamp) -> Option<Id> {
        Expiry::new(self.config.mongo.ttl, Clock::fixed(Arc::new(AtomicU64::new(now.micros())))).bound()
    }
}

/// Why the data cannot be examined or repaired.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// A server is running.
    #[error("{} is in use by process {holder}; stop it first", path.display())]
    InUse {
        /// The journal's folder.
        path: PathBuf,
        /// The process id in the lock's file.
        holder: String,
    },
    /// There is no data.
    #[error("there is no data folder {}: name it with --data or --config", .0.display())]
    Missing(PathBuf),
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A repair would change files that it does not understand.
    #[error("nothing was changed: {0}")]
    Unrepairable(String),
    /// A repair failed on the way; what was repaired stays repaired, and it can be run again.
    #[error("the repair could not go on, and can be run again: {0}")]
    Unfinished(String),
}

/// Hands every message of those sequences to `take`, with its sequence, unless it is erased or older than `oldest`.
///
/// # Errors
/// The journal could not be read. `take` may have had some of the messages; another call starts over.
pub(super) fn messages<D: Disk>(
    journal: &Journal<D>,
    sequences: &RangeInclusive<u64>,
    oldest: Option<Id>,
    take: Take<'_>,
) -> io::Result<()> {
    let mut reader = journal.reader(sequences.start().saturating_sub(1));
    let mut progress = ReadProgress::More;
    while progress == ReadProgress::More && reader.position() < *sequences.end() {
        progress = reader.read(READ_BYTES, |record| {
            let message = record.entry.message().filter(|message| oldest.is_none_or(|oldest| message.id() >= oldest));
            if let Some(message) = message.filter(|_| sequences.contains(&record.sequence)) {
                let provenance = if record.entry.is_import() { Provenance::Imported } else { Provenance::Recorded };
                take(record.sequence, message, provenance);
            }
        })?;
    }
    Ok(())
}
