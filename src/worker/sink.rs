//! The sink without a database: the transcripts, synced; those that fell behind are rebuilt from the journal.
//!
//! Invariant: a sequence counts as reached only when no transcript lacks it and every file that took it was synced under
//! its own name. After a failed sync nothing that it covered is believed: it is written anew.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::{Disk, RealDisk};
use crate::journal::{self, Entry, Journal, Record};
use crate::message::{Message, SessionId};
use crate::transcript::{Rebuilt, Transcripts};

use super::{READ_BYTES, Sink};

/// The longest pause between two rebuilds that mend nothing: each reads the journal from the first missing record on.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Lengths compared whenever the worker looks up, until all are: they cost 10 µs each.
const LENGTHS_AT_ONCE: usize = 4000;

/// See the module.
pub struct TranscriptSink<D: Disk = RealDisk> {
    transcripts: Arc<Transcripts<D>>,
    journal: Arc<Journal<D>>,
    touched: HashSet<SessionId>,
    /// The sequences taken since the last good flush.
    span: Option<(u64, u64)>,
    /// The last rebuild mended nothing: the next one comes then, after a pause of this length.
    pause: Option<(Instant, Duration)>,
}

impl<D: Disk> TranscriptSink<D> {
    /// The sink of these transcripts.
    #[must_use]
    pub fn new(transcripts: Arc<Transcripts<D>>, journal: Arc<Journal<D>>) -> Self {
        Self { transcripts, journal, touched: HashSet::new(), span: None, pause: None }
    }

    /// Everything taken is written anew for those sessions.
    fn distrust(&self, sessions: &[SessionId]) {
        let Some((first, last)) = self.span.filter(|_| !sessions.is_empty()) else { return };
        log::warn!("{} transcripts may not hold what they took and are written anew", sessions.len());
        for session in sessions {
            self.transcripts.mark_behind(session, first, last);
        }
    }

    /// A transcript that is to be written anew is not synced. What it took before it fell behind was not synced either, if
    /// it was taken since the last flush: that is written anew as well, or the checkpoint would pass it.
    fn widen(&self) {
        let Some((first, last)) = self.span else { return };
        for (session, behind) in self.transcripts.all_behind() {
            if behind.distrusted && behind.first > first && self.touched.contains(&session) {
                self.transcripts.mark_behind(&session, first, last);
            }
        }
    }

    /// The pause after a rebuild that mended nothing is over.
    #[cfg(test)]
    pub(super) fn a_moment_later(&mut self) {
        self.pause = None;
    }

    fn rebuild(&mut self) {
        let waits = self.pause.is_some_and(|(until, _)| Instant::now() < until);
        // All that a start finds gone is written again in one walk over the journal.
        if waits || self.transcripts.first_lacking().is_none() || self.transcripts.check_lengths(0) {
            return;
        }
        let mut reader = None;
        let journal = &self.journal;
        let rebuilt =
            self.transcripts.rebuild(|after, take| feed(reader.get_or_insert_with(|| journal.reader(after)), take));
        let Rebuilt { mended, lacking, fault } =
            rebuilt.unwrap_or_else(|e| Rebuilt { fault: Some(e), ..Rebuilt::default() });
        if mended > 0 {
            log::info!("{mended} transcripts that had fallen behind were rebuilt; {lacking} still lack something");
        }
        self.pause = match fault {
            Some(fault) if mended == 0 => {
                let pause = self.pause.map_or(Duration::from_millis(500), |(_, pause)| (pause * 2).min(PAUSE_MAX));
                if self.pause.is_none() {
                    log::warn!("transcripts that fell behind cannot be rebuilt, trying on: {fault}");
                }
                Some((Instant::now() + pause, pause))
            }
            _ => None,
        };
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

impl<D: Disk> Sink for TranscriptSink<D> {
    fn is_behind(&self) -> bool {
        self.transcripts.check_lengths(LENGTHS_AT_ONCE);
        self.transcripts.first_lacking().is_some()
    }

    fn take(&mut self, record: &Record) {
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

    fn flush(&mut self, position: u64) -> io::Result<u64> {
        // A start left it to us to look at the transcripts nobody has used since.
        self.transcripts.settle();
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
