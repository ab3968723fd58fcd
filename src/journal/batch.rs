//! A batch of records on its way to the disk, as its waiters see it: an atomic word to sleep on.
//!
//! Every batch has a word of its own, so that a waiter is woken once and not for every batch that passes. Before it
//! sleeps a waiter may yield a few times: a batch without a sync is over sooner than a sleep, one with a sync never is.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::error::AppendError;

/// A place in a batch; [`Journal::commit`](super::Journal::commit) waits for it.
#[must_use = "an append counts only when its ticket is committed"]
#[derive(Default)]
pub struct Ticket {
    /// The batch under way, if it holds the record that a key stands for.
    pub(super) earlier: Option<Arc<Batch>>,
    /// The batch that was open.
    pub(super) open: Option<Arc<Batch>>,
}

/// What the waiters of one batch share. The outcome is read without a lock, so that all wake at once and none waits for
/// another.
#[derive(Default)]
pub struct Batch {
    state: AtomicU32,
    /// Threads that sleep or are about to; if there are none, the end needs no system call.
    sleepers: AtomicU32,
    refusal: OnceLock<AppendError>,
}

/// Neither durable nor refused yet.
const OPEN: u32 = 0;
/// Neither yet, and one waiter is asked to lead.
const LEAD: u32 = 1;
/// Durable and published.
const KEPT: u32 = 2;
/// Refused: none of its records will be published.
const REFUSED: u32 = 3;

impl Batch {
    /// Sets the outcome and wakes all sleepers.
    pub fn finish(&self, outcome: Result<(), AppendError>) {
        let state = match outcome {
            Ok(()) => KEPT,
            Err(refusal) => {
                // It is set only once.
                let _ = self.refusal.set(refusal);
                REFUSED
            }
        };
        self.state.store(state, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            atomic_wait::wake_all(&self.state);
        }
    }

    /// Asks one waiter to lead.
    pub fn ask_to_lead(&self) {
        let asked = self.state.compare_exchange(OPEN, LEAD, Ordering::SeqCst, Ordering::SeqCst);
        if asked.is_ok() && self.sleepers.load(Ordering::SeqCst) > 0 {
            atomic_wait::wake_one(&self.state);
        }
    }

    /// Waits for the outcome; yields `patience` times before it sleeps. `None`: this waiter should lead instead.
    pub fn wait(&self, mut patience: u32) -> Option<Result<(), AppendError>> {
        loop {
            match self.state.load(Ordering::SeqCst) {
                KEPT => return Some(Ok(())),
                REFUSED => return Some(Err(self.refusal.get().expect("it is set before the state").clone())),
                LEAD => {
                    if self.state.compare_exchange(LEAD, OPEN, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                        return None;
                    }
                }
                _ if patience > 0 => {
                    patience -= 1;
                    std::thread::yield_now();
                }
                _ => {
                    self.sleepers.fetch_add(1, Ordering::SeqCst);
                    atomic_wait::wait(&self.state, OPEN);
                    self.sleepers.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
    }
}
