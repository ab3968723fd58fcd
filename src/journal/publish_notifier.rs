//! Waiting for the next publication: for readers at the journal's end. Without waiters it costs the write path almost
//! nothing, with waiters little.
//!
//! The leader reads one atomic word after each batch. Only if a thread has gone to sleep since the last wake-up does it
//! take the lock and wake all, with one system call. Threads that are awake, reading or collecting, are not woken.
//!
//! Invariant: a waiter sets the word before it looks at what is published, and the leader reads the word after it has
//! published; so one of the two sees the other. Knows nothing of records.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// More was published.
    Arrived,
    /// The deadline passed.
    Late,
    /// The server stops; every wait ends.
    Stopped,
}

/// Lets readers wait for publications.
#[derive(Default)]
pub struct PublishNotifier {
    /// A thread has gone to sleep since the last wake-up.
    armed: AtomicBool,
    ended: AtomicBool,
    lock: Mutex<()>,
    woken: Condvar,
    /// For threads that wait only for a deadline or the stop.
    stop: Condvar,
}

impl PublishNotifier {
    /// Wakes the waiters after `published` has advanced. The leader calls it.
    pub(super) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::SeqCst) {
            // A waiter between its look and its sleep holds the lock.
            drop(self.lock.lock().expect("no holder panics"));
            self.woken.notify_all();
        }
    }

    /// Sleeps until `has_come`, at most until `until`.
    pub fn wait(&self, until: Instant, has_come: impl Fn() -> bool) -> Woken {
        let mut guard = self.lock.lock().expect("no holder panics");
        loop {
            self.armed.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if has_come() {
                return Woken::Arrived;
            }
            if self.has_ended() {
                return Woken::Stopped;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Late;
            }
            guard = self.woken.wait_timeout(guard, left).expect("no holder panics").0;
        }
    }

    /// Sleeps until `until` or the stop, whatever is published.
    pub fn pause(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let guard = self.lock.lock().expect("no holder panics");
        drop(self.stop.wait_timeout_while(guard, left, |()| !self.has_ended()));
    }

    /// Ends every wait, also those that begin later.
    pub fn end(&self) {
        // Under the lock, so that a waiter between its look and its sleep is not missed.
        let guard = self.lock.lock().expect("no holder panics");
        self.ended.store(true, Ordering::SeqCst);
        drop(guard);
        self.woken.notify_all();
        self.stop.notify_all();
    }

    /// Whether [`PublishNotifier::end`] was called.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether the next wake-up would wake a thread, for a test.
    #[cfg(test)]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;

    const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn no_arrival_is_missed_however_the_two_meet() {
        let (publish_notifier, published) = (Arc::new(PublishNotifier::default()), Arc::new(AtomicU64::new(0)));
        let seen = Arc::new(AtomicU64::new(0));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let (publish_notifier, published, seen) = (publish_notifier.clone(), published.clone(), seen.clone());
                std::thread::spawn(move || {
                    for n in 1..=3000 {
                        let woken = publish_notifier
                            .wait(Instant::now() + WAIT_TIMEOUT, || published.load(Ordering::Acquire) >= n);
                        assert_eq!(woken, Woken::Arrived, "{n}");
                        seen.fetch_max(n, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for n in 1..=3000 {
            published.store(n, Ordering::Release);
            publish_notifier.wake();
            // Every seventh time it waits until a waiter has seen the last one and is asleep, or nearly.
            while n % 7 == 0 && seen.load(Ordering::SeqCst) < n {
                std::thread::yield_now();
            }
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
    }

    #[test]
    fn nobody_is_rung_for_unless_somebody_sleeps() {
        let publish_notifier = PublishNotifier::default();
        publish_notifier.wake();
        assert!(!publish_notifier.is_armed());
        assert_eq!(publish_notifier.wait(Instant::now(), || false), Woken::Late);
        assert!(publish_notifier.is_armed());
        publish_notifier.wake();
        assert!(!publish_notifier.is_armed());
    }

    #[test]
    fn the_end_ends_every_wait_now_and_later() {
        let publish_notifier = Arc::new(PublishNotifier::default());
        let (one, two) = (publish_notifier.clone(), publish_notifier.clone());
        let waiting = std::thread::spawn(move || one.wait(Instant::now() + WAIT_TIMEOUT, || false));
        let pausing = std::thread::spawn(move || two.pause(Instant::now() + WAIT_TIMEOUT));
        let began = Instant::now();
        // Most likely both sleep by then; they must see the end in any case.
        std::thread::park_timeout(Duration::from_millis(20));
        publish_notifier.end();
        assert_eq!(waiting.join().unwrap(), Woken::Stopped);
        pausing.join().unwrap();
        assert_eq!(publish_notifier.wait(Instant::now() + WAIT_TIMEOUT, || false), Woken::Stopped);
        publish_notifier.pause(Instant::now() + WAIT_TIMEOUT);
        assert!(publish_notifier.has_ended() && began.elapsed() < WAIT_TIMEOUT / 2);
    }
}
