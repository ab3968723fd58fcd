//! The thread `janitor`: what must be done now and then and may never hold up a request: the journal's next segment, zeroed
//! ahead, a failed journal's way back, and once an hour the removal of what has expired (`janitor/sweeper.rs`).
//!
//! The journal comes first: a sweep goes in steps, and between two of them the bell is listened to, and the stop.
//!
//! Knows nothing of requests, and holds no lock while it writes but the one that keeps transcripts from being mended
//! meanwhile.

mod sweeper;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, select};

use crate::journal::Journal;

pub use sweeper::Sweeper;

/// Between two looks at a journal that cannot be written.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks when nothing is wrong.
const IDLE: Duration = Duration::from_secs(60);

/// Runs until `stop` has no sender any more.
pub fn run(journal: &Arc<Journal>, mut sweeper: Sweeper, stop: &Receiver<()>) {
    let mut failing = false;
    let mut tend_at = Instant::now();
    loop {
        if tend_at <= Instant::now() {
            let tended = journal.tend();
            match &tended {
                Ok(()) if failing => log::info!("the journal's next segment is ready again"),
                Err(e) if !failing => log::warn!("the journal's next segment cannot be made ready: {e}"),
                _ => {}
            }
            failing = tended.is_err();
            tend_at = Instant::now() + if failing || !journal.is_ready() { RETRY } else { IDLE };
        }
        // A long transcript may be half copied when the server is to stop.
        sweeper.work(Instant::now(), &|| stop.try_recv() != Err(TryRecvError::Disconnected));
        let wait = tend_at.min(sweeper.next()).saturating_duration_since(Instant::now());
        select! {
            recv(journal.bell()) -> _ => tend_at = Instant::now(),
            recv(stop) -> _ => return,
            default(wait) => {}
        }
    }
}
