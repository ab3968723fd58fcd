//! The threads that answer: for at most `responder.max_concurrent` turns at once, started when first needed, each for one turn at a time.
//!
//! A slot is reserved before anything of a turn is recorded, and guarantees a thread, so that what is recorded is also
//! answered. A thread that gives its slot back a little before it is done delays the next turn by that little.
//!
//! A turn that gives way hands its slot over at once, while its responder is still being stopped. So there may be twice
//! as many threads as slots, and a responder that does not heed its stop makes no new turn wait.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::permit::{Permit, Semaphore};
use crate::thread;

use super::turn::TurnError;

/// What a thread does with its slot: it has one answer given.
pub(super) type AnswerTask = Box<dyn FnOnce() + Send>;

/// The threads and their slots.
pub(super) struct TurnPool {
    places: Arc<Semaphore>,
    /// Responders that are asked, with those that are being stopped.
    seats: Arc<Semaphore>,
    threads: Mutex<PoolThreads>,
    turns: Receiver<AnswerTask>,
    /// Closes when every thread has ended.
    ended: Receiver<()>,
}

struct PoolThreads {
    started: Vec<JoinHandle<()>>,
    /// What slots need; `None` once closed.
    open: Option<PoolSenders>,
}

struct PoolSenders {
    /// Holds a turn for each seat, so it is never full: handing a turn over never waits.
    turns: Sender<AnswerTask>,
    /// Nothing is sent: each thread holds a clone, so the channel closes when all have ended.
    alive: Sender<()>,
}

/// The right to have one turn answered.
pub(super) struct ResponderSlot {
    /// Counts among `responder.max_concurrent`; may be handed over to another turn.
    pub(super) place: Permit,
    /// Given back when the responder has ended.
    pub(super) seat: Permit,
    pub(super) turns: Sender<AnswerTask>,
}

impl TurnPool {
    pub(super) fn new(max: usize) -> Self {
        let seats_max = max.saturating_mul(2);
        let (send, turns) = bounded(seats_max);
        let (alive, ended) = bounded(0);
        let threads = PoolThreads { started: Vec::new(), open: Some(PoolSenders { turns: send, alive }) };
        let (places, seats) = (Semaphore::new(max), Semaphore::new(seats_max));
        Self { places, seats, threads: Mutex::new(threads), turns, ended }
    }

    fn threads(&self) -> MutexGuard<'_, PoolThreads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a slot, with a thread for it. If all are taken, `make_way` may hand one over.
    ///
    /// # Errors
    /// [`TurnError::AtCap`] if all slots are taken or the system gives no more threads; [`TurnError::Stopping`].
    pub(super) fn reserve(&self, make_way: impl FnOnce() -> Option<Permit>) -> Result<ResponderSlot, TurnError> {
        let seat = self.seats.try_acquire().ok_or(TurnError::AtCap)?;
        let place = self.places.try_acquire().or_else(make_way).ok_or(TurnError::AtCap)?;
        let mut threads = self.threads();
        let Some(PoolSenders { turns, alive }) = &threads.open else { return Err(TurnError::Stopping) };
        let slot = ResponderSlot { place, seat, turns: turns.clone() };
        if threads.started.len() < self.seats.taken() {
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

fn answer(turns: &Receiver<AnswerTask>, _alive: &Sender<()>) {
    for turn in turns {
        // A turn that panics has told its followers.
        let _ = catch_unwind(AssertUnwindSafe(turn));
    }
}
