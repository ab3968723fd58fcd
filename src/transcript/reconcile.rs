//! What a start expects of the transcripts, compared when a session is first used.
//!
//! A start must make sure that every transcript holds what was published since the last checkpoint, but opening a
//! hundred thousand files takes seconds. So it only notes how each must end (`expected_tail.rs`). The file is compared
//! when the session is first appended to or read, and the worker compares the rest before it moves the checkpoint. A
//! transcript with another end is *stale*, and is repaired as such.
//!
//! Invariant: until it was compared, a session counts as lacking all of its expected tail.

use std::mem;

use crate::disk::Disk;
use crate::message::SessionId;

use super::expected_tail::ExpectedTails;
use super::{OpenTranscripts, Stale, Transcripts};

/// Longer expected tails are compared at the start, in bytes: no append should wait for that much to be read.
const LAZY_BYTES_MAX: u64 = 1 << 20;

impl<D: Disk> Transcripts<D> {
    /// Sets how the transcripts must end; to be called before the first append.
    pub fn expect(&self, expected_tails: ExpectedTails) {
        let long: Vec<SessionId> = expected_tails
            .0
            .iter()
            .filter(|(_, expected_tail)| expected_tail.bytes > LAZY_BYTES_MAX)
            .map(|(s, _)| s.clone())
            .collect();
        {
            let mut open = self.lock_open();
            open.newest =
                expected_tails.0.values().map(|expected_tail| expected_tail.last).max().unwrap_or(0).max(open.newest);
            open.expected_tails = expected_tails.0;
        }
        long.iter().for_each(|session| self.reconcile_one(session));
    }

    /// Compares all remaining expected tails, one at a time, so that appends go on between them. Returns how many
    /// transcripts ended otherwise.
    pub fn reconcile(&self) -> usize {
        let left: Vec<SessionId> = self.lock_open().expected_tails.keys().cloned().collect();
        let before = self.stale_count();
        left.iter().for_each(|session| self.reconcile_one(session));
        // Nothing is expected any more: frees the memory.
        let mut open = self.lock_open();
        if open.expected_tails.is_empty() {
            drop(mem::take(&mut open.expected_tails));
        }
        drop(open);
        self.stale_count().saturating_sub(before)
    }

    fn reconcile_one(&self, session: &SessionId) {
        self.reconcile_in(&mut self.lock_open(), session);
    }

    /// Compares one session's length and end, unless that was done; a transcript with another end is stale.
    pub(super) fn reconcile_in(&self, open: &mut OpenTranscripts<D>, session: &SessionId) {
        self.check_length(open, session);
        let Some(expected_tail) = open.expected_tails.remove(session) else { return };
        if let Some(stale) = open.stale.get_mut(session) {
            // It is repaired whatever the file holds.
            (stale.first, stale.last) = (stale.first.min(expected_tail.first), stale.last.max(expected_tail.last));
            return;
        }
        let file = self.disk.open_read(&self.path(session));
        match file.and_then(|file| expected_tail.is_of(&file)) {
            Ok(true) => return,
            Ok(false) => log::debug!("the transcript of {session} does not end as the journal does"),
            Err(e) => log::debug!("the transcript of {session} cannot be compared with the journal: {e}"),
        }
        open.stale.insert(session.clone(), Stale::of(expected_tail.first, expected_tail.last));
    }

    fn stale_count(&self) -> usize {
        self.lock_open().stale.len()
    }
}
