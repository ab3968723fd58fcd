//! Limits how many do something at once, or how much they hold together.
//!
//! A permit is never waited for: when all are taken, the caller tells its client. Not for queues and tables, which have
//! an order or entries.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts permits, up to a limit.
#[derive(Debug)]
pub struct Semaphore {
    taken: AtomicUsize,
    max: AtomicUsize,
}

/// One of them or several, given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    semaphore: Arc<Semaphore>,
    count: usize,
}

impl Semaphore {
    /// At most `max` permits at once.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    /// A permit, unless all are taken.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.try_acquire_many(1)
    }

    /// So many at once, unless fewer are left. Of none there are always enough.
    #[must_use]
    pub fn try_acquire_many(self: &Arc<Self>, count: usize) -> Option<Permit> {
        self.take(count).then(|| Permit { semaphore: Arc::clone(self), count })
    }

    fn take(&self, count: usize) -> bool {
        let more = |taken: usize| taken.checked_add(count).filter(|taken| *taken <= self.max());
        count == 0 || self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Sets the limit; permits beyond it stay valid until they come back.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::SeqCst);
    }

    /// How many there are.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.load(Ordering::SeqCst)
    }

    /// How many are taken now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Permit {
    /// Makes it one of so many. `false`: fewer are left, and it stays as it is.
    #[must_use]
    pub fn resize(&mut self, count: usize) -> bool {
        let is_had = self.semaphore.take(count.saturating_sub(self.count));
        if is_had {
            self.semaphore.taken.fetch_sub(self.count.saturating_sub(count), Ordering::SeqCst);
            self.count = count;
        }
        is_had
    }
}

/// Bytes that may count among those that others hold at the same time.
#[derive(Debug, Default)]
pub struct HeldBytes {
    bytes: Vec<u8>,
    permit: Option<Permit>,
}

impl HeldBytes {
    /// To append to; afterwards they are counted, where they count.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Counts all that are there now among those of `held`, until this is dropped or cleared. `false`: that many are not
    /// left.
    #[must_use]
    pub fn count(&mut self, held: &Arc<Semaphore>) -> bool {
        if self.permit.is_none() {
            self.permit = held.try_acquire_many(0);
        }
        self.permit.as_mut().is_some_and(|permit| permit.resize(self.bytes.len()))
    }

    /// Leaves nothing, and no buffer of more than `kept` bytes.
    pub fn clear(&mut self, kept: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(kept);
        self.permit = None;
    }
}

impl Deref for HeldBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for HeldBytes {
    /// Bytes that do not count.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, permit: None }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.taken.fetch_sub(self.count, Ordering::SeqCst);
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
    fn a_permit_of_many_grows_and_shrinks_within_the_bound() {
        let semaphore = Semaphore::new(10);
        let mut permit = semaphore.try_acquire_many(4).unwrap();
        let none = semaphore.try_acquire_many(0).unwrap();
        assert!(semaphore.try_acquire_many(7).is_none() && semaphore.try_acquire_many(usize::MAX).is_none());
        assert!(permit.resize(10) && !permit.resize(11) && semaphore.taken() == 10);
        assert!(permit.resize(3) && semaphore.taken() == 3);
        drop((permit, none));
        assert_eq!(semaphore.taken(), 0);
    }

    #[test]
    fn bytes_count_as_they_grow_and_come_back_when_they_are_cleared() {
        let (held, mut bytes) = (Semaphore::new(10), HeldBytes::default());
        bytes.bytes().extend_from_slice(&[0; 6]);
        assert!(held.taken() == 0 && bytes.count(&held) && held.taken() == 6);
        let mut others = HeldBytes::from(vec![0; 5]);
        assert!(!others.count(&held) && held.taken() == 6);
        bytes.bytes().extend_from_slice(&[0; 5]);
        assert!(!bytes.count(&held) && bytes.len() == 11 && held.taken() == 6);
        bytes.clear(0);
        assert!(bytes.is_empty() && others.count(&held) && held.taken() == 5);
        drop(others);
        assert_eq!(held.taken(), 0);
    }

    #[test]
    fn a_limit_that_changes_holds_for_the_next_permit() {
        let semaphore = Semaphore::new(1);
        let first = semaphore.try_acquire();
        semaphore.set_max(2);
        let second = semaphore.try_acquire();
        semaphore.set_max(1);
        assert!(second.is_some() && semaphore.try_acquire().is_none());
        drop(first);
        assert!(semaphore.try_acquire().is_none() && semaphore.taken() == 1, "one is taken still");
        drop(second);
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
