//! Whose turn it is: one at a time for each session, in order of arrival; sessions do not wait for each other.
//!
//! Only turns that may wait for their responder come here. A session stands here as long as somebody has its place or waits
//! for it, so the memory follows the turns under way.
//!
//! Knows nothing of responders and records. Lock order: this lock, then a turn's own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::journal::{AppendError, Key};
use crate::message::SessionId;

use super::running::{Running, Why};
use super::turn::{TurnError, WhenBusy};

/// See the module.
#[derive(Default)]
pub(super) struct TurnQueues {
    inner: Mutex<Inner>,
    /// The last place was given back.
    idle: Condvar,
}

#[derive(Default)]
struct Inner {
    lines: HashMap<SessionId, Queue>,
    is_closed: bool,
}

/// One session's: who has the place, and who waits for it.
#[derive(Default)]
struct Queue {
    holder: Option<Holder>,
    next_ticket: u64,
    waiting: VecDeque<Waiter>,
    /// Erasures of the session that are under way.
    erasing: usize,
    changed: Arc<Condvar>,
}

/// A turn that waits for the place, in the order of tickets.
#[derive(Clone, Copy)]
struct Waiter {
    ticket: u64,
    key: Option<Key>,
    when_busy: WhenBusy,
}

/// Who has the place of a session.
pub(super) enum Holder {
    /// Somebody who gives it back after a sync at most.
    Brief,
    /// A turn whose message is not recorded yet, with its key.
    Beginning(Option<Key>),
    /// A turn that is answered.
    Running(Arc<Running>),
}

/// What came of waiting.
pub(super) enum Entered {
    /// The place is the caller's.
    TurnPermit(TurnPermit),
    /// A turn with the caller's key is being answered.
    Same(Arc<Running>),
}

/// The place of a session, given back when it is dropped.
pub(super) struct TurnPermit {
    sessions: Arc<TurnQueues>,
    session: SessionId,
}

/// An erasure of a session that is under way; over when it is dropped.
pub(super) struct Erasing {
    sessions: Arc<TurnQueues>,
    session: SessionId,
}

impl Queue {
    fn running(&self) -> Option<&Arc<Running>> {
        match &self.holder {
            Some(Holder::Running(running)) => Some(running),
            _ => None,
        }
    }

    /// The turn that is answered under that key.
    ///
    /// An error: it came with other content.
    fn same(&self, key: Option<&Key>) -> Result<Option<&Arc<Running>>, TurnError> {
        let Some(key) = key else { return Ok(None) };
        // What an erased message's key stood for is forgotten, also while its turn is ending.
        let is_same =
            |running: &&Arc<Running>| running.key().is_some_and(|other| other.hash == key.hash) && !running.is_erased();
        match self.running().filter(is_same) {
            Some(running) if running.key() != Some(key) => Err(TurnError::Refused(AppendError::KeyConflict(0))),
            found => Ok(found),
        }
    }

    /// What comes of waiting now: the turn to join, or the place if there is none. `None`: it waits on.
    fn call(&self, waiter: &Waiter, is_closed: bool, is_late: bool) -> Option<Result<Option<Arc<Running>>, TurnError>> {
        match self.same(waiter.key.as_ref()) {
            Err(no_turn) => Some(Err(no_turn)),
            Ok(Some(running)) => Some(Ok(Some(running.clone()))),
            Ok(None) if is_closed => Some(Err(TurnError::Stopping)),
            Ok(None) if self.is_turn_of(waiter) => Some(Ok(None)),
            Ok(None) if waiter.when_busy == WhenBusy::Refuse && self.is_busy_for(waiter) => Some(Err(TurnError::Busy)),
            Ok(None) => is_late.then_some(Err(TurnError::Late)),
        }
    }

    fn is_turn_of(&self, waiter: &Waiter) -> bool {
        self.holder.is_none() && self.waiting.front().is_some_and(|first| first.ticket == waiter.ticket)
    }

    /// Whether another message is being answered, for one that does not queue.
    fn is_busy_for(&self, waiter: &Waiter) -> bool {
        // Others with the same message do not count: whoever of them goes first, the others are told the same.
        let is_other = |key: &Option<Key>| waiter.key.is_none() || *key != waiter.key;
        let mut before = self.waiting.iter().take_while(|other| other.ticket != waiter.ticket);
        before.any(|other| is_other(&other.key))
            || match &self.holder {
                None | Some(Holder::Brief) => false,
                // The same message by another way: it is answered soon, or over.
                Some(Holder::Beginning(key)) => is_other(key),
                Some(Holder::Running(running)) => running.is_answering(),
            }
    }

    fn is_unused(&self) -> bool {
        self.holder.is_none() && self.waiting.is_empty() && self.erasing == 0
    }
}

