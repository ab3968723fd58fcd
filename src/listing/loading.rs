//! Brings the index up after a start: from its file and the journal, or else from the transcripts.
//!
//! The file counts every record up to the sequence that it names; the journal has the rest. If the journal no longer has the
//! record of that sequence, or has another one there, the file counts for nothing, and the transcripts are counted.
//! Transcripts that are stale or cannot be read then are counted again once they can; until then the list is not whole.
//!
//! Without `fsync: always` a power cut may leave messages in transcripts that the journal has lost. So then every entry is
//! compared with its transcript after a start, in steps; meanwhile the list is whole, but its order may be off.

use std::io;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::disk::Disk;
use crate::journal::{Entry, EntryView, ReadProgress};
use crate::message::SessionId;
use crate::sessions::{Covered, IndexBase};

use super::ahead::Ahead;
use super::{Renew, SessionList};

/// Bytes of one read of the journal.
const READ_BYTES: usize = 1 << 20;
/// The first and the longest pause before the transcripts are counted again.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Entries that are compared in one step, and the pause between two.
const STEP_SESSIONS: usize = 200;
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// How often sessions are looked at that have expired, and records that are about to.
const MAINTAIN_INTERVAL: Duration = Duration::from_secs(600);

impl<D: Disk> SessionList<D> {
    /// Brings the index up, and then keeps the list in order until the sender of `stop` is dropped.
    pub fn run(&self, stop: &Receiver<()>, renew: &Renew) {
        let mut pause = PAUSE_FIRST;
        while !self.load() {
            if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        let rests = || stop.recv_timeout(STEP_PAUSE) == Err(RecvTimeoutError::Timeout);
        if !self.journal_has_all && !self.compare_all(&rests) {
            return;
        }
        while stop.recv_timeout(MAINTAIN_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            self.maintain(renew);
        }
    }

    /// Compares every entry with its transcript. `rests` returns, after a pause, whether to go on; so does this.
    pub fn compare_all(&self, rests: &dyn Fn() -> bool) -> bool {
        let mut after = None;
        loop {
            let found = self.index.newest(STEP_SESSIONS, after.as_ref(), &|_, _| true);
            let Some((last, entry)) = found.last() else { return true };
            after = Some((entry.updated, last.as_str().to_owned()));
            for (session, entry) in &found {
                if let Err(e) = self.verified(session, *entry) {
                    log::debug!("session {session} cannot be compared for the list: {e}");
                }
            }
            if !rests() {
                return false;
            }
        }
    }

    /// Brings the index up to everything that was published before it was told of records. Returns whether it is whole.
    pub fn load(&self) -> bool {
        if self.index.is_whole(Duration::ZERO) {
            return true;
        }
        let begun = self.index.begins_after();
        let ahead = self.ahead.lock().expect("no holder panics").take().and_then(|ahead| ahead.join().ok());
        let Ahead { file, others } = ahead.unwrap_or_else(|| Ahead::with(self.index.load(), &self.transcripts));
        match self.brought_up(file, begun) {
            Ok(Some((mut base, covered, filed))) => {
                // Somebody may have put transcripts back.
                let is_whole = match others {
                    Ok(others) => self.count(&mut base, others),
                    Err(e) => {
                        log::warn!("the transcripts cannot be listed for the list of sessions: {e}");
                        false
                    }
                };
                self.index.adopt(base, covered, is_whole, filed);
                return is_whole;
            }
            Ok(None) if begun == 0 => {}
            Ok(None) => log::info!("the list of sessions is made again from the transcripts"),
            Err(e) => log::info!("the list of sessions is made again from the transcripts: {e}"),
        }
        // A transcript that is compared and not stale holds everything published.
        self.transcripts.reconcile();
        let is_current = self.transcripts.first_lacking().is_none();
        let mut base = IndexBase::default();
        let all = self.transcripts.sessions_except(&|_| false).map(|all| self.count(&mut base, all));
        match all.and_then(|all| Ok((all && is_current, self.last_record(begun)?))) {
            Ok((is_whole, covered)) => {
                self.index.adopt(base, covered, is_whole, 0);
                is_whole
            }
            Err(e) => {
                log::warn!("the transcripts cannot be counted for the list of sessions: {e}");
                false
            }
        }
    }

    /// What the file has and what follows it in the journal up to `until`; `None` if there is no file. With the last record
    /// counted, and the last one that the file counts.
    fn brought_up(
        &self,
        file: io::Result<(IndexBase, Covered)>,
        until: u64,
    ) -> io::Result<Option<(IndexBase, Covered, u64)>> {
        let (mut base, filed) = match file {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut covered = None;
        self.read_journal(filed.sequence.saturating_sub(1), until, &mut |sequence, entry| {
            let read = Covered { sequence, id: entry.id() };
            // The first is the last that the file counts, or the journal is not the same any more.
            if covered.is_none() {
                covered = Some(read).filter(|read| *read == filed);
                return covered.is_some();
            }
            covered = Some(read);
            match entry {
                EntryView::Other(Entry::Erasure { id, session }) => base.erased(session, *id),
                entry => entry.message().into_iter().for_each(|message| base.message(message)),
            }
            true
        })?;
        let other = || io::Error::new(io::ErrorKind::InvalidData, "the journal does not reach back to its file");
        Ok(Some((base, covered.ok_or_else(other)?, filed.sequence)))
    }

    /// Hands the records after `after` up to `until` to `take`, until it returns false.
    fn read_journal(
        &self,
        after: u64,
        until: u64,
        take: &mut dyn FnMut(u64, &EntryView<'_>) -> bool,
    ) -> io::Result<()> {
        let (mut reader, mut goes_on) = (self.journal.reader(after), true);
        while goes_on && reader.position() < until {
            let progress = reader.look(READ_BYTES, |sequence, entry| {
                goes_on = goes_on && sequence <= until && take(sequence, entry);
            })?;
            if progress == ReadProgress::CaughtUp {
                break;
            }
        }
        Ok(())
    }

    /// The last record up to `until`, as far as the journal has it.
    fn last_record(&self, until: u64) -> io::Result<Covered> {
        let mut last = Covered { sequence: until, id: None };
        self.read_journal(until.saturating_sub(1), until, &mut |sequence, entry| {
            last = Covered { sequence, id: entry.id() };
            true
        })?;
        Ok(last)
    }

    /// Counts the transcripts of those of the sessions that are not known. Returns whether all could be read.
    fn count(&self, base: &mut IndexBase, sessions: Vec<SessionId>) -> bool {
        let mut all = true;
        for session in sessions {
            if base.holds(session.as_str()) {
                continue;
            }
            match self.counted(&session) {
                Ok(entry) => base.set(&session, entry),
                Err(e) => {
                    log::debug!("the transcript of {session} cannot be counted: {e}");
                    all = false;
                }
            }
        }
        all
    }
}
