//! The worker's view of the transcripts: it syncs them, and rebuilds stale ones from the journal.
//!
//! Invariant: a sequence counts as reached only when no transcript lacks it and every file that took it was synced
//! under its own name. After a failed sync, everything that it covered is written again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::disk::Disk;
use crate::journal::{self, Entry, Journal, Record};
use crate::message::SessionId;
use crate::sessions::SessionIndex;
use crate::transcript::{Provenance, Rebuilt, Take, Transcripts};

use super::READ_BYTES;
#[cfg(test)]
use super::tests::Gate;

/// The first and the longest pause between two rebuilds that repair nothing: each reads the journal from the first
/// missing record on.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Transcript lengths compared each time the worker wakes up, until all are: 10 µs each.
const LENGTHS_AT_ONCE: usize = 4000;

/// Syncs and rebuilds transcripts for the worker.
pub(super) struct TranscriptSink<D: Disk> {
    transcripts: Arc<Transcripts<D>>,
    journal: Arc<Journal<D>>,
    /// Its file is written after the checkpoint.
    pub(super) sessions: Option<Arc<SessionIndex<D>>>,
    /// Each with the first sequence taken since the last good flush.
    touched: HashMap<SessionId, u64>,
    /// The first and last sequence taken since the last good flush.
    span: Option<(u64, u64)>,
    /// Pauses after a rebuild that repaired nothing.
    rebuilding: Backoff,
    /// Makes it slow, or fail.
    #[cfg(test)]
    pub(super) gate: Option<Gate>,
}

impl<D: Disk> TranscriptSink<D> {
    /// The sink of these transcripts.
    pub(super) fn new(transcripts: Arc<Transcripts<D>>, journal: Arc<Journal<D>>) -> Self {
        Self {
            transcripts,
            journal,
            sessions: None,
            touched: HashMap::new(),
            span: None,
            rebuilding: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            #[cfg(test)]
            gate: None,
        }
    }

    /// Writes the file of the index of sessions if that is due, or at a stop.
    ///
    /// # Errors
    /// The disk failed; the old file stands, and a start reads more of the journal, or counts the transcripts.
    pub(super) fn store_sessions(&self, stops: bool) -> io::Result<()> {
        let store = |sessions: &Arc<SessionIndex<D>>| sessions.store(self.journal.first_sequence(), stops);
        self.sessions.as_ref().map_or(Ok(()), store)
    }

    /// Whether there are transcripts, or may be.
    pub(super) fn has_any(&self) -> bool {
        self.transcripts.has_any().unwrap_or(true)
    }

    /// Marks these transcripts as stale from the first record taken since the last good flush.
    fn distrust(&self, sessions: &[SessionId]) {
        let Some((first, last)) = self.span.filter(|_| !sessions.is_empty()) else { return };
        log::warn!("a sync failed: {} transcripts are written anew", sessions.len());
        for session in sessions {
            self.transcripts.mark_stale(session, first, last);
        }
    }

    /// A stale transcript is rewritten, not synced. Records that it took since the last flush, before it became stale,
    /// were not synced either: they are rewritten as well, or the checkpoint would pass them.
    fn widen(&self) {
        let Some((first, last)) = self.span else { return };
        for (session, stale) in self.transcripts.all_stale() {
            if stale.suspect && stale.first > first && self.touched.contains_key(&session) {
                self.transcripts.mark_stale(&session, first, last);
            }
        }
    }

    /// Ends the pause after a rebuild that repaired nothing.
    #[cfg(test)]
    pub(super) fn a_moment_later(&mut self) {
        self.rebuilding.end_pause();
    }

    fn rebuild(&mut self) {
        // Everything that a start finds missing is rewritten in one walk over the journal.
        if self.rebuilding.pauses() || self.transcripts.first_lacking().is_none() || self.transcripts.check_lengths(0) {
            return;
        }
        let rebuilt = rebuild(&self.transcripts, &self.journal);
        let Rebuilt { mended, lacking, fault, .. } =
            rebuilt.unwrap_or_else(|e| Rebuilt { fault: Some(e), ..Rebuilt::default() });
        if mended > 0 {
            log::info!("rebuilt {mended} stale transcripts; {lacking} are still stale");
        }
        let failed = fault.filter(|_| mended == 0).map_or(Ok(()), Err);
        let works = "stale transcripts can be rebuilt again";
        self.rebuilding.take(failed, "cannot rebuild stale transcripts", works);
    }

    /// Whether a transcript lacks something: then a flush is needed even if nothing was taken.
    pub(super) fn has_stale(&self) -> bool {
        self.transcripts.check_lengths(LENGTHS_AT_ONCE);
        self.transcripts.first_lacking().is_some()
    }

    /// Takes a record; only the flush makes it safe.
    pub(super) fn take(&mut self, record: &Record) {
        #[cfg(test)]
        if let Some(gate) = &self.gate {
            gate.pass(record);
        }
        let first = self.span.map_or(record.sequence, |(first, _)| first);
        self.span = Some((first, record.sequence));
        if let Entry::Erasure { session, .. } = &record.entry {
            // Its file is removed; the sync of the folder makes that durable.
            self.touched.remove(session);
        }
        if let Some(message) = record.entry.message()
            && !self.touched.contains_key(message.session())
        {
            self.touched.insert(message.session().clone(), record.sequence);
        }
    }

    /// Syncs everything taken. Returns the sequence up to which everything is safe: `position`, or less while a
    /// transcript is stale.
    ///
    /// # Errors
    /// The transcripts could not be synced, and nothing counts as safe. The next flush covers everything taken since
    /// the last good one.
    pub(super) fn flush(&mut self, position: u64) -> io::Result<u64> {
        #[cfg(test)]
        if let Some(gate) = self.gate.as_ref().filter(|gate| gate.fails) {
            return Err(gate.error());
        }
        // A start leaves it to us to check the transcripts that no request has used since.
        self.transcripts.reconcile();
        self.widen();
        let synced = self.transcripts.sync_since(self.touched.iter().map(|(session, first)| (session, *first)));
        match &synced {
            Ok(unsafe_ones) => self.distrust(unsafe_ones),
            Err(_) => self.distrust(&self.touched.keys().cloned().collect::<Vec<_>>()),
        }
        self.touched.clear();
        self.span = None;
        synced?;
        self.rebuild();
        Ok(self.transcripts.first_lacking().map_or(position, |lacking| position.min(lacking - 1)))
    }
}

/// Rebuilds stale transcripts from the journal.
///
/// # Errors
/// Those of [`Transcripts::rebuild`].
pub fn rebuild<D: Disk>(transcripts: &Transcripts<D>, journal: &Journal<D>) -> io::Result<Rebuilt> {
    let mut reader = None;
    transcripts.rebuild(|after, take| feed(reader.get_or_insert_with(|| journal.reader(after)), take))
}

/// Hands every message published since the last call to `take`.
fn feed<D: Disk>(reader: &mut journal::Reader<D>, take: Take<'_>) -> io::Result<u64> {
    let mut progress = journal::ReadProgress::More;
    while progress == journal::ReadProgress::More {
        progress = reader.read(READ_BYTES, |record| {
            if let Some(message) = record.entry.message() {
                let provenance = if record.entry.is_import() { Provenance::Imported } else { Provenance::Recorded };
                take(record.sequence, message, provenance);
            }
        })?;
    }
    Ok(reader.position())
}
