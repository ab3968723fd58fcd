//! The newest messages of the sessions in use, in memory, so that a UI opens a conversation without touching a disk.
//!
//! Bounded twice: `max_messages_per_session` for each, `max_bytes` for all; beyond, the oldest message of the session
//! and the session that was longest not used give way. What is gone from here stands in the transcript.
//!
//! Invariant: what a session holds is a run without holes up to its newest published message. `whole` tells that nothing
//! older exists. To keep that true, [`Cache::push`] comes from one thread in sequence, after the transcript has the
//! message, and a warm-up ([`Cache::reserve`], read, [`Cache::fill`]) counts only if the session stayed in between.
//!
//! Knows nothing of files or of what is asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::config::CacheConfig;
use crate::message::{Id, Message, SessionId};

/// The memory of a session beside its messages, in bytes, about.
const SESSION_BYTES: usize = 320;

/// See the module.
pub struct Cache {
    inner: Mutex<Inner>,
    messages_max: usize,
    bytes_max: usize,
}

struct Inner {
    sessions: LruCache<SessionId, Session>,
    bytes: usize,
    messages: usize,
    /// Given to each session that is made: tells a session from one of the same name that was evicted before.
    next_stay: u64,
}

struct Session {
    messages: VecDeque<Arc<Message>>,
    /// The memory of it all, kept as messages come and go.
    bytes: usize,
    whole: bool,
    stay: u64,
}

/// What the cache has of a session.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Oldest first, without holes up to the newest.
    pub messages: Vec<Arc<Message>>,
    /// Nothing older exists.
    pub whole: bool,
}

/// A warm-up under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay(u64);

/// What a push did beside keeping the message, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The session was not in the cache before.
    pub first_touch: bool,
    /// Sessions that gave way.
    pub evicted: usize,
}

/// Figures for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Sessions held.
    pub sessions: usize,
    /// Messages held.
    pub messages: usize,
    /// Memory held, in bytes, about.
    pub bytes: usize,
}

impl Cache {
    /// An empty cache with the limits of `config`.
    #[must_use]
    pub fn new(config: &CacheConfig) -> Self {
        let inner = Inner { sessions: LruCache::unbounded(), bytes: 0, messages: 0, next_stay: 0 };
        Self { inner: Mutex::new(inner), messages_max: config.max_messages_per_session, bytes_max: config.max_bytes }
    }

    /// Keeps a published message. `first_ever` tells that its session had none before.
    pub fn push(&self, message: &Arc<Message>, first_ever: bool) -> Pushed {
        let mut inner = self.inner.lock().expect("no holder panics");
        let mut pushed = Pushed { first_touch: inner.touch(message.session(), first_ever), evicted: 0 };
        inner.change(message.session(), |session| {
            // A warm-up may have read it from the transcript already.
            if session.messages.back().is_none_or(|newest| newest.id() < message.id()) {
                session.bytes += message.memory_bytes();
                session.messages.push_back(message.clone());
            }
            session.trim(self.messages_max);
        });
        pushed.evicted = inner.shrink(self.bytes_max);
        pushed
    }

    /// What is held of a session; `None` when it is not in use. Counts as use.
    pub fn get(&self, session: &SessionId) -> Option<Held> {
        let mut inner = self.inner.lock().expect("no holder panics");
        let held = inner.sessions.get(session)?;
        Some(Held { messages: held.messages.iter().cloned().collect(), whole: held.whole })
    }

    /// Begins a warm-up: from here on the session's new messages are kept. Read the older ones now and [`Cache::fill`].
    pub fn reserve(&self, session: &SessionId) -> Stay {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.touch(session, false);
        Stay(inner.sessions.get(session).map_or(u64::MAX, |held| held.stay))
    }

