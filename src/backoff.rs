//! Repeated tries after failures: how long to wait, and a log line when they begin to fail and when they work again.
//!
//! Each pause is twice as long as the one before, up to a limit, with a random part, so that many clients of one server
//! do not come back together.

use std::fmt;
use std::time::{Duration, Instant};

/// The longest pause after a failure that an operator must fix.
const UNTIL_CHANGED_MAX: Duration = Duration::from_secs(30);

/// Counts failures and spaces out the tries.
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

    /// Failures since the last success.
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

    /// Allows the next try at once.
    pub fn end_pause(&mut self) {
        self.until = None;
    }

    /// Notes a success.
    pub fn succeed(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    /// Notes a failure; `passing` if time alone can fix it.
    pub fn fail(&mut self, passing: bool) {
        let max = if passing { self.max } else { UNTIL_CHANGED_MAX.max(self.max) };
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        // Half of it fixed, half of it random.
        self.until = Some(Instant::now() + whole / 2 + (whole / 2).mul_f64(chance()));
    }

    /// Takes the result of a try; time alone can fix its failures. Logs the first failure as `fails`, and the success
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

/// A random number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without random bytes the pause has its full length.
    let filled = getrandom::fill(&mut bytes);
    filled.map_or(1.0, |()| f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_end_with_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut longest = Duration::ZERO;
        for n in 0..40 {
            let before = Instant::now();
            backoff.fail(true);
            let (until, after) = (backoff.until().unwrap(), Instant::now());
            let whole = Duration::from_millis(100 << n.min(10)).min(Duration::from_secs(5));
            assert!((before + whole / 2..=after + whole).contains(&until), "{n}: {:?}", until - before);
            longest = longest.max(until - before);
        }
        assert!(longest > Duration::from_secs(3) && backoff.failures() == 40);
        let before = Instant::now();
        for _ in 0..40 {
            backoff.fail(false);
        }
        assert!(backoff.until().unwrap() - before > Duration::from_secs(14));
        backoff.succeed();
        assert!(!backoff.pauses() && backoff.failures() == 0);
    }
}
