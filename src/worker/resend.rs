//! What an operator asked to be sent to MongoDB again, and how far that is.
//!
//! A request asks and the status tells; the drain does it (`worker/drain/resend.rs`). One task at a time, and none outlives the
//! process: whoever asked asks again, and what is there already is left alone. The lock is held for memory access only.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::message::{Clock, Timestamp};

/// What is to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum ResendTask {
    /// The dead letters.
    DeadLetters,
    /// What was recorded at that time or later, as far as journal and transcripts have it.
    Recorded {
        /// The time.
        since: Timestamp,
    },
}

/// Counts of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResendCounts {
    /// MongoDB stored them.
    pub stored: u64,
    /// They were there already, and were left as they are.
    pub already_stored: u64,
    /// MongoDB can never take them as they are. Dead letters stay.
    pub refused: u64,
    /// They have expired by `mongo.ttl_days`, and were not sent.
    pub expired: u64,
    /// Dead letters, and transcripts, that could not be read.
    pub unreadable: u64,
    /// Transcripts that have lost a part which the journal no longer has.
    pub lost: u64,
}

/// A task and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resend {
    /// What is sent.
    #[serde(flatten)]
    pub task: ResendTask,
    /// It has not ended.
    pub running: bool,
    /// When it was asked for.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Counts until now.
    #[serde(flatten)]
    pub counts: ResendCounts,
    /// Why MongoDB refused one of them, or why it ended early.
    pub reason: Option<String>,
    /// It has ended, and what was sent is everything that was ever recorded here; MongoDB has it.
    pub sent_all: bool,
}

/// The task under way, or the last one.
#[derive(Debug)]
pub struct Resends {
    clock: Clock,
    last: Mutex<Option<Resend>>,
}

impl Resends {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, last: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Resend>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a task; asked for while it is under way, it is the same one.
    ///
    /// # Errors
    /// Another task is under way. Nothing was changed; a retry works once that has ended.
    pub fn ask(&self, task: ResendTask) -> Result<Resend, Resend> {
        let mut last = self.lock();
        if let Some(running) = last.as_ref().filter(|last| last.running) {
            return if running.task == task { Ok(running.clone()) } else { Err(running.clone()) };
        }
        let (counts, reason) = (ResendCounts::default(), None);
        let began_at = self.clock.now();
        let asked = Resend { task, running: true, began_at, ended_at: None, counts, reason, sent_all: false };
        Ok(last.insert(asked).clone())
    }

    /// The task under way, or the last one.
    #[must_use]
    pub fn view(&self) -> Option<Resend> {
        self.lock().clone()
    }

    /// What is to be done.
    pub(super) fn wanted(&self) -> Option<ResendTask> {
        self.lock().as_ref().filter(|last| last.running).map(|last| last.task)
    }

    /// Notes what has come of it so far.
    pub(super) fn note(&self, counts: &ResendCounts, reason: Option<&str>) {
        if let Some(last) = &mut *self.lock() {
            last.counts = *counts;
            last.reason = last.reason.take().or_else(|| reason.map(str::to_owned));
        }
    }

    /// Notes that it has ended, early for that reason if there is one.
    pub(super) fn end(&self, early: Option<String>, sent_all: bool) {
        if let Some(last) = &mut *self.lock() {
            let ResendCounts { stored, already_stored, refused, .. } = last.counts;
            log::info!(
                "[CHAT WORKER] Sent to MongoDB again: {stored} stored, {already_stored} there already, {refused} refused"
            );
            early.iter().for_each(|reason| log::warn!("[CHAT WORKER] That ended early: {reason}"));
            last.reason = early.or(last.reason.take());
            (last.running, last.ended_at, last.sent_all) = (false, Some(self.clock.now()), sent_all);
        }
    }
}
