//! Which loops of the process turn: what a watchdog asks before it is fed.
//!
//! A loop says when it waits for others ([`waits`]: a client, a record, MongoDB) and is otherwise expected to come round.
//! Each call of the disk counts as coming round, so that a long walk does, however slow the disk; one call that does not
//! return does not. The list of loops is the process's, like its log: parts come and go, and one watchdog asks for all.
//!
//! Knows nothing of what loops do, nor of who asks.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

/// One loop. It is watched until it is dropped.
#[derive(Debug)]
pub struct Pulse {
    name: String,
    /// Milliseconds from [`start`] to when it last came round, plus one; 0: it waits for others.
    at: AtomicU64,
}

static PULSES: Mutex<Vec<Weak<Pulse>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

fn pulses() -> MutexGuard<'static, Vec<Weak<Pulse>>> {
    PULSES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The beginning of the count.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn millis() -> u64 {
    start().elapsed().as_millis() as u64 + 1
}

/// This thread runs a loop until it is dropped.
#[derive(Debug)]
#[must_use = "the loop is left when this is dropped"]
pub struct RunningLoop {
    mine: Arc<Pulse>,
    before: Option<Arc<Pulse>>,
}

impl Pulse {
    /// A loop that waits.
    pub fn new(name: impl Into<String>) -> Arc<Self> {
        let pulse = Arc::new(Self { name: name.into(), at: AtomicU64::new(0) });
        let mut pulses = pulses();
        pulses.retain(|pulse| pulse.strong_count() > 0);
        pulses.push(Arc::downgrade(&pulse));
        pulse
    }

    /// Has this thread run the loop. At most one thread does at a time.
    pub fn enter(self: &Arc<Self>) -> RunningLoop {
        self.beat();
        let before = MINE.try_with(|mine| mine.replace(Some(self.clone()))).ok().flatten();
        RunningLoop { mine: self.clone(), before }
    }

    fn beat(&self) {
        self.at.store(millis(), Ordering::Relaxed);
    }

    /// For how long it has not come round, if it does not wait.
    fn stands(&self) -> Duration {
        match self.at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => Duration::from_millis(millis().saturating_sub(at)),
        }
    }
}

impl Drop for RunningLoop {
    fn drop(&mut self) {
        self.mine.at.store(0, Ordering::Relaxed);
        if let Some(before) = &self.before {
            before.beat();
        }
        let _ = MINE.try_with(|mine| mine.replace(self.before.take()));
    }
}

/// The loop of this thread, if it runs one, has come round.
pub fn beat() {
    with_mine(Pulse::beat);
}

/// Waits for others by `wait`: meanwhile the loop of this thread counts as turning.
pub fn waits<T>(wait: impl FnOnce() -> T) -> T {
    with_mine(|mine| mine.at.store(0, Ordering::Relaxed));
    let waited = wait();
    beat();
    waited
}

fn with_mine(call: impl FnOnce(&Pulse)) {
    let _ = MINE.try_with(|mine| mine.borrow().as_deref().map(call));
}

/// The loop that has stood still longest, if that is longer than `most`, and for how long.
#[must_use]
pub fn stuck(most: Duration) -> Option<(String, Duration)> {
    let live: Vec<Arc<Pulse>> = pulses().iter().filter_map(Weak::upgrade).collect();
    let stuck = live.iter().map(|pulse| (pulse.name.clone(), pulse.stands())).filter(|(_, stands)| *stands > most);
    stuck.max_by_key(|(_, stands)| *stands)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long `name` stands; other tests of this process have loops of their own.
    fn stands(name: &str) -> Option<Duration> {
        let live: Vec<Arc<Pulse>> = pulses().iter().filter_map(Weak::upgrade).collect();
        live.iter().find(|pulse| pulse.name == name).map(|pulse| pulse.stands())
    }

    fn age(pulse: &Pulse, seconds: u64) {
        start();
        let at = pulse.at.load(Ordering::Relaxed);
        // As if the count had begun earlier.
        pulse.at.store(at.saturating_sub(1000 * seconds).max(1), Ordering::Relaxed);
    }

    fn wait_a_moment() {
        let until = Instant::now() + Duration::from_millis(30);
        while Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_loop_stands_while_it_neither_waits_nor_comes_round() {
        let pulse = Pulse::new("a test's loop");
        assert_eq!(stands("a test's loop"), Some(Duration::ZERO));
        let running = pulse.enter();
        wait_a_moment();
        age(&pulse, 3600);
        let (most, name) = (Duration::from_millis(20), "a test's loop");
        assert!(stands(name) > Some(most) && stuck(most).is_some());
        // However long this thread is kept from running, it stands no longer than since then.
        let is_fresh = |since: Instant| stands(name) <= Some(since.elapsed() + Duration::from_millis(1));
        let since = Instant::now();
        beat();
        assert!(is_fresh(since));
        waits(|| {
            wait_a_moment();
            assert_eq!(stands(name), Some(Duration::ZERO));
        });
        // What it does for another loop counts for that one.
        let inner = Pulse::new("its inner loop");
        let inside = inner.enter();
        wait_a_moment();
        assert!(stands("its inner loop") > Some(most) && stands(name) > Some(most));
        let since = Instant::now();
        drop(inside);
        assert!(is_fresh(since));
        drop(running);
        wait_a_moment();
        assert_eq!(stands(name), Some(Duration::ZERO));
        drop((pulse, inner));
        assert_eq!(stands(name), None);
    }
}
