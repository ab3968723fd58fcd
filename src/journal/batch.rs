//! A batch of records on its way to the disk, as those who wait for it see it: a word to sleep on.
//!
//! Every batch has a word of its own, so that a waiter is woken once and not for every batch that passes; and before it
//! sleeps it may give way a few times: a batch without a sync is over sooner than a sleep, one with a sync never is.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::error::AppendError;

/// A place in a batch: what a commit waits on.
#[must_use = "an append counts only when its ticket is committed"]
#[derive(Default)]
pub struct Ticket {
    /// The batch that was under way and holds what a key stands for.
    pub(super) earlier: Option<Arc<Batch>>,
    /// The batch that was open.
    pub(super) open: Option<Arc<Batch>>,
}

/// What the waiters of one batch share: a word to sleep on. The outcome is read without a lock, so that all may wake at
/// once and none waits for another.
#[derive(Default)]
pub struct Batch {
    state: AtomicU32,
    /// Threads that sleep or are about to: nobody, and the end needs no call to the system.
    sleepers: AtomicU32,
    refusal: OnceLock<AppendError>,
}

/// Nothing is decided.
const OPEN: u32 = 0;
/// Nothing is decided, and one waiter is asked to lead.
const LEAD: u32 = 1;
/// Durable and published.
const KEPT: u32 = 2;
/// Refused: nothing of it will be published.
const REFUSED: u32 = 3;

impl Batch {
    /// Decides it, and wakes all who sleep.
    pub fn finish(&self, outcome: Result<(), AppendError>) {
        let state = match outcome {
            Ok(()) => KEPT,
            Err(refusal) => {
                // There is one end only.
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

    /// Waits for the outcome, giving way `patience` times before it sleeps; `None` when asked to lead instead.
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
