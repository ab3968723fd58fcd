//! Erasures: for each session the id up to which everything is erased, and whether the bytes are gone too.
//!
//! The journal's erasure records are the truth; this keeps them in memory, so that no reader hands out an erased
//! message and no key stands for one. An erasure is noted when it is published, and at a start from digests and the
//! open segment; it is forgotten with its record's segment. At most [`ERASURES_MAX`] are known, about 200 bytes each.
//! Beyond, those that were scrubbed are forgotten (nothing that they cover is left to hide); if none was scrubbed, a
//! new erasure is refused until the janitor has scrubbed. A start that finds more keeps the newest, which include all
//! that are not yet scrubbed.
//!
//! Knows nothing of files.

use std::collections::HashMap;

use crate::message::{Id, SessionId};

/// The most sessions whose erasure is remembered.
pub const ERASURES_MAX: usize = 100_000;

/// One erasure record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Its sequence.
    pub sequence: u64,
    /// Everything of the session up to it is erased.
    pub id: Id,
    /// The session.
    pub session: SessionId,
}

/// A session's last erasure.
#[derive(Clone, Copy, Debug)]
struct LastErasure {
    sequence: u64,
    id: Id,
    /// The payloads are gone.
    is_scrubbed: bool,
}

/// All erasures that are remembered.
#[derive(Debug, Default)]
pub struct ErasureIndex {
    known: HashMap<SessionId, LastErasure>,
    unscrubbed: usize,
}

/// What is to be scrubbed, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Unscrubbed {
    /// Sessions, each with the id up to which it is erased.
    pub sessions: HashMap<SessionId, Id>,
    /// The sequence of the last of these erasures: everything that they cover comes before it.
    pub(super) last: u64,
}

impl Unscrubbed {
    /// Whether a message must be scrubbed.
    #[must_use]
    pub fn covers(&self, session: &SessionId, id: Id) -> bool {
        self.sessions.get(session).is_some_and(|erased| id <= *erased)
    }
}

impl ErasureIndex {
    /// Notes an erasure; sequences must rise.
    pub fn note(&mut self, erasure: Erasure) {
        if self.known.len() >= ERASURES_MAX && !self.known.contains_key(&erasure.session) {
            self.make_room();
        }
        // One from another server may cover less than an earlier one.
        let id = self.known.get(&erasure.session).map_or(erasure.id, |known| known.id.max(erasure.id));
        let known = LastErasure { sequence: erasure.sequence, id, is_scrubbed: false };
        let before = self.known.insert(erasure.session, known);
        self.unscrubbed += usize::from(before.is_none_or(|before| before.is_scrubbed));
    }

    /// Forgets erasures that were scrubbed; at a start that finds too many, the older half.
    fn make_room(&mut self) {
        self.known.retain(|_, known| !known.is_scrubbed);
        if self.known.len() >= ERASURES_MAX {
            let mut sequences: Vec<u64> = self.known.values().map(|known| known.sequence).collect();
            let (_, middle, _) = sequences.select_nth_unstable(ERASURES_MAX / 2);
            let middle = *middle;
            self.known.retain(|_, known| known.sequence >= middle);
        }
        self.unscrubbed = self.known.len();
    }

    /// Whether `coming` more erasures do not fit until some are scrubbed.
    #[must_use]
    pub fn is_full(&self, coming: usize) -> bool {
        self.unscrubbed + coming >= ERASURES_MAX
    }

    /// Whether a message of the session with that id is erased.
    #[must_use]
    pub fn covers(&self, session: &str, id: Id) -> bool {
        !self.known.is_empty() && self.known.get(session).is_some_and(|known| id <= known.id)
    }

    /// Up to which id a session is erased, if it was.
    #[must_use]
    pub fn of(&self, session: &SessionId) -> Option<Id> {
        self.known.get(session).map(|known| known.id)
    }

    /// The sessions whose last erasure has a sequence after `sequence`, each with the id up to which it is erased.
    #[must_use]
    pub fn after(&self, sequence: u64) -> Vec<(SessionId, Id)> {
        let after = self.known.iter().filter(|(_, known)| known.sequence > sequence);
        after.map(|(session, known)| (session.clone(), known.id)).collect()
    }

    /// How many are to be scrubbed.
    #[must_use]
    pub fn unscrubbed(&self) -> usize {
        self.unscrubbed
    }

