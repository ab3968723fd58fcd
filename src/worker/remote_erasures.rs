//! Erasures that other servers of a shared database made, carried out here.
//!
//! Each server tells the store what it erased; each asks the store for new erasures every few seconds, from the place
//! where it stopped. It is separate from the drain because it only reads and remembers a place: each erasure becomes a
//! record of this server's journal, if the session has anything to erase, and from there on takes the path of its own
//! erasures.
//!
//! Nothing is kept over a restart: a start asks for all that the store keeps. The recorder skips what is already erased
//! here, so a repeated erasure costs one look-up. One that this process carried out is not carried out again: if its
//! server's clock is far ahead, it would delete whatever is recorded until that time.
//!
//! Until it is answered nothing is sent to the store, or what another server erased in an outage would be put back. But not
//! for ever: after a minute in which only the question failed, what waits is sent, and the question goes on beside it. What
//! it then tells is deleted from the store like any erasure, so that nothing erased is there for longer than the question
//! takes; and this server shows it no longer than without.
//!
//! Knows nothing of journals and files.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::journal::AppendError;
use crate::message::{Id, SessionId};
use crate::store::{ERASURES_MAX, ErasurePlace, StoreError, StoredErasure};

/// The interval between two questions: for so long a server may still show what another one has erased.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The interval after a refused question, most likely for lack of rights.
const REFUSED_POLL_INTERVAL: Duration = Duration::from_secs(30);
/// How long a question without an answer holds up what is to be sent.
const HOLD_UP_MAX: Duration = Duration::from_secs(60);
/// Erasures of this last stretch of time are asked for again: two writes may become visible in another order than their
/// times, and after a failover another clock counts.
const AGAIN_MILLIS: i64 = 5 * 60 * 1000;

/// Erasures remembered as carried out; about 100 bytes each.
const HEARD_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not 0");

/// Carries out erasures here; returns how many sessions had something to erase.
pub type Apply = Box<dyn FnMut(&[(SessionId, Id)]) -> Result<usize, AppendError> + Send>;

/// Asks for the erasures of other servers and carries them out.
pub struct RemoteErasures {
    apply: Apply,
    /// Where to read on.
    place: Option<ErasurePlace>,
    /// The latest time seen so far, in milliseconds since 1970.
    newest: i64,
    /// Erasures that were carried out.
    heard: LruCache<SessionId, Id>,
    due: Instant,
    /// Since when it is asked in vain.
    unanswered: Option<Instant>,
}

impl RemoteErasures {
    /// Knows nothing yet and asks at once.
    #[must_use]
    pub fn new(apply: Apply) -> Self {
        let (heard, due) = (LruCache::new(HEARD_MAX), Instant::now());
        Self { apply, place: None, newest: 0, heard, due, unanswered: None }
    }

    /// When to ask next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// The place to ask from.
    pub(super) fn place(&self) -> Option<ErasurePlace> {
        self.place.clone()
    }

    /// Takes the answer. Returns why it could not be carried out, if so: the next question asks for the same.
    pub(super) fn take(&mut self, found: &[StoredErasure]) -> Option<String> {
        self.unanswered = None;
        self.due = Instant::now() + POLL_INTERVAL;
        let is_new = |(session, up_to): &&(SessionId, Id)| self.heard.peek(session).is_none_or(|heard| heard < up_to);
        let erased = found.iter().filter_map(|found| found.erasure.as_ref()).filter(is_new);
        let erased: Vec<(SessionId, Id)> = erased.cloned().collect();
        match (self.apply)(&erased) {
            Ok(0) => {}
            Ok(count) => log::info!("[CHAT ERASE] Erased {count} sessions that another server erased"),
            Err(refusal) => return Some(format!("cannot carry out erasures of other servers: {refusal}")),
        }
        for (session, up_to) in erased {
            self.heard.put(session, up_to);
        }
        self.newest = found.iter().map(|found| found.place.millis).fold(self.newest, i64::max);
        if found.len() < ERASURES_MAX {
            self.place = Some(ErasurePlace { millis: self.newest.saturating_sub(AGAIN_MILLIS), id: String::new() });
        } else if let Some(last) = found.last() {
            (self.place, self.due) = (Some(last.place.clone()), Instant::now());
        }
        None
    }

    /// The question failed; whether it has held up everything for long enough.
    pub(super) fn has_held_up(&mut self) -> bool {
        self.unanswered.get_or_insert_with(Instant::now).elapsed() >= HOLD_UP_MAX
    }

    /// An insert failed, too: this is an outage, and after it the question comes first.
    pub(super) fn insert_failed(&mut self) {
        if self.unanswered.is_some() {
            (self.unanswered, self.due) = (Some(Instant::now()), Instant::now());
        }
    }

    /// As if it had been asked in vain for so long.
    #[cfg(test)]
    pub(super) fn a_minute_later(&mut self) {
        self.unanswered = self.unanswered.and_then(|since| since.checked_sub(HOLD_UP_MAX));
    }

    /// The question was refused, or failed for too long; returns the text for the status.
    pub(super) fn refused(&mut self, error: &StoreError) -> String {
        self.due = Instant::now() + REFUSED_POLL_INTERVAL;
        format!("cannot read the erasures of other servers: {error}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::message::Timestamp;

    fn stored(n: i64) -> StoredErasure {
        let id = Id::from_parts(Timestamp::from_micros(1_790_000_000_000_000 + n.unsigned_abs()), 0);
        let session = SessionId::new(&format!("s{n}")).unwrap();
        let place = ErasurePlace { millis: 1_790_000_000_000 + n, id: session.to_string() };
        StoredErasure { place, erasure: Some((session, id)) }
    }

    #[test]
    fn a_full_answer_is_continued_at_once_and_the_last_minutes_read_again() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let mut remote_erasures = RemoteErasures::new(Box::new(move |erased| {
            hears.lock().unwrap().extend(erased.to_vec());
            Ok(erased.len())
        }));
        assert!(remote_erasures.due() <= Instant::now() && remote_erasures.place().is_none());
        let first: Vec<_> = (0..500).map(stored).collect();
        remote_erasures.take(&first);
        assert!(remote_erasures.due() <= Instant::now());
        assert_eq!(remote_erasures.place(), Some(first[499].place.clone()));
        let before = Instant::now();
        // A document that is no erasure is skipped.
        remote_erasures.take(&[StoredErasure { erasure: None, ..stored(500) }]);
        assert!(remote_erasures.due() >= before + POLL_INTERVAL);
        assert_eq!(remote_erasures.place().unwrap().millis, stored(500).place.millis - AGAIN_MILLIS);
        remote_erasures.take(&[stored(499)]);
        assert_eq!(remote_erasures.place().unwrap().millis, stored(500).place.millis - AGAIN_MILLIS);
        assert_eq!(heard.lock().unwrap().len(), 500);
    }

    #[test]
    fn what_could_not_be_erased_is_asked_for_again() {
        let mut full = true;
        let mut remote_erasures = RemoteErasures::new(Box::new(move |erased| match std::mem::take(&mut full) {
            true => Err(AppendError::Unavailable("a test's own".into())),
            false => Ok(erased.len()),
        }));
        assert!(remote_erasures.take(&[stored(1)]).unwrap().contains("cannot carry out erasures"));
        assert_eq!(remote_erasures.place(), None);
        assert_eq!(remote_erasures.take(&[stored(1)]), None);
        assert!(remote_erasures.place().is_some());
    }
}
