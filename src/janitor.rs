//! The thread `janitor`: what must be done now and then and may never hold up a request. So far the journal's next
//! segment, zeroed ahead, and a failed journal's way back.
//!
//! Knows nothing of requests, and holds no lock while it writes.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use crate::journal::Journal;

/// Between two looks at a journal that cannot be written.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks when nothing is wrong.
const IDLE: Duration = Duration::from_secs(300);

/// Runs until `stop` has no sender any more.
pub fn run(journal: &Arc<Journal>, stop: &Receiver<()>) {
    let mut failing = false;
    loop {
        let tended = journal.tend();
        match &tended {
            Ok(()) if failing => log::info!("the journal's next segment is ready again"),
            Err(e) if !failing => log::warn!("the journal's next segment cannot be made ready: {e}"),
            _ => {}
        }
        failing = tended.is_err();
        let wait = if failing || !journal.is_ready() { RETRY } else { IDLE };
        select! {
            recv(journal.bell()) -> _ => {}
            recv(stop) -> _ => return,
            default(wait) => {}
        }
    }
}
