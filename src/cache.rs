//! The newest messages of the sessions in use, in memory, so that a conversation opens without reading a disk.
//!
//! Two limits: `max_messages_per_session` for each session, `max_bytes` for all. Beyond the first, a session's oldest
//! message is evicted; beyond the second, the least recently used session. Evicted messages are in the transcript.
//!
//! Invariant: a session holds a run without gaps up to its newest published message; `whole` says that nothing older
//! exists. For that, [`Cache::push`] is called by one thread in sequence, after the transcript has the message; and a
//! warm-up ([`Cache::reserve`], read, [`Cache::fill`]) counts only if the session was neither evicted nor shortened
//! meanwhile, else there could be a gap between what was read and what is held.
//!
//! Expired messages leave from the old end as if evicted. That does not make a session whole: if the clock is turned
//! back they have not expired, and are still in the transcript. Instead the last evicted message is noted, and a query
//! for what follows it, as every reader with a TTL makes soon, is answered from the cache.
//!
//! Knows nothing of files or of what is asked for.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::config::CacheConfig;
use crate::message::{Id, Message, SessionId};
use crate::metrics::Counter;

/// The memory of a session without its messages, in bytes, roughly.
const SESSION_BYTES: usize = 320;

/// The cached messages of all sessions.
pub struct Cache {
    inner: Mutex<CacheState>,
    messages_max: usize,
    bytes_max: usize,
    meters: CacheMeters,
}

/// What is counted for the metrics.
#[derive(Debug, Default)]
pub struct CacheMeters {
    /// Pages for which the cache was enough.
    pub hits: Counter,
    /// Pages for which it was not.
    pub misses: Counter,
    /// Sessions evicted for room.
    pub evictions: Counter,
}

struct CacheState {
    sessions: LruCache<SessionId, Session>,
    bytes: usize,
    messages: usize,
    /// The next generation: each session gets one when it is made and when its old end is evicted.
    next_generation: u64,
}

struct Session {
    messages: VecDeque<Arc<Message>>,
    /// Total memory, in bytes, updated with every change.
    bytes: usize,
    whole: bool,
    /// It holds fewer messages than the limit, and a warm-up would not add any.
    byte_limited: bool,
    /// The newest evicted message: everything newer is held.
    evicted_through: Option<Id>,
    generation: u64,
    /// Its old end was evicted since it got its generation.
    receded: bool,
}

/// What the cache holds of a session, during a look.
#[derive(Clone, Copy, Debug)]
pub struct CachedSession<'a> {
    /// Oldest first, without gaps up to the newest.
    pub messages: &'a VecDeque<Arc<Message>>,
    /// Nothing older exists.
    pub whole: bool,
    /// A warm-up would add nothing, because of the bytes.
    pub byte_limited: bool,
    /// Everything newer than this is held; `None` if nothing was evicted yet.
    pub evicted_through: Option<Id>,
}

/// A warm-up under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

/// How far back a warm-up has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// To the first message that exists.
    Whole,
    /// As many messages as a session keeps.
    Full,
    /// Less, limited by bytes: reading again would add nothing.
    Cut,
}

/// The side effects of a push, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The session was not cached before.
    pub first_touch: bool,
    /// Sessions that were evicted.
    pub evicted: usize,
}

/// Figures for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStats {
    /// Sessions held.
    pub sessions: usize,
    /// Messages held.
    pub messages: usize,
    /// Memory held, in bytes, roughly.
    pub bytes: usize,
}

impl Cache {
    /// An empty cache with the limits of `config`.
    #[must_use]
    pub fn new(config: &CacheConfig) -> Self {
        let inner = CacheState { sessions: LruCache::unbounded(), bytes: 0, messages: 0, next_generation: 0 };
        let (messages_max, bytes_max) = (config.max_messages_per_session, config.max_bytes);
        Self { inner: Mutex::new(inner), messages_max, bytes_max, meters: CacheMeters::default() }
    }

