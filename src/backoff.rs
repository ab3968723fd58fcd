//! Work that is tried again when it fails: how long to wait, and a line in the log when it begins to fail and when it works
//! again.
//!
//! Each pause is twice as long as the one before, up to a limit, and never quite the same, so that many clients of one server
//! do not come back together.

use std::fmt;
use std::time::{Duration, Instant};

/// The longest pause where somebody has to change something first.
const UNTIL_CHANGED_MAX: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// No failure yet; the pauses go from `first` to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0, until: None }
    }

    /// How many failures there were since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it is too early to try again.
    #[must_use]
    pub fn pauses(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// When the pause ends.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// The next try may come at once.
    pub fn end_pause(&mut self) {
        self.until = None;
    }

    /// It worked.
    pub fn succeed(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    /// It failed; `passing` when nothing but time is needed.
    pub fn fail(&mut self, passing: bool) {
        let max = if passing { self.max } else { UNTIL_CHANGED_MAX.max(self.max) };
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        // Half of it for certain, the other half by chance.
        self.until = Some(Instant::now() + whole / 2 + (whole / 2).mul_f64(chance()));
    }

    /// Takes the result of a try that nothing but time is needed for. The first failure is logged as `fails`, and the success
    /// after it as `works`.
    pub fn take<E: fmt::Display>(&mut self, result: Result<(), E>, fails: &str, works: &str) {
        match result {
            Ok(()) if self.failures > 0 => {
                self.succeed();
                log::info!("{works}");
            }
            Ok(()) => {}
            Err(e) => {
                if self.failures == 0 {
                    log::error!("{fails}, trying on: {e}");
                }
                self.fail(true);
            }
        }
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without random bytes a pause is as long as it can be.
    let filled = getrandom::fill(&mut bytes);
    filled.map_or(1.0, |()| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(backoff: &Backoff) -> Duration {
        backoff.until().unwrap().saturating_duration_since(Instant::now())
    }

    #[test]
    fn pauses_grow_to_their_limit_and_end_with_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut longest = Duration::ZERO;
        for n in 0..40 {
            backoff.fail(true);
            let (pause, whole) = (pause(&backoff), Duration::from_millis(100 << n.min(10)).min(Duration::from_secs(5)));
            assert!(pause <= whole && pause + Duration::from_millis(50) >= whole / 2, "{n}: {pause:?}");
            longest = longest.max(pause);
        }
        assert!(longest > Duration::from_secs(3) && backoff.failures() == 40);
        for _ in 0..40 {
            backoff.fail(false);
        }
        assert!(pause(&backoff) > Duration::from_secs(14));
        backoff.succeed();
        assert!(!backoff.pauses() && backoff.failures() == 0);
    }
}
