//! The thread `janitor`: background work that must never delay a request. It zeroes the journal's next segment in
//! advance, repairs a failed journal, scrubs what was erased (`janitor/scrubber.rs`), and once an hour removes what has
//! expired (`janitor/sweeper.rs`), the first time an hour after it was announced (`janitor/first_sweep.rs`).
//!
//! The journal comes first: a sweep goes in steps, and between two steps the thread checks the waker and the stop.
//!
//! Knows nothing of requests. While it writes it holds only the lock that keeps transcripts from being repaired at the
//! same time.

#[cfg(test)]
mod erasure_tests;
mod first_sweep;
mod scrubber;
mod sweeper;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, select};

use crate::backoff::Backoff;
use crate::journal::Journal;

pub use first_sweep::FirstSweep;
pub use scrubber::Scrubber;
pub use sweeper::{Aside, Sweeper};

/// The interval between two tries to repair a failed journal.
const FAILED_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks when nothing is wrong: so long it may take until a folder that was moved away is noticed.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Runs until the sender of `stop` is dropped.
pub fn run(journal: &Arc<Journal>, mut sweeper: Sweeper, mut scrubber: Scrubber, stop: &Receiver<()>) {
    let mut maintaining = Backoff::new(FAILED_CHECK_INTERVAL, FAILED_CHECK_INTERVAL);
    let mut tend_at = Instant::now();
    loop {
        if tend_at <= Instant::now() {
            let what = "the journal's next segment";
            maintaining.take(
                journal.maintain(),
                &format!("{what} cannot be made ready"),
                &format!("{what} is ready again"),
            );
            let look =
                Instant::now() + if journal.refusal().is_none() { CHECK_INTERVAL } else { FAILED_CHECK_INTERVAL };
            tend_at = maintaining.until().unwrap_or(look);
        }
        // A long transcript may be half copied when the server stops.
        let go_on = || stop.try_recv() != Err(TryRecvError::Disconnected);
        scrubber.work(Instant::now(), &go_on);
        sweeper.work(Instant::now(), &go_on);
        let next = scrubber.next().into_iter().chain([tend_at, sweeper.next()]).min().unwrap_or(tend_at);
        let wait = next.saturating_duration_since(Instant::now());
        select! {
            recv(journal.waker()) -> _ => tend_at = Instant::now(),
            recv(stop) -> _ => return,
            default(wait) => {}
        }
    }
}
