//! The threads that answer: at most `responder.max_concurrent`, started when first needed, each for one turn at a time.
//!
//! A slot is reserved before anything of a turn is recorded, and guarantees a thread, so that what is recorded is also
//! answered. A thread that gives its slot back a little before it is done delays the next turn by that little.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::permit::{Permit, Semaphore};
use crate::thread;

use super::answering::Answering;
use super::turn::TurnError;

/// The threads and their slots.
pub(super) struct TurnPool {
    places: Arc<Semaphore>,
    threads: Mutex<PoolThreads>,
    turns: Receiver<Answering>,
    /// Closes when every thread has ended.
    ended: Receiver<()>,
}

struct PoolThreads {
    started: Vec<JoinHandle<()>>,
    /// What slots need; `None` once closed.
    open: Option<PoolSenders>,
}

struct PoolSenders {
    /// Holds a turn for each slot, so it is never full: handing a turn over never waits.
    turns: Sender<Answering>,
    /// Nothing is sent: each thread holds a clone, so the channel closes when all have ended.
    alive: Sender<()>,
}

/// The right to have one turn answered.
pub(super) struct ResponderSlot {
    pub(super) place: Permit,
    pub(super) turns: Sender<Answering>,
}

impl TurnPool {
    pub(super) fn new(max: usize) -> Self {
        let (send, turns) = bounded(max);
        let (alive, ended) = bounded(0);
        let threads = PoolThreads { started: Vec::new(), open: Some(PoolSenders { turns: send, alive }) };
        Self { places: Semaphore::new(max), threads: Mutex::new(threads), turns, ended }
    }

    fn threads(&self) -> MutexGuard<'_, PoolThreads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot, with a thread for it.
    ///
    /// # Errors
    /// [`TurnError::AtCap`] if all slots are taken or the system gives no more threads; [`TurnError::Stopping`].
    pub(super) fn reserve(&self) -> Result<ResponderSlot, TurnError> {
        let mut threads = self.threads();
        let Some(PoolSenders { turns, alive }) = &threads.open else { return Err(TurnError::Stopping) };
        let slot = ResponderSlot { place: self.places.try_acquire().ok_or(TurnError::AtCap)?, turns: turns.clone() };
        if threads.started.len() < self.places.taken() {
            let (turns, alive, name) =
                (self.turns.clone(), alive.clone(), format!("responder-{}", threads.started.len()));
            let started = thread::spawn(name, move || answer(&turns, &alive)).map_err(|e| {
                log::warn!("cannot start a thread for an answer: {e}");
                TurnError::AtCap
            })?;
            threads.started.push(started);
        }
        Ok(slot)
    }

    /// Slots that are taken.
    pub(super) fn busy(&self) -> usize {
        self.places.taken()
    }

    /// Ends the threads and joins them, once every slot is given back; threads that have not ended by `deadline` are
    /// abandoned. Returns whether all have ended.
    pub(super) fn close(&self, deadline: Instant) -> bool {
        let threads = {
            let mut threads = self.threads();
            threads.open = None;
            std::mem::take(&mut threads.started)
        };
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            return false;
        }
        for thread in threads {
            // It caught its own panics.
            let _ = thread.join();
        }
        true
    }
}

fn answer(turns: &Receiver<Answering>, _alive: &Sender<()>) {
    for turn in turns {
        // A turn that panics has told its followers.
        let _ = catch_unwind(AssertUnwindSafe(|| turn.run()));
    }
}
