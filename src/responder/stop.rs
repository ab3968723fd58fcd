//! The word that nobody wants an answer any more, from whoever says it to whoever answers.
//!
//! Knows nothing of turns.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Set once, never unset; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Sets it. Returns whether it was not set before.
    pub fn set(&self) -> bool {
        let mut set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !*set;
        *set = true;
        self.0.changed.notify_all();
        first
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is set or `until` has come; says whether it is set.
    #[must_use]
    pub fn wait(&self, until: Instant) -> bool {
        let mut set = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        while !*set {
            let left = until.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return false;
            }
            set = self.0.changed.wait_timeout(set, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_woken_and_who_comes_later_does_not_wait() {
        let stop = Stop::default();
        assert!(!stop.wait(Instant::now()) && !stop.is_set());
        let waiter = {
            let stop = stop.clone();
            std::thread::spawn(move || stop.wait(Instant::now() + Duration::from_secs(60)))
        };
        assert!(stop.set());
        assert!(waiter.join().unwrap() && stop.is_set() && !stop.set());
    }
}
