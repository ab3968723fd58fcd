//! The threads that answer: at most so many, started when they are first needed, each for one turn at a time.
//!
//! A place is reserved before anything of a turn is recorded, and brings its thread with it, so that what is recorded is
//! also answered. A thread that gives its place back early, before it is quite done, makes the next one wait for that
//! little.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::permit::{Permit, Semaphore};
use crate::thread;

use super::answering::Answering;
use super::turn::TurnError;

/// See the module.
pub(super) struct Pool {
    places: Arc<Semaphore>,
    threads: Mutex<Threads>,
    turns: Receiver<Answering>,
    /// Ends when every thread has.
    ended: Receiver<()>,
}

struct Threads {
    started: Vec<JoinHandle<()>>,
    /// What a place needs; `None` once closed.
    open: Option<Open>,
}

struct Open {
    /// Holds a turn for each place, so it is never full; who has a place need not wait to hand its turn over.
    turns: Sender<Answering>,
    /// Nothing is sent: each thread holds one, and their end is the threads'.
    alive: Sender<()>,
}

/// A place, and where its turn goes to be answered.
pub(super) struct Slot {
    pub(super) place: Permit,
    pub(super) turns: Sender<Answering>,
}

impl Pool {
    pub(super) fn new(max: usize) -> Self {
        let (send, turns) = bounded(max);
        let (alive, ended) = bounded(0);
        let threads = Threads { started: Vec::new(), open: Some(Open { turns: send, alive }) };
        Self { places: Semaphore::new(max), threads: Mutex::new(threads), turns, ended }
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, with a thread for it.
    ///
    /// # Errors
    /// [`TurnError::AtCap`], also when the system has no thread left; [`TurnError::Stopping`].
    pub(super) fn reserve(&self) -> Result<Slot, TurnError> {
        let mut threads = self.threads();
        let Some(Open { turns, alive }) = &threads.open else { return Err(TurnError::Stopping) };
        let slot = Slot { place: self.places.try_acquire().ok_or(TurnError::AtCap)?, turns: turns.clone() };
        if threads.started.len() < self.places.taken() {
            let (turns, alive, name) =
                (self.turns.clone(), alive.clone(), format!("responder-{}", threads.started.len()));
            let started = thread::spawn(name, move || answer(&turns, &alive)).map_err(|e| {
                log::warn!("no thread for an answer: {e}");
                TurnError::AtCap
            })?;
            threads.started.push(started);
        }
        Ok(slot)
    }

    /// Places that are taken.
    pub(super) fn busy(&self) -> usize {
        self.places.taken()
    }

    /// Ends the threads and joins them, once every slot is gone; those that have not ended by `deadline` are left. Returns
    /// whether all have.
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
        // One that panics has said so to whoever waits for it.
        let _ = catch_unwind(AssertUnwindSafe(|| turn.run()));
    }
}
