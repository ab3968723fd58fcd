//! A bound on how many lines of a kind are logged in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets a few lines through each second, for events that may happen thousands of times.
///
/// ```
/// static TOUCHED: chatkeep::logging::Throttle = chatkeep::logging::Throttle::new(3);
/// if let Some(left_out) = TOUCHED.admit() {
///     log::info!("[CHAT CACHE] session touched ({left_out} more left out before)");
/// }
/// ```
#[derive(Debug)]
pub struct Throttle {
    per_second: u32,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

/// What a throttle left out, for the end of a line.
#[must_use]
pub fn others(left_out: u64) -> String {
    if left_out > 0 { format!(" (such lines left out: {left_out})") } else { String::new() }
}

impl Throttle {
    /// Admits at most `per_second` in a second that begins with the first of them.
    #[must_use]
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, window: Mutex::new(Window { since: None, admitted: 0, left_out: 0 }) }
    }

    /// `Some` if this line may be logged, with the number left out since the last one; `None` to leave it out.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    pub(super) fn admit_at(&self, now: Instant) -> Option<u64> {
        // The numbers are valid even after a panic of the last holder.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since: Instant| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if window.since.is_none_or(is_over) {
            window.since = Some(now);
            window.admitted = 0;
        }
        if window.admitted < self.per_second {
            window.admitted += 1;
            Some(std::mem::take(&mut window.left_out))
        } else {
            window.left_out += 1;
            None
        }
    }
}
