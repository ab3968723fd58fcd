//! What a thread of sockets leaves for others to do, because it must not wait itself.
//!
//! Bounded by construction: a socket has one job of a kind at most, so there are no more than sockets, and few of those
//! that have gone meanwhile, which cost nothing to pass over; a channel would have to be made that long beforehand. Whoever
//! works takes many at once.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// See the module.
pub(super) struct JobQueue<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    is_closed: bool,
}

impl<T> Default for JobQueue<T> {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner { waiting: VecDeque::new(), is_closed: false }), changed: Condvar::new() }
    }
}

impl<T> JobQueue<T> {
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leave(&self, job: T) {
        self.inner().waiting.push_back(job);
        self.changed.notify_one();
    }

    /// At most `max` of them, waiting for the first. `None`: closed, and nothing is left.
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

    /// What is there is worked through, and then the workers end.
    pub(super) fn close(&self) {
        self.inner().is_closed = true;
        self.changed.notify_all();
    }
}
