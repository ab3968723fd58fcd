//! The threads that answer: at most so many, started when they are first needed, each for one turn at a time.
//!
//! A place is reserved before anything of a turn is recorded, and brings its thread with it, so that what is recorded is
//! also answered. A thread that gives its place back early, before it is quite done, makes the next one wait for that
//! little.
//!
//! Knows nothing of turns.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::thread;

use super::turn::NoTurn;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// See the module.
pub(super) struct Pool {
    inner: Mutex<Inner>,
    max: usize,
    jobs: Receiver<Job>,
    /// Ends when every thread has.
    ended: Receiver<()>,
}

struct Inner {
    busy: usize,
    threads: Vec<JoinHandle<()>>,
    /// `None` once closed.
    open: Option<Open>,
}

struct Open {
    /// Holds a job for each place, so it is never full; who has a place need not wait to hand its job over.
    jobs: Sender<Job>,
    /// Nothing is sent: each thread holds one, and their end is the threads'.
    alive: Sender<()>,
}

/// A place, given back when it is dropped.
pub(super) struct Slot(Arc<Pool>);

impl Pool {
    pub(super) fn new(max: usize) -> Self {
        let (send, jobs) = bounded(max);
        let (alive, ended) = bounded(0);
        let open = Some(Open { jobs: send, alive });
        Self { inner: Mutex::new(Inner { busy: 0, threads: Vec::new(), open }), max, jobs, ended }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, with a thread for it.
    ///
    /// # Errors
    /// [`NoTurn::AtCap`], also when the system has no thread left; [`NoTurn::Stopping`].
    pub(super) fn reserve(self: &Arc<Self>) -> Result<Slot, NoTurn> {
        let mut inner = self.inner();
        let alive = inner.open.as_ref().ok_or(NoTurn::Stopping)?.alive.clone();
        if inner.busy == self.max {
            return Err(NoTurn::AtCap);
        }
        if inner.threads.len() == inner.busy {
            let (jobs, name) = (self.jobs.clone(), format!("responder-{}", inner.threads.len()));
            let started = thread::spawn(name, move || run(&jobs, &alive)).map_err(|e| {
                log::warn!("no thread for an answer: {e}");
                NoTurn::AtCap
            })?;
            inner.threads.push(started);
        }
        inner.busy += 1;
        Ok(Slot(Arc::clone(self)))
    }

    /// Has a job run on a thread, for who has a place. Once the pool is closed the job is dropped instead.
    pub(super) fn run(&self, job: Job) {
        let jobs = self.inner().open.as_ref().map(|open| open.jobs.clone());
        if let Some(jobs) = jobs {
            let _ = jobs.try_send(job);
        }
    }

    /// Places that are taken.
    pub(super) fn busy(&self) -> usize {
        self.inner().busy
    }

    /// The most places.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Ends the threads and joins them; those that have not ended by `deadline` are left. Returns whether any was.
    pub(super) fn close(&self, deadline: Instant) -> bool {
        let threads = {
            let mut inner = self.inner();
            inner.open = None;
            std::mem::take(&mut inner.threads)
        };
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Timeout) {
            return true;
        }
        for thread in threads {
            // It caught its own panics.
            let _ = thread.join();
        }
        false
    }
}

fn run(jobs: &Receiver<Job>, _alive: &Sender<()>) {
    for job in jobs {
        // A job that panics has said so to whoever waits for it.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.inner().busy -= 1;
    }
}
