//! Rebuilds stale sessions from the journal, beside appends.
//!
//! A replay brings the files up to what was durable when it began. From there on it follows what is published meanwhile,
//! until a session lacks nothing and is appended to again.

use std::collections::HashMap;
use std::io;

use crate::disk::Disk;
use crate::message::{Message, SessionId};

use super::replay::Provenance;
use super::{Stale, Transcripts};

/// How often a rebuild reads what was published meanwhile before it leaves the rest to the next one.
const ROUNDS_MAX: usize = 64;

/// The outcome of a rebuild.
#[derive(Debug, Default)]
pub struct Rebuilt {
    /// Sessions that lack nothing any more.
    pub mended: usize,
    /// Sessions that still lack something.
    pub lacking: usize,
    /// Missing lines that were added.
    pub appended: u64,
    /// Why one of the transcripts could not be written.
    pub fault: Option<io::Error>,
}

/// Gets each message with its sequence.
pub type Take<'a> = &'a mut dyn FnMut(u64, &Message, Provenance);

impl<D: Disk> Transcripts<D> {
    /// Rebuilds stale sessions. `feed` hands every published message after a sequence to its callback, with its
    /// sequence, and returns the sequence that it reached. It is called again from there for what was published
    /// meanwhile.
    ///
    /// # Errors
    /// `feed` or the disk failed. Sessions that are not rebuilt stay stale; another call tries again.
    pub fn rebuild(&self, mut feed: impl FnMut(u64, Take<'_>) -> io::Result<u64>) -> io::Result<Rebuilt> {
        let _alone = self.maintenance.lock().expect("no holder panics");
        let mut pending: HashMap<SessionId, Stale> = self.all_stale().into_iter().collect();
        let known = pending.len();
        let incomparable = self.compare_stale(&mut pending);
        self.note_lengths(pending.keys().map(|session| (session, 0)))?;
        let mut met = self.begin_search();
        let mut replay = self.replay();
        replay.are_forgotten = true;
        let not_taken_out = self.take_out_erased(&mut pending);
        replay.fault = incomparable.or(not_taken_out);
        let Some(first) = pending.values().map(|stale| stale.first).min() else {
            return Ok(Rebuilt { mended: 0, lacking: known, appended: 0, fault: replay.fault });
        };
        let durable = feed(first - 1, &mut |sequence, message, provenance| {
            if provenance == Provenance::Recorded {
                met.message(message);
            }
            if let Some(stale) = pending.get(message.session()) {
                replay.take(sequence, message, stale.suspect);
            }
        })?;
        for (session, first, last) in replay.reconcile() {
            self.mark_stale(&session, first, last);
            pending.remove(&session);
        }
        self.end_search(&met, pending.keys())?;
        // From here on nothing is synced, so that this catches up with a busy session: the worker has not taken these
        // messages yet, and will sync them.
        replay.at_ends_only = true;
        let (mut reached, begun) = (durable, pending.clone());
        for _ in 0..ROUNDS_MAX {
            self.release(&mut pending, reached);
            if pending.is_empty() {
                break;
            }
            reached = feed(reached, &mut |sequence, message, _| {
                if pending.contains_key(message.session()) {
                    replay.message(sequence, message);
                }
            })?;
            replay.follow_waiting();
            pending.retain(|session, _| replay.is_up_to_date(session));
        }
        let mut open = self.lock_open();
        for (session, begun) in &begun {
            if let Some(stale) = open.stale.get_mut(session).filter(|stale| stale.is_as(begun)) {
                *stale = Stale::of(durable + 1, stale.last);
            }
        }
        let lacking = open.stale.len();
        Ok(Rebuilt { mended: known.saturating_sub(lacking), lacking, appended: replay.appended, fault: replay.fault })
    }

    /// Compares these transcripts once more with their noted lengths, since none tells of a loss once it is revoked. Takes the
    /// sessions where that fails off the list, and returns the first fault.
    fn compare_stale(&self, pending: &mut HashMap<SessionId, Stale>) -> Option<io::Error> {
        let mut fault = None;
        pending.retain(|session, stale| {
            let mut open = self.lock_open();
            let compared = self.check_again(&mut open, session);
            *stale = open.stale.get(session).copied().unwrap_or(*stale);
            compared.map_err(|e| fault.get_or_insert(e)).is_ok()
        });
        fault
    }

    /// Removes erased messages from the files that may hold some. Takes the sessions where that fails off the list, and
    /// returns the first fault.
    fn take_out_erased(&self, pending: &mut HashMap<SessionId, Stale>) -> Option<io::Error> {
        let mut fault = None;
        pending.retain(|session, stale| {
            let taken_out = stale.erased.map_or(Ok(()), |id| self.drop_erased(session, id));
            taken_out.map_err(|e| fault.get_or_insert(e)).is_ok()
        });
        fault
    }

    /// Takes the sessions that lack nothing after `reached` off the list; they are appended to again. A session that
    /// was erased meanwhile may hold erased lines again, and one may have become suspect, so these stay stale for the next
    /// rebuild.
    fn release(&self, pending: &mut HashMap<SessionId, Stale>, reached: u64) {
        let mut open = self.lock_open();
        pending.retain(|session, begun| {
            let stale = open.stale.get(session).filter(|stale| stale.is_as(begun));
            let is_ours = stale.is_some() || !open.stale.contains_key(session);
            let lacks = stale.is_some_and(|stale| stale.last > reached);
            if is_ours && !lacks {
                open.stale.remove(session);
            }
            lacks
        });
    }
}
