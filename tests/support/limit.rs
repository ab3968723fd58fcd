//! An end in time for child processes: whoever reads what one says, or waits for it, is not kept for ever.

use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::WAIT_TIMEOUT;

/// Kills a child that still runs when its time is over; dropped before, it lets it live.
///
/// The test then fails by what is missing: what the child did not say, or an exit code.
pub struct Limit(#[allow(dead_code, reason = "it is dropped, no more")] Sender<()>);

impl Limit {
    /// On a child that is waited for, if at all, right before this is dropped.
    pub fn on(child: &Child) -> Self {
        Self::within(child, WAIT_TIMEOUT)
    }

    /// The same with another time.
    pub fn within(child: &Child, time: Duration) -> Self {
        let (alive, ended) = channel::<()>();
        let pid = Pid::from_child(child);
        std::thread::spawn(move || {
            if ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self(alive)
    }
}