    /// Ends a warm-up with the messages that were read, oldest first and up to what is held; `whole` when nothing older
    /// exists. Returns how many were kept: none when the session had to give way in between.
    pub fn fill(&self, session: &SessionId, stay: Stay, older: &[Arc<Message>], whole: bool) -> usize {
        let mut inner = self.inner.lock().expect("no holder panics");
        if inner.sessions.peek(session).is_none_or(|held| held.stay != stay.0) {
            return 0;
        }
        let mut kept = 0;
        inner.change(session, |held| {
            let oldest = held.messages.front().map(|message| message.id());
            for message in older.iter().rev().filter(|message| oldest.is_none_or(|oldest| message.id() < oldest)) {
                held.bytes += message.memory_bytes();
                held.messages.push_front(message.clone());
                kept += 1;
            }
            held.whole |= whole;
            held.trim(self.messages_max);
        });
        inner.shrink(self.bytes_max);
        kept
    }

    /// Forgets the messages of a session up to `id`.
    pub fn erase(&self, session: &SessionId, id: Id) {
        let mut inner = self.inner.lock().expect("no holder panics");
        if inner.sessions.contains(session) {
            inner.change(session, |held| {
                while held.messages.front().is_some_and(|oldest| oldest.id() <= id) {
                    held.pop_front();
                }
                held.whole = true;
            });
        }
    }

    /// Figures for the status.
    pub fn stats(&self) -> Stats {
        let inner = self.inner.lock().expect("no holder panics");
        Stats { sessions: inner.sessions.len(), messages: inner.messages, bytes: inner.bytes }
    }
}

impl Session {
    fn new(whole: bool, stay: u64) -> Self {
        Self { messages: VecDeque::new(), bytes: SESSION_BYTES, whole, stay }
    }

    fn pop_front(&mut self) {
        self.bytes -= self.messages.pop_front().map_or(0, |message| message.memory_bytes());
        self.whole = false;
    }

    fn trim(&mut self, messages_max: usize) {
        while self.messages.len() > messages_max {
            self.pop_front();
        }
    }

    fn give_back(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.messages.len() > 1 {
            self.pop_front();
        }
    }
}

impl Inner {
    /// Makes the session if it is not there; tells whether it was made. Counts as use.
    fn touch(&mut self, session: &SessionId, whole: bool) -> bool {
        if self.sessions.get(session).is_some() {
            return false;
        }
        self.next_stay += 1;
        let held = Session::new(whole, self.next_stay);
        self.bytes += held.bytes;
        self.sessions.put(session.clone(), held);
        true
    }

    /// Changes a session that is there, keeping the sums right.
    fn change(&mut self, session: &SessionId, change: impl FnOnce(&mut Session)) {
        let Some(held) = self.sessions.peek_mut(session) else { return };
        let (bytes, messages) = (held.bytes, held.messages.len());
        change(held);
        self.bytes = self.bytes + held.bytes - bytes;
        self.messages = self.messages + held.messages.len() - messages;
    }

    /// Lets sessions go, the longest unused first, until the bytes fit; the last one is cut
    /// instead, down to its newest message.
    fn shrink(&mut self, bytes_max: usize) -> usize {
        let mut evicted = 0;
        while self.bytes > bytes_max && self.sessions.len() > 1 {
            if let Some((_, session)) = self.sessions.pop_lru() {
                self.bytes -= session.bytes;
                self.messages -= session.messages.len();
                evicted += 1;
            }
        }
        if self.bytes > bytes_max
            && let Some(last) = self.sessions.peek_lru().map(|(session, _)| session.clone())
        {
            self.change(&last, |held| held.give_back(bytes_max));
        }
        evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Draft, Metadata, Timestamp};

    fn cache(messages_max: usize, bytes_max: usize) -> Cache {
        let disk_path = std::path::PathBuf::new();
        Cache::new(&CacheConfig { max_messages_per_session: messages_max, max_bytes: bytes_max, disk_path })
    }

    fn message(session: &str, at: u64) -> Arc<Message> {
        let session = SessionId::new(session).unwrap();
        let draft =
            Draft { session: &session, role: "user", text: "hi", metadata: Metadata::default(), vector_ids: &[] };
        Arc::new(draft.prepare().seal(Id::from_parts(Timestamp::from_micros(at), 0)))
    }

