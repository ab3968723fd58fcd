//! Erasures that were carried out and are not final yet: an insert that failed before one may still arrive behind it.
//!
//! It may as long as its call has not returned, and for a while longer ([`LATE`]). Then the erasure is carried out again, and
//! only then it is final; until then a restart begins with it ([`Erasures::settled`]), and takes for granted that the
//! process before it had sent something, too. Knows nothing of how one is carried out.

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
    sequence: u64,
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

    /// One was carried out in its place; every call so far is one of `calls`.
    pub fn carried_out(&mut self, sequence: u64, session: SessionId, up_to: Id, calls: &Calls) {
        let now = Instant::now();
        let not_before = now.max(self.failed_at + LATE);
        if not_before == now && calls.abandoned() == 0 {
            return;
        }
        let (mark, not_after) = (calls.mark(), now + FINAL);
        self.waiting.push_back(Erasure { sequence, session, up_to, mark, not_before, not_after });
        if self.waiting.len() > MAX {
            self.waiting.pop_front();
        }
    }

    /// The one that can be carried out again by now.
    pub fn due(&self, calls: &Calls) -> Option<(SessionId, Id)> {
        let Erasure { session, up_to, mark, not_before, not_after, .. } = self.waiting.front()?;
        let now = Instant::now();
        let is_due = now >= *not_before && (now >= *not_after || calls.is_settled(*mark));
        is_due.then(|| (session.clone(), *up_to))
    }

    /// The one that was due was carried out again.
    pub fn carried_out_again(&mut self) {
        self.waiting.pop_front();
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

    /// How far everything is as it is to stay, when `drained` is how far it is.
    pub fn settled(&self, drained: u64) -> u64 {
        self.waiting.front().map_or(drained, |erasure| drained.min(erasure.sequence - 1))
    }

    /// Whatever waits for a while has waited.
    #[cfg(test)]
    pub fn a_moment_later(&mut self) {
        let now = Instant::now();
        self.failed_at = now.checked_sub(LATE).expect("the machine runs for longer");
        self.waiting.iter_mut().for_each(|erasure| erasure.not_before = now);
    }
}
