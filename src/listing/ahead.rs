//! What a start reads of the list while the journal recovers: the file of the index, and the names of the transcripts.
//!
//! What comes into being meanwhile stands in the journal behind the file, or is published. Knows nothing of the list.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::disk::{Disk, RealDisk};
use crate::message::SessionId;
use crate::sessions::{Covered, IndexBase};
use crate::thread;
use crate::transcript::Transcripts;

/// What a start can read of the list before the journal is open.
pub struct Ahead {
    pub(super) file: io::Result<(IndexBase, Covered)>,
    /// Sessions that have a transcript and are not in the file.
    pub(super) others: io::Result<Vec<SessionId>>,
}

impl Ahead {
    /// The file of the index as it was read, and the names in the folder of the transcripts.
    pub(super) fn with<D: Disk>(file: io::Result<(IndexBase, Covered)>, transcripts: &Transcripts<D>) -> Self {
        let is_known = |name: &str| file.as_ref().is_ok_and(|(base, _)| base.holds(name));
        let others = transcripts.sessions_except(&is_known);
        Self { file, others }
    }
}

/// Begins to read it on a thread of its own. `None`: there is one processor, which the recovery needs, or no thread.
pub fn read_ahead(path: PathBuf, transcripts: &Arc<Transcripts>) -> Option<JoinHandle<Ahead>> {
    let transcripts = transcripts.clone();
    let read = move || Ahead::with(IndexBase::read(&RealDisk, &path), &transcripts);
    let is_alone = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
    if is_alone { None } else { thread::spawn("sessions-ahead", read).ok() }
}