    fn times(cache: &Cache, session: &str) -> Vec<u64> {
        let held = cache.get(&SessionId::new(session).unwrap()).unwrap_or_default();
        held.messages.iter().map(|message| message.id().time().micros()).collect()
    }

    #[test]
    fn the_oldest_message_gives_way_at_the_limit_and_the_session_is_no_longer_whole() {
        let cache = cache(3, 1 << 20);
        for at in 1..=3 {
            cache.push(&message("s", at), at == 1);
        }
        assert!(cache.get(&SessionId::new("s").unwrap()).unwrap().whole);
        cache.push(&message("s", 4), false);
        assert_eq!(times(&cache, "s"), [2, 3, 4]);
        assert!(!cache.get(&SessionId::new("s").unwrap()).unwrap().whole);
    }

    #[test]
    fn the_session_longest_unused_gives_way_when_bytes_run_out() {
        let one = message("a", 1).memory_bytes() + SESSION_BYTES;
        let cache = cache(75, one * 2 + one / 2);
        cache.push(&message("a", 1), true);
        cache.push(&message("b", 2), true);
        assert_eq!(times(&cache, "a"), [1], "a is used again, so b is the oldest");
        assert_eq!(cache.push(&message("c", 3), true), Pushed { first_touch: true, evicted: 1 });
        assert_eq!((times(&cache, "a").len(), times(&cache, "b").len(), times(&cache, "c").len()), (1, 0, 1));
        let stats = cache.stats();
        assert_eq!((stats.sessions, stats.messages, stats.bytes), (2, 2, one * 2));
    }

    #[test]
    fn one_session_alone_is_cut_to_the_bytes() {
        let cache = cache(1000, 4000);
        for at in 1..=100 {
            cache.push(&message("s", at), false);
        }
        let times = times(&cache, "s");
        assert!(times.len() < 20 && times.last() == Some(&100), "{times:?}");
        assert!(cache.stats().bytes <= 4000);
    }

    #[test]
    fn a_warm_up_puts_older_messages_before_the_new_ones() {
        let cache = cache(75, 1 << 20);
        let session = SessionId::new("s").unwrap();
        let stay = cache.reserve(&session);
        cache.push(&message("s", 5), false);
        let older: Vec<_> = [3, 4, 5].into_iter().map(|at| message("s", at)).collect();
        assert_eq!(cache.fill(&session, stay, &older, true), 2);
        assert_eq!(times(&cache, "s"), [3, 4, 5]);
        assert!(cache.get(&session).unwrap().whole);
    }

    #[test]
    fn a_warm_up_that_read_ahead_of_the_writer_keeps_no_message_twice() {
        let cache = cache(75, 1 << 20);
        let session = SessionId::new("s").unwrap();
        let stay = cache.reserve(&session);
        cache.fill(&session, stay, &[message("s", 4), message("s", 5)], true);
        cache.push(&message("s", 5), false);
        cache.push(&message("s", 6), false);
        assert_eq!(times(&cache, "s"), [4, 5, 6]);
    }

    #[test]
    fn a_warm_up_of_a_session_that_was_evicted_meanwhile_is_dropped() {
        let cache = cache(75, 700);
        let session = SessionId::new("s").unwrap();
        let stay = cache.reserve(&session);
        cache.push(&message("other", 1), true);
        cache.push(&message("another", 2), true);
        cache.push(&message("s", 9), false);
        assert_eq!(cache.fill(&session, stay, &[message("s", 3)], true), 0);
        assert_eq!(times(&cache, "s"), [9]);
    }

    #[test]
    fn erased_messages_are_forgotten() {
        let cache = cache(75, 1 << 20);
        for at in 1..=4 {
            cache.push(&message("s", at), at == 1);
        }
        cache.erase(&SessionId::new("s").unwrap(), Id::from_parts(Timestamp::from_micros(3), 0));
        assert_eq!(times(&cache, "s"), [4]);
    }
}
