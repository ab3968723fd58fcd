//! The newest messages of the sessions in use, in memory, so that a UI opens a conversation without touching a disk.
//!
//! Bounded twice: `max_messages_per_session` for each, `max_bytes` for all; beyond, the oldest message of the session
//! and the session that was longest not used give way. What is gone from here stands in the transcript.
//!
//! Invariant: what a session holds is a run without holes up to its newest published message. `whole` tells that nothing
//! older exists. To keep that true, [`Cache::push`] comes from one thread in sequence, after the transcript has the
//! message, and a warm-up ([`Cache::reserve`], read, [`Cache::fill`]) counts only if the session stayed in between and let
//! nothing of its old end go: else there could be a hole between what was read and what is held.
//!
//! What has expired leaves from the old end like anything that gives way. It does not make a session whole: by a clock
//! that is turned back it has not expired, and still stands in the transcript. What a session let go of last is noted
//! instead, and whoever asks only for what lies behind that, as every reader with a TTL soon does, is answered from here.
//!
//! Knows nothing of files or of what is asked for.

#[cfg(test)]
mod tests;

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
    /// Given to each session that is made or lets go of its old end: tells it from what it was before.
    next_stay: u64,
}

struct Session {
    messages: VecDeque<Arc<Message>>,
    /// The memory of it all, kept as messages come and go.
    bytes: usize,
    whole: bool,
    /// It holds less than the limit of messages, and a warm-up would not change that.
    byte_limited: bool,
    /// The newest message that it let go of: whatever is newer is held.
    evicted_through: Option<Id>,
    stay: u64,
    /// Its old end gave way since it got its stay.
    receded: bool,
}

/// What the cache has of a session, while it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Oldest first, without holes up to the newest.
    pub messages: &'a VecDeque<Arc<Message>>,
    /// Nothing older exists.
    pub whole: bool,
    /// A warm-up would bring in no more than this.
    pub byte_limited: bool,
    /// Everything newer than this is held; `None` when nothing was let go of yet.
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
    /// Less, for the bytes it takes: it would be no use to read them again.
    Cut,
}

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

    /// Looks at what is held of a session; `None` when it is not in use. Counts as use. Everybody waits meanwhile: `look`
    /// takes what it needs and no more.
    pub fn look<T>(&self, session: &SessionId, look: impl FnOnce(Held<'_>) -> T) -> Option<T> {
        let mut inner = self.inner.lock().expect("no holder panics");
        let held = inner.sessions.get(session)?;
        Some(look(Held {
            messages: &held.messages,
            whole: held.whole,
            byte_limited: held.byte_limited,
            evicted_through: held.evicted_through,
        }))
    }

    /// Begins a warm-up: from here on the session's new messages are kept. Read the older ones now and [`Cache::fill`].
    pub fn reserve(&self, session: &SessionId) -> Generation {
        let mut inner = self.inner.lock().expect("no holder panics");
        inner.touch(session, false);
        Generation(inner.sessions.get(session).map_or(u64::MAX, |held| held.stay))
    }

    /// Ends a warm-up with the messages that were read, oldest first and up to what is held. Returns how many were kept:
    /// none when the session, or its old end, had to give way in between.
    pub fn fill(&self, session: &SessionId, stay: Generation, older: &[Arc<Message>], extent: Extent) -> usize {
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
            held.whole |= extent == Extent::Whole;
            held.byte_limited |= extent == Extent::Cut;
            held.trim(self.messages_max);
        });
        inner.shrink(self.bytes_max);
        kept
    }

    /// Forgets the messages of a session up to `id`. A warm-up of it under way is dropped.
    pub fn erase(&self, session: &SessionId, id: Id) {
        let mut inner = self.inner.lock().expect("no holder panics");
        let mut emptied = false;
        inner.change(session, |held| {
            while held.messages.front().is_some_and(|oldest| oldest.id() <= id) {
                held.pop_front();
                // Whatever is newer than what goes is held too.
                held.whole = true;
            }
            // A warm-up under way may have read what is erased.
            held.receded = true;
            emptied = held.messages.is_empty();
        });
        if emptied && let Some(held) = inner.sessions.pop(session) {
            inner.bytes -= held.bytes;
        }
    }

    /// Lets go of every message before `bound`, and of sessions that have no other. Returns how many messages went.
    ///
    /// Everybody waits meanwhile; of a session without such messages only its oldest one is looked at.
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

    /// The most bytes a warm-up should bring in: more of one session would push all others out.
    #[must_use]
    pub fn warm_bytes_max(&self) -> usize {
        self.bytes_max / 4
    }

    /// Figures for the status.
    pub fn stats(&self) -> Stats {
        let inner = self.inner.lock().expect("no holder panics");
        Stats { sessions: inner.sessions.len(), messages: inner.messages, bytes: inner.bytes }
    }
}

impl Session {
    fn new(whole: bool, stay: u64) -> Self {
        let messages = VecDeque::new();
        Self { messages, bytes: SESSION_BYTES, whole, byte_limited: false, evicted_through: None, stay, receded: false }
    }

    fn pop_front(&mut self) {
        let Some(oldest) = self.messages.pop_front() else { return };
        self.bytes -= oldest.memory_bytes();
        // All behind it is held, for the run has no holes; that it may have let go of newer ones once says less.
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
        if std::mem::take(&mut held.receded) {
            self.next_stay += 1;
            held.stay = self.next_stay;
        }
        self.bytes = self.bytes + held.bytes - bytes;
        self.messages = self.messages + held.messages.len() - messages;
    }

    /// Lets go of a session's messages before `bound`, and of the session when it has no other. A warm-up of it under way
    /// is dropped either way.
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
