//! Erasures that were carried out and are not final yet: an insert that failed before one may still arrive behind it.
//!
//! It may as long as its call has not returned, and for a while longer ([`LATE`]). Then the erasure is carried out again, and
//! only then it is final; until then it stands in a file (`owed.rs`), a restart begins with it, and takes for granted that the
//! process before it had sent something, too. Knows nothing of files, nor of how one is carried out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::message::{Id, SessionId};
use crate::store::{Calls, Mark};

/// Beyond, the oldest counts as final.
const MAX: usize = 10_000;
/// After an insert failed it may arrive this much later: a server does what it had received when it goes on, and a network
/// that comes back may wait two minutes before it sends again.
const LATE: Duration = Duration::from_secs(300);
/// After this an erasure is carried out again and is final whatever still hangs: the checkpoint must not wait for ever.
const FINAL: Duration = Duration::from_secs(3600);

struct Erasure {
    session: SessionId,
    up_to: Id,
    /// Inserts before this may still arrive.
    mark: Mark,
    not_before: Instant,
    not_after: Instant,
}

/// See the module.
pub struct Erasures {
    waiting: VecDeque<Erasure>,
    /// When an insert failed last; at a start, when one of the process before may have.
    failed_at: Instant,
}

impl Erasures {
    /// None so far, in a process that starts now.
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), failed_at: Instant::now() }
    }

    /// An insert failed, and may have been sent.
    pub fn insert_failed(&mut self) {
        self.failed_at = Instant::now();
    }

    /// Whether one that is carried out now is to be carried out again; every call so far is one of `calls`.
    pub fn must_wait(&self, calls: &Calls) -> bool {
        self.failed_at + LATE > Instant::now() || calls.abandoned() > 0
    }

    /// One was carried out. Returns one that is final by it: that one, if it need not wait, or the oldest, if too many do.
    pub fn carried_out(&mut self, session: SessionId, up_to: Id, calls: &Calls) -> Option<(SessionId, Id)> {
        if !self.must_wait(calls) {
            return Some((session, up_to));
        }
        let now = Instant::now();
        let (not_before, not_after) = (now.max(self.failed_at + LATE), now + FINAL);
        self.waiting.push_back(Erasure { session, up_to, mark: calls.mark(), not_before, not_after });
        if self.waiting.len() > MAX { self.carried_out_again() } else { None }
    }

    /// The one that can be carried out again by now.
    pub fn due(&self, calls: &Calls) -> Option<(SessionId, Id)> {
        let Erasure { session, up_to, mark, not_before, not_after, .. } = self.waiting.front()?;
        let now = Instant::now();
        let is_due = now >= *not_before && (now >= *not_after || calls.is_settled(*mark));
        is_due.then(|| (session.clone(), *up_to))
    }

    /// The one that was due was carried out again, and is final.
    pub fn carried_out_again(&mut self) -> Option<(SessionId, Id)> {
        self.waiting.pop_front().map(|erasure| (erasure.session, erasure.up_to))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When to look whether one is due.
    pub fn wake(&self) -> Option<Instant> {
        // Calls return without a word.
        self.waiting.front().map(|erasure| erasure.not_before.max(Instant::now() + Duration::from_secs(1)))
    }

    /// Whatever waits for a while has waited.
    #[cfg(test)]
    pub fn a_moment_later(&mut self) {
        let now = Instant::now();
        self.failed_at = now.checked_sub(LATE).expect("the machine runs for longer");
        self.waiting.iter_mut().for_each(|erasure| erasure.not_before = now);
    }
}
