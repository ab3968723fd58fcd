//! Jobs that a socket thread hands to workers, because it must not wait itself.
//!
//! The queue needs no limit of its own: a socket has at most one job of each kind, so there are no more jobs than
//! sockets, and a few of sockets that have closed, which cost nothing to skip. A bounded channel would have to be
//! allocated at that length in advance. A worker takes many jobs at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs in order of arrival.
pub(super) struct JobQueue<T> {
    inner: Mutex<QueueState<T>>,
    changed: Condvar,
}

struct QueueState<T> {
    waiting: VecDeque<T>,
    is_closed: bool,
}

impl<T> Default for JobQueue<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(QueueState { waiting: VecDeque::new(), is_closed: false }), changed: Condvar::new() }
    }
}

impl<T> JobQueue<T> {
    fn inner(&self) -> MutexGuard<'_, QueueState<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leave(&self, job: T) {
        self.inner().waiting.push_back(job);
        self.changed.notify_one();
    }

    /// Takes at most `max` jobs; waits for the first. `None`: the queue is closed and empty.
    pub(super) fn take(&self, max: usize) -> Option<Vec<T>> {
        let waited = self.changed.wait_while(self.inner(), |inner| inner.waiting.is_empty() && !inner.is_closed);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner);
        let count = inner.waiting.len().min(max);
        let taken: Vec<T> = inner.waiting.drain(..count).collect();
        if inner.waiting.is_empty() && inner.waiting.capacity() > max {
            inner.waiting = VecDeque::new();
        }
        (count > 0).then_some(taken)
    }

    /// Takes no more jobs from here on: workers finish what is queued, then end.
    pub(super) fn close(&self) {
        self.inner().is_closed = true;
        self.changed.notify_all();
    }
}
