//! Where the data is, why nothing can be said of it, and the messages of its journal.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::Config;
use crate::disk::Disk;
use crate::journal::{Journal, Progress};
use crate::layout;
use crate::message::{Clock, Expiry, Id, Message, Timestamp};

/// How much of the journal is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Where the data is.
#[derive(Clone, Debug)]
pub struct DataLocation {
    /// What `data/` means.
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

    /// What a repair took out of the quarantine stands here.
    pub(super) fn recovered(&self) -> PathBuf {
        layout::recovered(self.journal())
    }

    /// The id that everything unexpired is at or behind.
    pub(super) fn oldest_shown(&self, now: Timestamp) -> Option<Id> {
        Expiry::new(self.config.mongo.ttl, Clock::fixed(Arc::new(AtomicU64::new(now.micros())))).bound()
    }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A server runs.
    #[error("{} is in use by process {holder}; stop it first", path.display())]
    InUse {
        /// The journal's folder.
        path: PathBuf,
        /// What the lock says of its holder.
        holder: String,
    },
    /// There is no data.
    #[error("there is no data folder {}: name it with --data or --config", .0.display())]
    Missing(PathBuf),
    /// The disk refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A repair would touch what it does not understand.
    #[error("nothing was changed: {0}")]
    Unrepairable(String),
    /// A repair ended before it was done; what it had done stays done, and it can be run again.
    #[error("the repair could not go on, and can be run again: {0}")]
    Unfinished(String),
}

/// Hands every message of those sequences to `take` that is neither erased nor older than `oldest`, with its own.
///
/// # Errors
/// The journal could not be read. `take` may have had some of the messages; another call starts over.
pub(super) fn messages<D: Disk>(
    journal: &Journal<D>,
    sequences: &RangeInclusive<u64>,
    oldest: Option<Id>,
    take: &mut dyn FnMut(u64, &Message),
) -> io::Result<()> {
    let mut reader = journal.reader(sequences.start().saturating_sub(1));
    let mut progress = Progress::More;
    while progress == Progress::More && reader.position() < *sequences.end() {
        progress = reader.read(READ_BYTES, |record| {
            let message = record.entry.message().filter(|message| oldest.is_none_or(|oldest| message.id() >= oldest));
            if let Some(message) = message.filter(|_| sequences.contains(&record.sequence)) {
                take(record.sequence, message);
            }
        })?;
    }
    Ok(())
}