    /// Caches a published message. `first_ever`: its session had none before.
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
        pushed.evicted = self.shrink(&mut inner);
        pushed
    }

    /// Reads what is held of a session; `None` if it is not cached. Counts as use. The cache is locked meanwhile, so
    /// `look` should copy only what it needs.
    pub fn look<T>(&self, session: &SessionId, look: impl FnOnce(CachedSession<'_>) -> T) -> Option<T> {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.sessions.get(session).map(|held| look(held.shown()))
    }

    /// The same, but it does not count as use.
    pub fn peek<T>(&self, session: &SessionId, look: impl FnOnce(CachedSession<'_>) -> T) -> Option<T> {
        let inner = self.inner.lock().expect("no holder panics");
        inner.sessions.peek(session).map(|held| look(held.shown()))
    }

    /// Begins a warm-up: from here on the session's new messages are cached. Read the older ones now and call
    /// [`Cache::fill`].
    pub fn reserve(&self, session: &SessionId) -> Generation {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.touch(session, false);
        Generation(inner.sessions.get(session).map_or(u64::MAX, |held| held.generation))
    }

    /// Ends a warm-up with the messages that were read, oldest first, up to the oldest one held. Returns how many were
    /// cached: none if the session or its old end was evicted meanwhile.
    pub fn fill(&self, session: &SessionId, generation: Generation, older: &[Arc<Message>], extent: Extent) -> usize {
        let mut inner = self.inner.lock().expect("no holder panics");
        if inner.sessions.peek(session).is_none_or(|held| held.generation != generation.0) {
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
            held.whole |= extent == Extent::Whole;
            held.byte_limited |= extent == Extent::Cut;
            held.trim(self.messages_max);
        });
        self.shrink(&mut inner);
        kept
    }

    fn shrink(&self, inner: &mut CacheState) -> usize {
        let evicted = inner.shrink(self.bytes_max);
        self.meters.evictions.add(evicted as u64);
        evicted
    }

    /// What is counted since the start; its readers count hits and misses.
    pub fn meters(&self) -> &CacheMeters {
        &self.meters
    }

    /// Removes the messages of a session up to `id`. A warm-up of it under way is discarded.
    pub fn erase(&self, session: &SessionId, id: Id) {
        let mut inner = self.inner.lock().expect("no holder panics");
        let mut emptied = false;
        inner.change(session, |held| {
            while held.messages.front().is_some_and(|oldest| oldest.id() <= id) {
                held.pop_front();
                // Everything newer than the erased messages is held, too.
                held.whole = true;
            }
            // A warm-up under way may have read erased messages.
            held.receded = true;
            emptied = held.messages.is_empty();
        });
        if emptied && let Some(held) = inner.sessions.pop(session) {
            inner.bytes -= held.bytes;
        }
    }

    /// Forgets a session of which what is held may lack some: messages were imported. A warm-up of it under way is
    /// discarded.
    pub fn forget(&self, session: &SessionId) {
        let mut inner = self.inner.lock().expect("no holder panics");
        if let Some(held) = inner.sessions.pop(session) {
            inner.bytes -= held.bytes;
            inner.messages -= held.messages.len();
        }
    }

    /// Removes every message before `bound`, and sessions without others. Returns how many messages were removed.
    ///
    /// The cache is locked meanwhile; of a session without such messages only the oldest one is checked.
    pub fn expire(&self, bound: Id) -> usize {
        let mut inner = self.inner.lock().expect("no holder panics");
        let before = inner.messages;
        let is_old = |held: &Session| held.messages.front().is_some_and(|oldest| oldest.id() < bound);
        let old = inner.sessions.iter().filter(|(_, held)| is_old(held));
        let old: Vec<SessionId> = old.map(|(session, _)| session.clone()).collect();
        for session in &old {
            inner.expire(session, bound);
        }
        before - inner.messages
    }

    /// The same for one session, after a warm-up.
    pub fn expire_one(&self, session: &SessionId, bound: Id) {
        self.inner.lock().expect("no holder panics").expire(session, bound);
    }

    /// The most bytes that a warm-up should add: more would evict all other sessions.
    #[must_use]
    pub fn warm_bytes_max(&self) -> usize {
        self.bytes_max / 4
    }

    /// Figures for the status.
    pub fn stats(&self) -> CacheStats {
        let inner = self.inner.lock().expect("no holder panics");
        CacheStats { sessions: inner.sessions.len(), messages: inner.messages, bytes: inner.bytes }
    }
}

impl Session {
    fn new(whole: bool, generation: u64) -> Self {
        let messages = VecDeque::new();
        Self {
            messages,
            bytes: SESSION_BYTES,
            whole,
            byte_limited: false,
            evicted_through: None,
            generation,
            receded: false,
        }
    }

    fn shown(&self) -> CachedSession<'_> {
        CachedSession {
            messages: &self.messages,
            whole: self.whole,
            byte_limited: self.byte_limited,
            evicted_through: self.evicted_through,
        }
    }

    fn pop_front(&mut self) {
        let Some(oldest) = self.messages.pop_front() else { return };
        self.bytes -= oldest.memory_bytes();
        // The run has no gaps, so everything after it is held; an earlier eviction of newer messages says less.
        self.evicted_through = Some(oldest.id());
        self.whole = false;
        self.receded = true;
    }

    fn trim(&mut self, messages_max: usize) {
        while self.messages.len() > messages_max {
            self.pop_front();
        }
    }

    fn give_back(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.messages.len() > 1 {
            self.pop_front();
            self.byte_limited = true;
        }
    }
}

impl CacheState {
    /// Makes the session if it is not cached; returns whether it did. Counts as use.
    fn touch(&mut self, session: &SessionId, whole: bool) -> bool {
        if self.sessions.get(session).is_some() {
            return false;
        }
        self.next_generation += 1;
        let held = Session::new(whole, self.next_generation);
        self.bytes += held.bytes;
        self.sessions.put(session.clone(), held);
        true
    }

    /// Changes a cached session, and updates the totals.
    fn change(&mut self, session: &SessionId, change: impl FnOnce(&mut Session)) {
        let Some(held) = self.sessions.peek_mut(session) else { return };
        let (bytes, messages) = (held.bytes, held.messages.len());
        change(held);
        if std::mem::take(&mut held.receded) {
            self.next_generation += 1;
            held.generation = self.next_generation;
        }
        self.bytes = self.bytes + held.bytes - bytes;
        self.messages = self.messages + held.messages.len() - messages;
    }

    /// Removes a session's messages before `bound`, and the session if it has no others. A warm-up of it under way is
    /// discarded either way.
    fn expire(&mut self, session: &SessionId, bound: Id) {
        let mut emptied = false;
        self.change(session, |held| {
            while held.messages.front().is_some_and(|oldest| oldest.id() < bound) {
                held.pop_front();
                emptied = held.messages.is_empty();
            }
        });
        if emptied && let Some(held) = self.sessions.pop(session) {
            self.bytes -= held.bytes;
        }
    }

    /// Evicts sessions, the least recently used first, until the bytes fit; the last one is shortened instead, down to
    /// its newest message.
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
