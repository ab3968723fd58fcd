//! How far the worker is, told to whoever asks for the status. One thread writes it and any may read; its lock is held for
//! memory only. Knows nothing of how it comes about.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::message::Timestamp;

/// See the module.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Reached>);

/// What is reached, all at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// Everything up to this sequence is where it is to go: in MongoDB, or without it in the transcripts.
    pub drained: u64,
    /// Everything up to this sequence is in the transcripts, synced.
    pub transcribed: u64,
    /// MongoDB is switched off, and everything behind this sequence is delivered to it once it is switched on again; `None`
    /// when it is in use, or lacked nothing.
    pub undelivered_after: Option<u64>,
    /// The time of the oldest message that was taken and is not yet safe in the sink.
    pub oldest_pending: Option<Timestamp>,
    /// When the sink was last made safe.
    pub last_flush: Option<Timestamp>,
    /// MongoDB is or was in use: it may hold what is erased now.
    pub used_mongo: bool,
    /// Sessions that are erased and noted for MongoDB, which has still to delete them.
    pub erasures_pending: usize,
    /// While MongoDB is switched off and was in use before: what is erased behind this sequence is not noted yet.
    pub erasures_noted: u64,
}

impl Progress {
    /// What is reached.
    pub fn look(&self) -> Reached {
        *self.now()
    }

    /// The same, to be changed.
    pub(super) fn now(&self) -> MutexGuard<'_, Reached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