impl TurnQueues {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session's place for `holder`, or joins the turn that is answered under the same key.
    ///
    /// # Errors
    /// [`TurnError`]: busy, closed, or `until` has come.
    pub(super) fn enter(
        self: &Arc<Self>,
        session: &SessionId,
        holder: Holder,
        when_busy: WhenBusy,
        until: Instant,
    ) -> Result<Entered, TurnError> {
        let key = match &holder {
            Holder::Beginning(key) => *key,
            _ => None,
        };
        let mut inner = self.inner();
        let line = inner.lines.entry(session.clone()).or_default();
        let (waiter, changed) = (Waiter { ticket: line.next_ticket, key, when_busy }, line.changed.clone());
        line.next_ticket += 1;
        line.waiting.push_back(waiter);
        let called = loop {
            let is_closed = inner.is_closed;
            let left = until.saturating_duration_since(Instant::now());
            let line = inner.lines.get_mut(session).expect("who waits keeps the line");
            if let Some(called) = line.call(&waiter, is_closed, left.is_zero()) {
                line.waiting.retain(|other| other.ticket != waiter.ticket);
                if let Ok(None) = called {
                    line.holder = Some(holder);
                }
                break called;
            }
            inner = changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        // Before the lock is given back: with its last follower a turn is stopped.
        called.iter().flatten().for_each(|running| running.join());
        self.tidy(&mut inner, session);
        Ok(match called? {
            Some(running) => Entered::Same(running),
            None => Entered::TurnPermit(TurnPermit { sessions: Arc::clone(self), session: session.clone() }),
        })
    }

    /// Wakes those who may go on, or takes a line away that nobody needs.
    fn tidy(&self, inner: &mut Inner, session: &SessionId) {
        let Some(line) = inner.lines.get(session) else { return };
        line.changed.notify_all();
        if line.is_unused() {
            inner.lines.remove(session);
        }
        if inner.lines.is_empty() {
            self.idle.notify_all();
        }
    }

    /// The turn of a session that is being answered.
    pub(super) fn running(&self, session: &SessionId) -> Option<Arc<Running>> {
        self.inner().lines.get(session)?.running().cloned()
    }

    /// How many wait for the place of a session.
    #[cfg(test)]
    pub(super) fn waiting(&self, session: &SessionId) -> usize {
        self.inner().lines.get(session).map_or(0, |line| line.waiting.len())
    }

    /// Keeps replies of the session from being recorded until the erasure is over. A reply that is being recorded at the
    /// moment is waited for, by [`Running::erase`].
    pub(super) fn begin_erasing(self: &Arc<Self>, session: &SessionId) -> Erasing {
        let mut inner = self.inner();
        let line = inner.lines.entry(session.clone()).or_default();
        line.erasing += 1;
        let running = line.running().cloned();
        drop(inner);
        if let Some(running) = running {
            running.erase();
        }
        Erasing { sessions: Arc::clone(self), session: session.clone() }
    }

    /// All turns that are being answered.
    pub(super) fn all_running(&self) -> Vec<Arc<Running>> {
        self.inner().lines.values().filter_map(Queue::running).cloned().collect()
    }

    /// Lets nobody in any more, and sends away who waits.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.is_closed = true;
        inner.lines.values().for_each(|line| line.changed.notify_all());
    }

    /// Waits until every place is given back, at most until `until`; whether they are.
    pub(super) fn wait_until_idle(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.idle.wait_timeout_while(self.inner(), left, |inner| !inner.lines.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.lines.is_empty()
    }
}

impl TurnPermit {
    /// The turn it was taken for is being answered.
    pub(super) fn run(&self, running: &Arc<Running>) {
        let mut inner = self.sessions.inner();
        let line = inner.lines.get_mut(&self.session).expect("who has the place keeps the line");
        line.holder = Some(Holder::Running(running.clone()));
        // Who brings the same key joins it.
        line.changed.notify_all();
    }

    /// Makes what was said final, once no erasure of the session is under way: it tells then whether it has erased the turn.
    pub(super) fn begin_recording(&self, running: &Running) -> (String, Option<Why>) {
        let mut inner = self.sessions.inner();
        while let Some(line) = inner.lines.get(&self.session).filter(|line| line.erasing > 0) {
            let changed = line.changed.clone();
            inner = changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        running.begin_recording()
    }
}

impl Drop for Erasing {
    fn drop(&mut self) {
        let mut inner = self.sessions.inner();
        if let Some(line) = inner.lines.get_mut(&self.session) {
            line.erasing -= 1;
        }
        self.sessions.tidy(&mut inner, &self.session);
    }
}

impl Drop for TurnPermit {
    fn drop(&mut self) {
        let mut inner = self.sessions.inner();
        if let Some(line) = inner.lines.get_mut(&self.session) {
            line.holder = None;
        }
        self.sessions.tidy(&mut inner, &self.session);
    }
}
