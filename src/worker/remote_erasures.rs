//! What other servers of a shared database erased, carried out here.
//!
//! Each tells the store what it erased; every one asks the store what is new, every few seconds, from where it was the last
//! time. It stands apart from the drain because it only reads and remembers a place: what is found becomes an erasure of this
//! server's journal, if there is anything to erase, and all the rest is the same path as for its own.
//!
//! Nothing is kept over a restart: a start asks for all that is kept. What is erased here already is passed over by the
//! recorder, so that to hear of it again costs a look. What was heard of in this process is not carried out again: of a
//! server whose clock is far ahead it would take whatever is said until that time comes.
//!
//! Knows nothing of journals and files.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::journal::AppendError;
use crate::message::{Id, SessionId};
use crate::store::{ERASURES_MAX, ErasurePlace, StoreError, StoredErasure};

/// Between two questions: so long a server may still show what another one has erased.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The same when the question is refused, for want of rights most likely.
const REFUSED_POLL_INTERVAL: Duration = Duration::from_secs(30);
/// What came in this time before the last answer is asked for again: two writes may become visible in another order than
/// their times, and after a failover another clock counts.
const AGAIN_MILLIS: i64 = 5 * 60 * 1000;

/// Erasures that were heard of and are remembered; about 100 bytes each.
const HEARD_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not 0");

/// Erases here what is erased there; returns of how many sessions there was something.
pub type Apply = Box<dyn FnMut(&[(SessionId, Id)]) -> Result<usize, AppendError> + Send>;

/// See the module.
pub struct RemoteErasures {
    apply: Apply,
    /// Where to read on.
    place: Option<ErasurePlace>,
    /// The latest time that was seen.
    newest: i64,
    /// What was carried out.
    heard: LruCache<SessionId, Id>,
    due: Instant,
}

impl RemoteErasures {
    /// Nothing is known yet, and it is to be asked for at once.
    #[must_use]
    pub fn new(apply: Apply) -> Self {
        let (heard, due) = (LruCache::new(HEARD_MAX), Instant::now());
        Self { apply, place: None, newest: 0, heard, due }
    }

    /// When to ask.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Behind where.
    pub(super) fn place(&self) -> Option<ErasurePlace> {
        self.place.clone()
    }

    /// Takes the answer; why it cannot be carried out, if so: then the same is asked for again.
    pub(super) fn take(&mut self, found: &[StoredErasure]) -> Option<String> {
        self.due = Instant::now() + POLL_INTERVAL;
        let is_new = |(session, up_to): &&(SessionId, Id)| self.heard.peek(session).is_none_or(|heard| heard < up_to);
        let erased = found.iter().filter_map(|found| found.erasure.as_ref()).filter(is_new);
        let erased: Vec<(SessionId, Id)> = erased.cloned().collect();
        match (self.apply)(&erased) {
            Ok(0) => {}
            Ok(count) => log::info!("[CHAT ERASE] {count} sessions are erased here as on another server"),
            Err(refusal) => return Some(format!("what other servers erased cannot be erased here: {refusal}")),
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

    /// The question was refused; in what words to say so.
    pub(super) fn refused(&mut self, error: &StoreError) -> String {
        self.due = Instant::now() + REFUSED_POLL_INTERVAL;
        format!("what other servers erased cannot be read: {error}")
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
        // What is no erasure is passed.
        remote_erasures.take(&[StoredErasure { erasure: None, ..stored(500) }]);
        assert!(remote_erasures.due() > Instant::now());
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
        assert!(remote_erasures.take(&[stored(1)]).unwrap().contains("cannot be erased here"));
        assert_eq!(remote_erasures.place(), None);
        assert_eq!(remote_erasures.take(&[stored(1)]), None);
        assert!(remote_erasures.place().is_some());
    }
}
