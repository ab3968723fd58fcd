//! How far the worker is, for the status. One thread writes it and any may read; its lock is held for memory access
//! only. Knows nothing of how progress comes about.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::message::Timestamp;

/// The shared, current [`Reached`].
#[derive(Debug, Default)]
pub struct Progress(Mutex<Reached>);

/// How far the worker is at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// Everything up to this sequence is at its destination: in MongoDB, or without it in the transcripts.
    pub drained: u64,
    /// Everything up to this sequence is in synced transcripts.
    pub transcribed: u64,
    /// MongoDB is disabled, and gets everything after this sequence when it is enabled again; `None` when it is enabled
    /// or lacks nothing.
    pub undelivered_after: Option<u64>,
    /// The time of the oldest message that was taken and is not synced in the sink yet.
    pub oldest_pending: Option<Timestamp>,
    /// When the sink was last synced.
    pub last_flush: Option<Timestamp>,
    /// MongoDB is or was in use: it may hold messages that are erased now.
    pub used_mongo: bool,
    /// Sessions with erasures that MongoDB has still to carry out.
    pub erasures_pending: usize,
    /// While MongoDB is disabled and was in use before: erasures after this sequence are not noted yet.
    pub erasures_noted: u64,
}

impl Progress {
    /// A copy of the progress.
    pub fn look(&self) -> Reached {
        *self.now()
    }

    /// The progress, to be changed.
    pub(super) fn now(&self) -> MutexGuard<'_, Reached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
