//! Limits how many do something at once.
//!
//! A permit is never waited for: when all are taken, the caller tells its client. Not for queues and tables, which have
//! an order or entries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts permits, up to a limit.
#[derive(Debug)]
pub struct Semaphore {
    taken: AtomicUsize,
    max: usize,
}

/// One of them, given back when it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Semaphore>);

impl Semaphore {
    /// At most `max` permits at once.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max })
    }

    /// A permit, unless all are taken.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let one_more = |taken| (taken < self.max).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        taken.ok().map(|_| Permit(Arc::clone(self)))
    }

    /// How many are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_permits_as_said_and_each_comes_back() {
        let semaphore = Semaphore::new(2);
        let (first, second) = (semaphore.try_acquire(), semaphore.try_acquire());
        assert!(first.is_some() && second.is_some() && semaphore.try_acquire().is_none());
        drop(first);
        assert_eq!(semaphore.taken(), 1);
        assert!(semaphore.try_acquire().is_some());
    }

    #[test]
    fn of_many_who_ask_at_once_no_more_get_one() {
        let semaphore = Semaphore::new(3);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let permit = semaphore.try_acquire();
                        assert!(semaphore.taken() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(semaphore.taken(), 0);
    }
}
