//! The queues of turns: one turn at a time for each session, in order of arrival; sessions do not wait for each other.
//!
//! Only turns that may wait for their responder come here. A session has a queue as long as a turn holds its permit or
//! waits for it, so memory follows the turns under way.
//!
//! Knows nothing of responders and records. Lock order: this lock, then a turn's own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::journal::{AppendError, IdempotencyKey};
use crate::message::SessionId;

use super::running::{RunningTurn, Why};
use super::turn::{TurnClient, TurnError, WhenBusy};

/// The queues of all sessions.
#[derive(Default)]
pub(super) struct TurnQueues {
    inner: Mutex<QueuesState>,
    /// Signalled when the last permit was given back.
    idle: Condvar,
}

#[derive(Default)]
struct QueuesState {
    queues: HashMap<SessionId, SessionQueue>,
    is_closed: bool,
}

/// One session's queue: the holder of the permit, and the turns that wait for it.
#[derive(Default)]
struct SessionQueue {
    holder: Option<Holder>,
    /// The holder is beginning, and is to be stopped once it runs.
    is_unwanted: bool,
    next_ticket: u64,
    waiting: VecDeque<QueuedTurn>,
    /// Erasures of the session under way.
    erasing: usize,
    changed: Arc<Condvar>,
}

/// A turn that waits for the permit, in the order of tickets.
#[derive(Clone, Copy)]
struct QueuedTurn {
    ticket: u64,
    key: Option<IdempotencyKey>,
    when_busy: WhenBusy,
    /// It ends after a sync at most: others wait for it rather than be refused.
    is_brief: bool,
}

/// The holder of a session's permit.
pub(super) enum Holder {
    /// A turn that ends after a sync at most.
    Brief,
    /// A turn whose message is not recorded yet, with its key.
    Beginning(Option<IdempotencyKey>),
    /// A turn that is being answered.
    Running(Arc<RunningTurn>),
}

/// The result of waiting.
pub(super) enum Entered {
    /// The caller holds the permit.
    TurnPermit(TurnPermit),
    /// A turn with the caller's key is being answered.
    Same(Arc<RunningTurn>),
}

/// The permit of a session, given back on drop.
pub(super) struct TurnPermit {
    queues: Arc<TurnQueues>,
    session: SessionId,
}

/// An erasure of a session under way, until it is dropped.
pub(super) struct Erasing {
    queues: Arc<TurnQueues>,
    session: SessionId,
}

impl SessionQueue {
    fn running(&self) -> Option<&Arc<RunningTurn>> {
        match &self.holder {
            Some(Holder::Running(running)) => Some(running),
            _ => None,
        }
    }

    /// The running turn with that key.
    ///
    /// An error: it has other content.
    fn same(&self, key: Option<&IdempotencyKey>) -> Result<Option<&Arc<RunningTurn>>, TurnError> {
        let Some(key) = key else { return Ok(None) };
        // The key of an erased message is forgotten, even while its turn is ending.
        let is_same = |running: &&Arc<RunningTurn>| {
            running.key().is_some_and(|other| other.hash == key.hash) && !running.is_erased()
        };
        match self.running().filter(is_same) {
            Some(running) if running.key() != Some(key) => Err(TurnError::Refused(AppendError::KeyConflict(0))),
            found => Ok(found),
        }
    }

    /// The result of waiting by now: the turn to join, or `Some(None)`: the permit. `None`: wait on.
    fn call(
        &self,
        waiter: &QueuedTurn,
        is_closed: bool,
        is_late: bool,
    ) -> Option<Result<Option<Arc<RunningTurn>>, TurnError>> {
        match self.same(waiter.key.as_ref()) {
            Err(no_turn) => Some(Err(no_turn)),
            Ok(Some(running)) => Some(Ok(Some(running.clone()))),
            Ok(None) if is_closed => Some(Err(TurnError::Stopping)),
            Ok(None) if self.is_turn_of(waiter) => Some(Ok(None)),
            Ok(None) if waiter.when_busy == WhenBusy::Refuse && self.is_busy_for(waiter) => Some(Err(TurnError::Busy)),
            Ok(None) => is_late.then_some(Err(TurnError::Late)),
        }
    }

    fn is_turn_of(&self, waiter: &QueuedTurn) -> bool {
        self.holder.is_none() && self.waiting.front().is_some_and(|first| first.ticket == waiter.ticket)
    }

    /// Whether another message is being answered, for a turn that does not queue.
    fn is_busy_for(&self, waiter: &QueuedTurn) -> bool {
        // Turns with the same message do not count: whichever goes first, the others get its answer.
        let is_other = |key: &Option<IdempotencyKey>| waiter.key.is_none() || *key != waiter.key;
        let mut before = self.waiting.iter().take_while(|other| other.ticket != waiter.ticket);
        before.any(|other| !other.is_brief && is_other(&other.key))
            || match &self.holder {
                None | Some(Holder::Brief) => false,
                // The same message by another transport: it is answered soon, or over.
                Some(Holder::Beginning(key)) => is_other(key),
                Some(Holder::Running(running)) => running.is_answering(),
            }
    }

    fn is_unused(&self) -> bool {
        self.holder.is_none() && self.waiting.is_empty() && self.erasing == 0
    }
}

