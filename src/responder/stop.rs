//! The stop signal of an answer: set by the turn, checked by the responder.
//!
//! Knows nothing of turns.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Set once, never unset; clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn word(&self) -> MutexGuard<'_, bool> {
        self.0.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it.
    pub fn set(&self) {
        *self.word() = true;
        self.0.changed.notify_all();
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.word()
    }

    /// Waits until it is set or `until` has passed; returns whether it is set.
    #[must_use]
    pub fn wait(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.0.changed.wait_timeout_while(self.word(), left, |is_set| !*is_set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_waits_is_woken_and_who_comes_later_does_not_wait() {
        let stop = Stop::default();
        assert!(!stop.wait(Instant::now()) && !stop.is_set());
        let waiter = {
            let stop = stop.clone();
            std::thread::spawn(move || stop.wait(Instant::now() + Duration::from_secs(60)))
        };
        stop.set();
        assert!(waiter.join().unwrap() && stop.is_set());
    }
}
