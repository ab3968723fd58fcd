//! A thread that runs until it is told to stop, and stops the process in order if it panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::signals::Stopper;
use crate::thread;

/// A thread that runs until it is told to stop.
pub(super) struct Background {
    name: &'static str,
    thread: JoinHandle<()>,
    /// Dropped to stop it.
    stop: Sender<()>,
    /// Closes when the thread ends.
    ended: Receiver<()>,
}

impl Background {
    /// Starts a thread whose panic stops the process in order.
    pub(super) fn start(
        name: &'static str,
        stopper: &Stopper,
        run: impl FnOnce(&Receiver<()>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = bounded(0);
        let (ends, ended) = bounded::<()>(0);
        let stopper = stopper.clone();
        let thread = thread::spawn(name, move || {
            let _ends = ends;
            if catch_unwind(AssertUnwindSafe(|| run(&stopped))).is_err() {
                stopper.fatal(format!("the thread {name} panicked"));
            }
        });
        let thread = thread.with_context(|| format!("the thread {name} cannot be started"))?;
        Ok(Self { name, thread, stop, ended })
    }

    /// Stops it and waits for it, up to the deadline: a thread that hangs, most likely on a dead disk, must not keep
    /// the process for ever.
    pub(super) fn stop(self, deadline: Instant) {
        drop(self.stop);
        // Nothing is sent: the channel closes when the thread ends.
        if self.ended.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            log::error!("the thread {} did not end by the deadline and is abandoned", self.name);
            return;
        }
        // It caught its own panic.
        let _ = self.thread.join();
    }
}