impl TurnQueues {
    fn inner(&self) -> MutexGuard<'_, QueuesState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session's permit for `holder`, or joins the running turn with the same key. A client is looked at while it
    /// waits, and once more when its turn has come.
    ///
    /// # Errors
    /// [`TurnError`]: busy, stopping, the client is gone, or `until` has passed. Nothing was taken.
    pub(super) fn enter(
        self: &Arc<Self>,
        session: &SessionId,
        holder: Holder,
        client: &TurnClient<'_>,
        until: Instant,
    ) -> Result<Entered, TurnError> {
        let key = match &holder {
            Holder::Beginning(key) => *key,
            _ => None,
        };
        let mut inner = self.inner();
        let queue = inner.queues.entry(session.clone()).or_default();
        let is_brief = matches!(holder, Holder::Brief);
        let waiter = QueuedTurn { ticket: queue.next_ticket, key, when_busy: client.when_busy, is_brief };
        let changed = queue.changed.clone();
        queue.next_ticket += 1;
        queue.waiting.push_back(waiter);
        let mut is_gone = false;
        let called = loop {
            let is_closed = inner.is_closed;
            let now = Instant::now();
            let queue = inner.queues.get_mut(session).expect("who waits keeps the line");
            let called =
                if is_gone { Some(Err(TurnError::Gone)) } else { queue.call(&waiter, is_closed, now >= until) };
            if let Some(called) = called {
                queue.waiting.retain(|other| other.ticket != waiter.ticket);
                if let Ok(None) = called {
                    queue.holder = Some(holder);
                }
                break called;
            }
            let left = client.presence.next_look(until).saturating_duration_since(now);
            drop(changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner));
            is_gone = client.presence.is_gone();
            inner = self.inner();
        };
        // Before the lock is released, because a turn is stopped with its last follower.
        called.iter().flatten().for_each(|running| running.join());
        self.tidy(&mut inner, session);
        Ok(match called? {
            Some(running) => Entered::Same(running),
            None => Entered::TurnPermit(TurnPermit { queues: Arc::clone(self), session: session.clone() }),
        })
    }

    /// Wakes the turns that may go on, or removes a queue that is not needed any more.
    fn tidy(&self, inner: &mut QueuesState, session: &SessionId) {
        let Some(queue) = inner.queues.get(session) else { return };
        queue.changed.notify_all();
        if queue.is_unused() {
            inner.queues.remove(session);
        }
        if inner.queues.is_empty() {
            self.idle.notify_all();
        }
    }

    /// Stops the turn that has the session's permit; one that is beginning is stopped as soon as it runs. `false`: there is
    /// none, or it is stopping already.
    pub(super) fn stop(&self, session: &SessionId) -> bool {
        let mut inner = self.inner();
        let Some(queue) = inner.queues.get_mut(session) else { return false };
        match &queue.holder {
            Some(Holder::Running(running)) => {
                let running = running.clone();
                drop(inner);
                running.stop()
            }
            Some(Holder::Beginning(_)) => !std::mem::replace(&mut queue.is_unwanted, true),
            Some(Holder::Brief) | None => false,
        }
    }

    /// The running turn of a session.
    pub(super) fn running(&self, session: &SessionId) -> Option<Arc<RunningTurn>> {
        self.inner().queues.get(session)?.running().cloned()
    }

    /// How many turns wait for the permit of a session.
    #[cfg(test)]
    pub(super) fn waiting(&self, session: &SessionId) -> usize {
        self.inner().queues.get(session).map_or(0, |queue| queue.waiting.len())
    }

    /// Keeps replies of the session from being recorded until the erasure is over. [`RunningTurn::erase`] waits for a reply
    /// that is being recorded already.
    pub(super) fn begin_erasing(self: &Arc<Self>, session: &SessionId) -> Erasing {
        let mut inner = self.inner();
        let queue = inner.queues.entry(session.clone()).or_default();
        queue.erasing += 1;
        let running = queue.running().cloned();
        drop(inner);
        if let Some(running) = running {
            running.erase();
        }
        Erasing { queues: Arc::clone(self), session: session.clone() }
    }

    /// All running turns.
    pub(super) fn all_running(&self) -> Vec<Arc<RunningTurn>> {
        self.inner().queues.values().filter_map(SessionQueue::running).cloned().collect()
    }

    /// Refuses new turns and those that wait.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.is_closed = true;
        inner.queues.values().for_each(|queue| queue.changed.notify_all());
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.inner().is_closed
    }

    /// Waits until every permit is given back, at most until `until`; returns whether they are.
    pub(super) fn wait_until_idle(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.idle.wait_timeout_while(self.inner(), left, |inner| !inner.queues.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.queues.is_empty()
    }
}

impl TurnPermit {
    /// Notes that the holder's turn is being answered. Stops it if that was asked for while it began.
    pub(super) fn run(&self, running: &Arc<RunningTurn>) {
        let mut inner = self.queues.inner();
        let queue = inner.queues.get_mut(&self.session).expect("who has the place keeps the line");
        queue.holder = Some(Holder::Running(running.clone()));
        // Waiting turns with the same key join it.
        queue.changed.notify_all();
        if std::mem::take(&mut queue.is_unwanted) {
            drop(inner);
            running.stop();
        }
    }

    /// Makes the text final, once no erasure of the session is under way: by then it is known whether the turn was
    /// erased.
    pub(super) fn begin_recording(&self, running: &RunningTurn) -> (String, Option<Why>) {
        let mut inner = self.queues.inner();
        while let Some(queue) = inner.queues.get(&self.session).filter(|queue| queue.erasing > 0) {
            let changed = queue.changed.clone();
            inner = changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        running.begin_recording()
    }
}

impl Drop for Erasing {
    fn drop(&mut self) {
        let mut inner = self.queues.inner();
        if let Some(queue) = inner.queues.get_mut(&self.session) {
            queue.erasing -= 1;
        }
        self.queues.tidy(&mut inner, &self.session);
    }
}

impl Drop for TurnPermit {
    fn drop(&mut self) {
        let mut inner = self.queues.inner();
        if let Some(queue) = inner.queues.get_mut(&self.session) {
            (queue.holder, queue.is_unwanted) = (None, false);
        }
        self.queues.tidy(&mut inner, &self.session);
    }
}