    /// The first sequence of those.
    #[must_use]
    pub fn first_unscrubbed(&self) -> Option<u64> {
        self.known.values().filter(|known| !known.is_scrubbed).map(|known| known.sequence).min()
    }

    /// What is to be scrubbed now.
    #[must_use]
    pub fn look(&self) -> Unscrubbed {
        let left = || self.known.iter().filter(|(_, known)| !known.is_scrubbed);
        let last = left().map(|(_, known)| known.sequence).max().unwrap_or(0);
        Unscrubbed { sessions: left().map(|(session, known)| (session.clone(), known.id)).collect(), last }
    }

    /// Notes that `done` is scrubbed, except sessions that were erased again meanwhile.
    pub fn scrubbed(&mut self, done: &Unscrubbed) {
        for (session, id) in &done.sessions {
            if let Some(known) = self.known.get_mut(session)
                && known.id == *id
                && !known.is_scrubbed
            {
                known.is_scrubbed = true;
                self.unscrubbed -= 1;
            }
        }
    }

    /// Forgets erasures before that sequence.
    pub fn forget_before(&mut self, sequence: u64) {
        self.known.retain(|_, known| known.sequence >= sequence);
        self.unscrubbed = self.known.values().filter(|known| !known.is_scrubbed).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Timestamp;

    fn erasure(n: u64, session: &str) -> Erasure {
        let id = Id::from_parts(Timestamp::from_micros(1_790_000_000_000_000 + n), 0);
        Erasure { sequence: n, id, session: SessionId::new(session).unwrap() }
    }

    #[test]
    fn a_session_erased_again_while_it_is_scrubbed_is_to_be_scrubbed_again() {
        let mut erasures = ErasureIndex::default();
        erasures.note(erasure(1, "a"));
        erasures.note(erasure(2, "b"));
        let look = erasures.look();
        erasures.note(erasure(3, "a"));
        erasures.scrubbed(&look);
        assert_eq!((erasures.unscrubbed(), erasures.first_unscrubbed()), (1, Some(3)));
        erasures.note(erasure(4, "b"));
        assert_eq!((erasures.unscrubbed(), erasures.first_unscrubbed()), (2, Some(3)));
        erasures.forget_before(4);
        assert_eq!((erasures.unscrubbed(), erasures.first_unscrubbed()), (1, Some(4)));
        let (a, b) = (erasure(3, "a"), erasure(4, "b"));
        assert!(!erasures.covers(a.session.as_str(), a.id) && erasures.covers(b.session.as_str(), b.id));
        assert!(!erasures.covers(b.session.as_str(), erasure(5, "b").id));
    }

    #[test]
    fn an_erasure_of_less_than_the_one_before_takes_nothing_back() {
        let mut erasures = ErasureIndex::default();
        let (own, foreign) = (erasure(7, "a"), Erasure { sequence: 9, ..erasure(3, "a") });
        erasures.note(own.clone());
        erasures.note(foreign);
        assert!(erasures.covers(own.session.as_str(), own.id));
        assert_eq!((erasures.after(8).len(), erasures.after(9).len()), (1, 0));
    }

    #[test]
    fn beyond_the_limit_the_scrubbed_go_and_then_erasures_are_refused() {
        let mut erasures = ErasureIndex::default();
        for n in 1..=ERASURES_MAX as u64 {
            erasures.note(erasure(n, &format!("s{n}")));
        }
        assert!(erasures.is_full(0));
        let mut done = erasures.look();
        done.sessions.retain(|session, _| session.as_str() != "s7");
        erasures.scrubbed(&done);
        assert!(!erasures.is_full(0) && erasures.known.len() == ERASURES_MAX);
        erasures.note(erasure(1 << 40, "new"));
        assert_eq!((erasures.known.len(), erasures.unscrubbed()), (2, 2));
        assert!(erasures.covers("s7", erasure(7, "s7").id));
        // A start that finds too many keeps the newest.
        for n in 1..=2 * ERASURES_MAX as u64 {
            erasures.note(erasure((1 << 41) + n, &format!("t{n}")));
        }
        assert!(erasures.known.len() <= ERASURES_MAX);
        assert!(erasures.covers("t200000", erasure((1 << 41) + 200_000, "x").id));
    }
}
