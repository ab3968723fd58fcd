//! What the worker knows of the transcripts: they are synced, and those that became stale are rebuilt from the journal.
//!
//! Invariant: a sequence counts as reached only when no transcript lacks it and every file that took it was synced under
//! its own name. After a failed sync nothing that it covered is believed: it is written anew.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::disk::Disk;
use crate::journal::{self, Entry, Journal, Record};
use crate::message::{Message, SessionId};
use crate::transcript::{Rebuilt, Transcripts};

use super::READ_BYTES;
#[cfg(test)]
use super::tests::Gate;

/// The first and the longest pause between two rebuilds that mend nothing: each reads the journal from the first missing
/// record on.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Lengths compared whenever the worker looks up, until all are: they cost 10 µs each.
const LENGTHS_AT_ONCE: usize = 4000;

/// See the module.
pub(super) struct TranscriptSink<D: Disk> {
    transcripts: Arc<Transcripts<D>>,
    journal: Arc<Journal<D>>,
    touched: HashSet<SessionId>,
    /// The sequences taken since the last good flush.
    span: Option<(u64, u64)>,
    /// Pauses after one that mended nothing.
    rebuilding: Backoff,
    /// Makes it slow, and fail.
    #[cfg(test)]
    pub(super) gate: Option<Gate>,
}

impl<D: Disk> TranscriptSink<D> {
    /// The sink of these transcripts.
    pub(super) fn new(transcripts: Arc<Transcripts<D>>, journal: Arc<Journal<D>>) -> Self {
        Self {
            transcripts,
            journal,
            touched: HashSet::new(),
            span: None,
            rebuilding: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            #[cfg(test)]
            gate: None,
        }
    }

    /// Everything taken is written anew for those sessions.
    fn distrust(&self, sessions: &[SessionId]) {
        let Some((first, last)) = self.span.filter(|_| !sessions.is_empty()) else { return };
        log::warn!("{} transcripts may not hold what they took and are written anew", sessions.len());
        for session in sessions {
            self.transcripts.mark_stale(session, first, last);
        }
    }

    /// A transcript that is to be written anew is not synced. What it took before it became stale was not synced either, if
    /// it was taken since the last flush: that is written anew as well, or the checkpoint would pass it.
    fn widen(&self) {
        let Some((first, last)) = self.span else { return };
        for (session, stale) in self.transcripts.all_stale() {
            if stale.suspect && stale.first > first && self.touched.contains(&session) {
                self.transcripts.mark_stale(&session, first, last);
            }
        }
    }

    /// The pause after a rebuild that mended nothing is over.
    #[cfg(test)]
    pub(super) fn a_moment_later(&mut self) {
        self.rebuilding.end_pause();
    }

    fn rebuild(&mut self) {
        // All that a start finds gone is written again in one walk over the journal.
        if self.rebuilding.pauses() || self.transcripts.first_lacking().is_none() || self.transcripts.check_lengths(0) {
            return;
        }
        let mut reader = None;
        let journal = &self.journal;
        let rebuilt =
            self.transcripts.rebuild(|after, take| feed(reader.get_or_insert_with(|| journal.reader(after)), take));
        let Rebuilt { mended, lacking, fault, .. } =
            rebuilt.unwrap_or_else(|e| Rebuilt { fault: Some(e), ..Rebuilt::default() });
        if mended > 0 {
            log::info!("{mended} transcripts that had become stale were rebuilt; {lacking} still lack something");
        }
        let failed = fault.filter(|_| mended == 0).map_or(Ok(()), Err);
        let works = "transcripts that became stale can be rebuilt again";
        self.rebuilding.take(failed, "transcripts that became stale cannot be rebuilt", works);
    }

    /// Whether a transcript lacks something: it is to be flushed, whatever was taken.
    pub(super) fn has_stale(&self) -> bool {
        self.transcripts.check_lengths(LENGTHS_AT_ONCE);
        self.transcripts.first_lacking().is_some()
    }

    /// Takes a record; it need not be safe until the flush.
    pub(super) fn take(&mut self, record: &Record) {
        #[cfg(test)]
        if let Some(gate) = &self.gate {
            gate.pass(record);
        }
        let first = self.span.map_or(record.sequence, |(first, _)| first);
        self.span = Some((first, record.sequence));
        if let Entry::Erasure { session, .. } = &record.entry {
            // Its file is gone, and with the folder's sync for good.
            self.touched.remove(session);
        }
        if let Some(message) = record.entry.message()
            && !self.touched.contains(message.session())
        {
            self.touched.insert(message.session().clone());
        }
    }

    /// Makes everything taken safe and returns the sequence up to which it is: `position`, or less while a transcript lags.
    ///
    /// # Errors
    /// The transcripts could not be synced, and nothing counts as safe. The worker flushes again, with everything taken
    /// since the last good flush.
    pub(super) fn flush(&mut self, position: u64) -> io::Result<u64> {
        #[cfg(test)]
        if let Some(gate) = self.gate.as_ref().filter(|gate| gate.fails) {
            return Err(gate.error());
        }
        // A start left it to us to look at the transcripts nobody has used since.
        self.transcripts.reconcile();
        self.widen();
        let synced = self.transcripts.sync(self.touched.iter());
        match &synced {
            Ok(unsafe_ones) => self.distrust(unsafe_ones),
            Err(_) => self.distrust(&self.touched.iter().cloned().collect::<Vec<_>>()),
        }
        self.touched.clear();
        self.span = None;
        synced?;
        self.rebuild();
        Ok(self.transcripts.first_lacking().map_or(position, |lacking| position.min(lacking - 1)))
    }
}

/// Hands every message published since the last call to `take`.
fn feed<D: Disk>(reader: &mut journal::Reader<D>, take: &mut dyn FnMut(u64, &Message)) -> io::Result<u64> {
    let mut progress = journal::Progress::More;
    while progress == journal::Progress::More {
        progress = reader.read(READ_BYTES, |record| {
            if let Some(message) = record.entry.message() {
                take(record.sequence, message);
            }
        })?;
    }
    Ok(reader.position())
}
