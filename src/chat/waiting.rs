//! How many requests wait in turns: each holds a thread and a connection, and those who record or read must have some left.
//!
//! Knows nothing of what they wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts who waits, up to a limit.
#[derive(Debug)]
pub(super) struct WaitingRoom {
    waiting: AtomicUsize,
    max: usize,
}

/// A place in it, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Waiting(Arc<WaitingRoom>);

impl WaitingRoom {
    pub(super) fn new(max: usize) -> Self {
        Self { waiting: AtomicUsize::new(0), max }
    }

    /// A place, unless as many wait as may.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Waiting> {
        let one_more = |waiting| (waiting < self.max).then_some(waiting + 1);
        let entered = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.ok().map(|_| Waiting(Arc::clone(self)))
    }

    pub(super) fn count(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
